"""Runs from their first day to their last, in one row each; those of what is rolled up. In SQL, as 0006.

A roll of the version before would leave them out. It says that there are 10 tables, which the mark refuses now, so it
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
COLUMNS = "".join(f"    {each} {'numeric' if each == 'cost_nano' else 'bigint'} NOT NULL,\n" for each in SUMS)

FILL = f"""
INSERT INTO usage_whole_run (environment_id, digest, run_id, first_day, last_day, {", ".join(SUMS)})
SELECT environment_id, digest, run_id, min(start), max(start), {", ".join(f"sum({name})" for name in SUMS)}
FROM usage_whole_run_day GROUP BY environment_id, digest, run_id ORDER BY 1, 4, 2;
"""

FORWARDS = f"""
LOCK TABLE usage_rollup_mark IN EXCLUSIVE MODE;
CREATE TABLE usage_whole_run (
    environment_id bigint NOT NULL,
    -- Of the name below.
    digest bytea NOT NULL,
    run_id varchar(255) NOT NULL,
    -- When the first and the last UTC day begin that it has calls of.
    first_day timestamptz NOT NULL,
    last_day timestamptz NOT NULL,
{COLUMNS}    PRIMARY KEY (environment_id, digest)
-- A row of today is changed by each roll that has calls of its run.
) WITH (fillfactor = 80);
{FILL}CREATE INDEX usage_whole_run_days ON usage_whole_run (environment_id, first_day, last_day);
-- Those that a bound between two days may lie across: few.
CREATE INDEX usage_whole_run_long ON usage_whole_run (environment_id, first_day, last_day) WHERE first_day < last_day;

-- With the calls of no run, which have a row a day: their days are read by name too.
CREATE INDEX usage_whole_run_day_all ON usage_whole_run_day (environment_id, run_id, start);
-- Last, and in the order in which readers take them: these two wait for readers, and readers for them.
DROP INDEX usage_whole_run_day_run;
ALTER TABLE usage_rollup_mark DROP CONSTRAINT usage_rollup_mark_tables;
UPDATE usage_rollup_mark SET tables = 11;
ALTER TABLE usage_rollup_mark ADD CONSTRAINT usage_rollup_mark_tables CHECK (tables = 11);
"""

BACKWARDS = """
DROP TABLE usage_whole_run;
CREATE INDEX usage_whole_run_day_run ON usage_whole_run_day (environment_id, run_id, start) WHERE run_id <> '';
DROP INDEX usage_whole_run_day_all;
ALTER TABLE usage_rollup_mark DROP CONSTRAINT usage_rollup_mark_tables;
UPDATE usage_rollup_mark SET tables = 10;
ALTER TABLE usage_rollup_mark ADD CONSTRAINT usage_rollup_mark_tables CHECK (tables = 10);
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0011_event_quantities")]
    operations = [migrations.RunSQL(FORWARDS, BACKWARDS)]
