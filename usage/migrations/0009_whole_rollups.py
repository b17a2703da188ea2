"""Sums of users and of runs alone; those of what is rolled up. In SQL, as 0006.

A roll of the version before would leave them out. It says that there are 6 tables, which the mark refuses now, so it
fails and is tried again until that version is gone; what it would have rolled up is read from the ledger meanwhile.
"""

from django.db import migrations

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
SUMMED = ", ".join(f"sum({name})" for name in SUMS)


def table(name, column, where=""):
    sums = "".join(f"    {each} {'numeric' if each == 'cost_nano' else 'bigint'} NOT NULL,\n" for each in SUMS)
    return f"""
CREATE TABLE {name} (
    environment_id bigint NOT NULL,
    start timestamptz NOT NULL,
    -- Of the name below.
    digest bytea NOT NULL,
    {column} varchar(255) NOT NULL,
{sums}    PRIMARY KEY (environment_id, start, digest)
-- A row of today is changed by each roll that has calls of it.
) WITH (fillfactor = 80);
CREATE INDEX {name}_{column.removesuffix("_id")} ON {name} (environment_id, {column}, start) {where};
"""


def filled(name, column, of, start="start"):
    digest = f"substr(sha256(convert_to(length({column}) || ':' || {column}, 'UTF8')), 1, 16)"
    return f"""
INSERT INTO {name} (environment_id, start, digest, {column}, {", ".join(SUMS)})
SELECT environment_id, {start}, {digest}, {column}, {SUMMED} FROM {of} GROUP BY environment_id, 2, {column} ORDER BY 1, 2, 3;
"""


FORWARDS = f"""
LOCK TABLE usage_rollup_mark IN EXCLUSIVE MODE;
{table("usage_whole_user_day", "user_id")}
{table("usage_whole_user_month", "user_id")}
{table("usage_whole_run_quarter", "run_id", "WHERE run_id <> ''")}
{table("usage_whole_run_day", "run_id", "WHERE run_id <> ''")}
{filled("usage_whole_user_day", "user_id", "usage_user_day")}
{filled("usage_whole_user_month", "user_id", "usage_whole_user_day", "date_trunc('month', start, 'UTC')")}
{filled("usage_whole_run_quarter", "run_id", "usage_rollup_quarter")}
{filled("usage_whole_run_day", "run_id", "usage_rollup_day")}
UPDATE usage_rollup_mark SET tables = 10;
ALTER TABLE usage_rollup_mark ADD CONSTRAINT usage_rollup_mark_tables CHECK (tables = 10);
"""

BACKWARDS = """
DROP TABLE usage_whole_user_day, usage_whole_user_month, usage_whole_run_quarter, usage_whole_run_day;
ALTER TABLE usage_rollup_mark DROP CONSTRAINT usage_rollup_mark_tables;
UPDATE usage_rollup_mark SET tables = 6;
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0008_user_rollups")]
    operations = [migrations.RunSQL(FORWARDS, BACKWARDS)]
