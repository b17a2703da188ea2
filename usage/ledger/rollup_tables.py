"""Which rollups there are: what their rows are told apart by, the sizes of their buckets, and what they sum up.

Five levels, each in some sizes of bucket (usage/ledger/buckets.py):

    usage_rollup_quarter, usage_rollup_day            by user, feature, plan, run and model
    usage_user_day, usage_user_month                  by user, feature, plan and model
    usage_whole_user_day, usage_whole_user_month      by user alone: who used most is found in few rows
    usage_whole_run_quarter, usage_whole_run_day      by run alone
    usage_total_quarter, usage_total_day              by feature, plan and model, of all users

Runs have a row each beside these, of no bucket (usage/ledger/whole_runs.py). What was used beside text tokens stands in
twins of these tables (usage/ledger/quantity_rollups.py).
"""

from __future__ import annotations

from usage.ledger.buckets import Size
from usage.ledger.rows import UNPRICED_CALLS
from usage.metrics import COLUMNS, TOKEN_PARTS

# What is summed up, and from what.
SUMS: dict[str, str] = {
    "events": "count(*)",
    **{column: f"coalesce(sum({column}), 0)" for column in (*COLUMNS, *TOKEN_PARTS)},
    # Rows that are not, or not wholly, priced; an estimate that was taken back is not there any more, nor a call that
    # was re-priced.
    "unpriced": f"coalesce(sum({UNPRICED_CALLS}), 0)",
}
RUN_KEY = ("user_id", "feature", "plan", "run_id", "model")
USER_KEY = ("user_id", "feature", "plan", "model")
WHOLE_USER_KEY = ("user_id",)
WHOLE_RUN_KEY = ("run_id",)
TOTAL_KEY = ("feature", "plan", "model")
# Each table, the size of its buckets and what its rows are told apart by.
TABLES: dict[str, tuple[Size, tuple[str, ...]]] = {
    "usage_rollup_quarter": (Size.QUARTER, RUN_KEY),
    "usage_rollup_day": (Size.DAY, RUN_KEY),
    "usage_user_day": (Size.DAY, USER_KEY),
    "usage_user_month": (Size.MONTH, USER_KEY),
    "usage_whole_user_day": (Size.DAY, WHOLE_USER_KEY),
    "usage_whole_user_month": (Size.MONTH, WHOLE_USER_KEY),
    "usage_whole_run_quarter": (Size.QUARTER, WHOLE_RUN_KEY),
    "usage_whole_run_day": (Size.DAY, WHOLE_RUN_KEY),
    "usage_total_quarter": (Size.QUARTER, TOTAL_KEY),
    "usage_total_day": (Size.DAY, TOTAL_KEY),
}
# Of which days a month is the sum.
DAYS = {"usage_user_month": "usage_user_day", "usage_whole_user_month": "usage_whole_user_day"}
# In which bucket of a size a row lies.
BUCKETS: dict[Size, str] = {
    Size.QUARTER: "date_bin('15 minutes', charged_at, '2000-01-01 00:00+00')",
    Size.DAY: "date_trunc('day', charged_at, 'UTC')",
    Size.MONTH: "date_trunc('month', charged_at, 'UTC')",
}


def digest(key: tuple[str, ...]) -> str:
    """The names of a row in 16 bytes, for five long ones do not fit into an index. Lengths keep ("a", "bc") apart."""
    lengths = " || ' ' || ".join(f"length({name})" for name in key)
    return f"substr(sha256(convert_to({lengths} || ':' || {' || '.join(key)}, 'UTF8')), 1, 16)"
