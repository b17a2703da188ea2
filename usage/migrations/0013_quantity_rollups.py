"""Sums of searches, seconds and whatever else stands in the map of quantities; of what is rolled up. In SQL, as 0006.

A roll of the version before would leave them out. It says that there are 11 tables, which the mark refuses now, so it
fails and is tried again until that version is gone; what it would have rolled up is read from the ledger meanwhile.
Reports go on. The ledger is read once, for its few rows with a map.
"""

from django.db import migrations

RUN = ("user_id", "feature", "plan", "run_id", "model")
USER = ("user_id", "feature", "plan", "model")
TOTAL = ("feature", "plan", "model")
QUARTER = "date_bin('15 minutes', charged_at, '2000-01-01 00:00+00')"
DAY = "date_trunc('day', start, 'UTC')"
MONTH = "date_trunc('month', start, 'UTC')"
# Each with what it is the sum of, and its buckets in that: the ledger first, then always the finer one.
TABLES = {
    "usage_rollup_quarter": (RUN, "", QUARTER),
    "usage_rollup_day": (RUN, "usage_rollup_quarter", DAY),
    "usage_user_day": (USER, "usage_rollup_day", "start"),
    "usage_user_month": (USER, "usage_user_day", MONTH),
    "usage_whole_user_day": (("user_id",), "usage_user_day", "start"),
    "usage_whole_user_month": (("user_id",), "usage_whole_user_day", MONTH),
    "usage_whole_run_quarter": (("run_id",), "usage_rollup_quarter", "start"),
    "usage_whole_run_day": (("run_id",), "usage_rollup_day", "start"),
    "usage_total_quarter": (TOTAL, "usage_rollup_quarter", "start"),
    "usage_total_day": (TOTAL, "usage_rollup_day", "start"),
}


def table(name):
    names, _, _ = TABLES[name]
    columns = "".join(f"    {each} varchar(255) NOT NULL,\n" for each in names)
    of_user = f"CREATE INDEX {name}_quantity_user ON {name}_quantity (environment_id, user_id, start);"
    of_run = f"CREATE INDEX {name}_quantity_run ON {name}_quantity (environment_id, run_id, start)"
    return f"""
CREATE TABLE {name}_quantity (
    environment_id bigint NOT NULL,
    start timestamptz NOT NULL,
    -- Of the names below.
    digest bytea NOT NULL,
{columns}    quantity varchar(40) NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (environment_id, start, digest)
-- A row of today is changed by each roll that has calls of it.
) WITH (fillfactor = 80);
{of_user if "user_id" in names else ""}
{f"{of_run} WHERE run_id <> '';" if "run_id" in names else ""}
"""


def filled(name):
    names, of, start = TABLES[name]
    key = (*names, "quantity")
    lengths = " || ' ' || ".join(f"length({each})" for each in key)
    digest = f"substr(sha256(convert_to({lengths} || ':' || {' || '.join(key)}, 'UTF8')), 1, 16)"
    rows = f"(SELECT environment_id, {start} AS bucket, {', '.join(key)}, amount FROM {of}_quantity) AS of_it"
    if not of:
        rows = f"""(
    SELECT event.environment_id, {start} AS bucket, {", ".join(names)}, measured.quantity,
        CASE status WHEN 'reversal' THEN -1 ELSE 1 END * measured.number::bigint AS amount
    FROM usage_event AS event JOIN usage_rollup_mark AS mark ON mark.environment_id = event.environment_id
    CROSS JOIN LATERAL jsonb_each_text(quantities) AS measured (quantity, number)
    -- A restored database has rows after the last id whose transactions have lower numbers, and are not rolled up.
    WHERE quantities IS NOT NULL
      AND (event.id <= mark.floor_id OR event.xid < mark.xid AND event.id <= mark.last_id)
) AS of_it"""
    return f"""
INSERT INTO {name}_quantity (environment_id, start, digest, {", ".join(key)}, amount)
SELECT environment_id, bucket, {digest}, {", ".join(key)}, sum(amount)
FROM {rows} GROUP BY environment_id, bucket, {", ".join(key)} ORDER BY 1, 2, 3;
"""


FILL = "".join(map(filled, TABLES))
FORWARDS = f"""
LOCK TABLE usage_rollup_mark IN EXCLUSIVE MODE;
{"".join(map(table, TABLES))}
-- Which of them an environment has used at all.
CREATE INDEX usage_total_day_quantity_name ON usage_total_day_quantity (environment_id, quantity);
{FILL}
ALTER TABLE usage_rollup_mark DROP CONSTRAINT usage_rollup_mark_tables;
UPDATE usage_rollup_mark SET tables = 21;
ALTER TABLE usage_rollup_mark ADD CONSTRAINT usage_rollup_mark_tables CHECK (tables = 21);
"""

BACKWARDS = f"""
DROP TABLE {", ".join(f"{name}_quantity" for name in TABLES)};
ALTER TABLE usage_rollup_mark DROP CONSTRAINT usage_rollup_mark_tables;
UPDATE usage_rollup_mark SET tables = 11;
ALTER TABLE usage_rollup_mark ADD CONSTRAINT usage_rollup_mark_tables CHECK (tables = 11);
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0012_whole_runs")]
    operations = [migrations.RunSQL(FORWARDS, BACKWARDS)]
