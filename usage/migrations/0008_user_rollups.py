"""Sums of users by day and month, without their runs; those of the days that are rolled up. In SQL, as 0006.

A roll of the version before would leave them out. It cannot set `tables` of the mark, so it fails and is tried again
until that version is gone; what it would have rolled up is read from the ledger meanwhile.
"""

from django.db import migrations

NAMES = ("user_id", "feature", "plan", "model")
SUMS = (
    "events",
    "requests",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_nano",
    "unpriced",
)
NAMED, SUMMED = ", ".join(NAMES), ", ".join(f"sum({name})" for name in SUMS)
LENGTHS = " || ' ' || ".join(f"length({name})" for name in NAMES)
DIGEST = f"substr(sha256(convert_to({LENGTHS} || ':' || {' || '.join(NAMES)}, 'UTF8')), 1, 16)"


def table(size):
    names = "".join(f"    {name} varchar(255) NOT NULL,\n" for name in NAMES)
    sums = "".join(
        f"    {name} {'numeric' if name == 'cost_nano' else 'bigint'} NOT NULL,\n" for name in SUMS
    )
    return f"""
CREATE TABLE usage_user_{size} (
    environment_id bigint NOT NULL,
    start timestamptz NOT NULL,
    -- Of the names below.
    digest bytea NOT NULL,
{names}{sums}    PRIMARY KEY (environment_id, start, digest)
-- A row of today is changed by each roll that has calls of its user.
) WITH (fillfactor = 80);
CREATE INDEX usage_user_{size}_user ON usage_user_{size} (environment_id, user_id, start);
"""


FORWARDS = f"""
LOCK TABLE usage_rollup_mark IN EXCLUSIVE MODE;
{table("day")}
{table("month")}
INSERT INTO usage_user_day (environment_id, start, digest, {NAMED}, {", ".join(SUMS)})
SELECT environment_id, start, {DIGEST}, {NAMED}, {SUMMED} FROM usage_rollup_day GROUP BY environment_id, start, {NAMED}
ORDER BY 1, 2, 3;

INSERT INTO usage_user_month (environment_id, start, digest, {NAMED}, {", ".join(SUMS)})
SELECT environment_id, date_trunc('month', start, 'UTC'), digest, {NAMED}, {SUMMED} FROM usage_user_day
GROUP BY 1, 2, 3, {NAMED} ORDER BY 1, 2, 3;

-- How many tables a roll fills.
ALTER TABLE usage_rollup_mark ADD COLUMN tables smallint NOT NULL DEFAULT 6;
ALTER TABLE usage_rollup_mark ALTER COLUMN tables DROP DEFAULT;
"""

BACKWARDS = """
DROP TABLE usage_user_day, usage_user_month;
ALTER TABLE usage_rollup_mark DROP COLUMN tables;
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0007_saved_views")]
    operations = [migrations.RunSQL(FORWARDS, BACKWARDS)]
