"""Rollups of the ledger, and request ids by month. In SQL, as the ledger itself (0002)."""

from datetime import UTC, datetime

from django.db import migrations

NAMES = {
    "usage_rollup": ("user_id", "feature", "plan", "run_id", "model"),
    "usage_total": ("feature", "plan", "model"),
}


def rollup(prefix, size):
    names = "".join(f"    {name} varchar(255) NOT NULL,\n" for name in NAMES[prefix])
    return f"""
CREATE TABLE {prefix}_{size} (
    environment_id bigint NOT NULL,
    start timestamptz NOT NULL,
    -- Of the names below.
    digest bytea NOT NULL,
{names}    events bigint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    -- The sum of rows may leave the range of one.
    cost_nano numeric NOT NULL,
    unpriced bigint NOT NULL,
    PRIMARY KEY (environment_id, start, digest)
);
"""


ROLLUPS = (
    "".join(rollup(prefix, size) for prefix in NAMES for size in ("quarter", "day"))
    + """
CREATE INDEX usage_rollup_quarter_user ON usage_rollup_quarter (environment_id, user_id, start);
CREATE INDEX usage_rollup_day_user ON usage_rollup_day (environment_id, user_id, start);
CREATE INDEX usage_rollup_quarter_run ON usage_rollup_quarter (environment_id, run_id, start) WHERE run_id <> '';
CREATE INDEX usage_rollup_day_run ON usage_rollup_day (environment_id, run_id, start) WHERE run_id <> '';

-- Which rows of an environment its rollups cover: see usage/ledger/rollups.py.
CREATE TABLE usage_rollup_mark (
    environment_id bigint PRIMARY KEY,
    xid bigint NOT NULL,
    floor_id bigint NOT NULL,
    last_id bigint NOT NULL,
    cluster bigint NOT NULL
);

-- Finds the rows that they do not cover.
CREATE INDEX usage_event_xid ON usage_event (environment_id, xid);

-- On the partition of a month that is about to be detached: what came afterwards would be rolled up by nobody.
CREATE FUNCTION usage_event_refuse_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the month of % is being detached; report again in a minute', NEW.charged_at;
END $$;
"""
)
UNDO_ROLLUPS = """
DROP TABLE usage_rollup_quarter, usage_rollup_day, usage_total_quarter, usage_total_day, usage_rollup_mark;
DROP INDEX usage_event_xid;
DROP FUNCTION usage_event_refuse_insert CASCADE;
"""

# With the rights of the tables' owner, which the application has not, and nothing else that it could do with those.
MONTHS = r"""
DROP FUNCTION usage_event_make_month;

-- Makes a partition beside its table, then attaches it: that takes no lock that readers or writers hold. Its name, or
-- null if there is one. A month that was detached gets another, with a number, if rows of it come after all.
CREATE FUNCTION usage_make_month(parent text, month date) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    base text := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
    partition text := base;
    number integer := 1;
    month_start timestamptz := month::timestamp AT TIME ZONE 'UTC';
    month_end timestamptz := (month + interval '1 month') AT TIME ZONE 'UTC';
    key_column text;
    filled boolean;
BEGIN
    IF EXISTS (
        SELECT FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = to_regclass(parent) AND NOT inhdetachpending AND relname ~ ('^' || base || '(_\d+)?$')
    ) THEN
        RETURN NULL;
    END IF;
    WHILE to_regclass(partition) IS NOT NULL LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', partition) INTO filled;
        IF NOT filled AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(partition)) THEN
            -- Made, and neither attached nor filled before whoever made it died.
            EXECUTE format('DROP TABLE %I', partition);
            EXIT;
        END IF;
        number := number + 1;
        partition := format('%s_%s', base, number);
    END LOOP;
    SELECT attname INTO STRICT key_column FROM pg_partitioned_table
    JOIN pg_attribute ON attrelid = partrelid AND attnum = partattrs[0] WHERE partrelid = to_regclass(parent);
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING IDENTITY)', partition, parent);
    -- Tells PostgreSQL that it need not look at the rows to attach it.
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (%I >= %L AND %I < %L)',
        partition, partition || '_month', key_column, month_start, key_column, month_end);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        parent, partition, month_start, month_end);
    RETURN partition;
END $$;

-- Drops a month with its rows, attached or not; never one of the ledger. The names of its tables.
CREATE FUNCTION usage_drop_month(parent text, month date) RETURNS text[] LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    base text := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
    partitions text[];
    partition text;
BEGIN
    IF parent = 'usage_event' OR NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(parent)) THEN
        RAISE EXCEPTION 'no month of % is dropped', parent;
    END IF;
    SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') INTO partitions FROM pg_class
    WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass(parent))
      AND relkind = 'r' AND relname ~ ('^' || base || '(_\d+)?$');
    FOREACH partition IN ARRAY partitions LOOP
        EXECUTE format('DROP TABLE %I', partition);
    END LOOP;
    RETURN partitions;
END $$;

-- Ends a DETACH CONCURRENTLY that was begun.
CREATE FUNCTION usage_finish_detach(parent text, partition text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I FINALIZE', parent, partition);
END $$;

-- With the owner's rights they must find the owner's tables: a temporary table of the caller's comes last.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage_make_month', 'usage_drop_month', 'usage_finish_detach'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END $$;
"""
UNDO_MONTHS = "DROP FUNCTION usage_make_month, usage_drop_month, usage_finish_detach;"

REQUESTS = """
ALTER TABLE usage_request RENAME TO usage_request_before;
CREATE TABLE usage_request (
    environment_id bigint NOT NULL,
    request_id varchar(128) NOT NULL,
    body_digest bytea,
    charged_at timestamptz NOT NULL,
    -- The month in which the id was claimed: see usage/ledger/request_ids.py.
    generation date NOT NULL,
    PRIMARY KEY (environment_id, request_id, generation)
) PARTITION BY RANGE (generation);
CREATE TABLE usage_request_generation (
    generation date PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT now()
);
"""
UNDO_REQUESTS = """
CREATE TABLE usage_request_after (
    environment_id bigint NOT NULL,
    request_id varchar(128) NOT NULL,
    body_digest bytea,
    charged_at timestamptz NOT NULL,
    PRIMARY KEY (environment_id, request_id)
);
INSERT INTO usage_request_after SELECT environment_id, request_id, body_digest, charged_at FROM usage_request;
DROP TABLE usage_request, usage_request_generation;
ALTER TABLE usage_request_after RENAME TO usage_request;
ALTER INDEX usage_request_after_pkey RENAME TO usage_request_pkey;
"""


def keep_requests(apps, schema_editor):
    from usage.ledger import request_ids

    request_ids.turn(datetime.now(UTC))
    schema_editor.execute(
        "INSERT INTO usage_request SELECT before.*, generation FROM usage_request_before AS before,"
        " usage_request_generation"
    )
    schema_editor.execute("DROP TABLE usage_request_before")


class Migration(migrations.Migration):
    dependencies = [("usage", "0005_names_alike")]
    operations = [
        migrations.RunSQL(ROLLUPS, UNDO_ROLLUPS),
        migrations.RunSQL(MONTHS, UNDO_MONTHS),
        migrations.RunSQL(REQUESTS, UNDO_REQUESTS),
        migrations.RunPython(keep_requests, migrations.RunPython.noop),
    ]
