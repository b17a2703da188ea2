"""The application's role may add months to the ledger, which takes its owner's rights, and do nothing else with those."""

from django.db import migrations

MAKE_MONTH = """
CREATE FUNCTION usage_event_make_month(year integer, month integer) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    month_name text := format('usage_event_%s_%s', lpad(year::text, 4, '0'), lpad(month::text, 2, '0'));
    month_start timestamptz := make_timestamptz(year, month, 1, 0, 0, 0, 'UTC');
    month_end timestamptz := make_timestamptz(year + month / 12, month % 12 + 1, 1, 0, 0, 0, 'UTC');
BEGIN
    IF to_regclass(month_name) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF usage_event FOR VALUES FROM (%L) TO (%L)',
        month_name, month_start, month_end);
    RETURN month_name;
END
$$;
-- With the owner's rights it must find the owner's tables: a temporary table of the caller's comes last.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION usage_event_make_month SET search_path = %I, pg_temp', current_schema());
END $$;
"""

# Last month, this one and the next three.
FIRST_MONTHS = """
SELECT usage_event_make_month(extract(year FROM month)::integer, extract(month FROM month)::integer)
FROM generate_series(-1, 3) AS number,
     LATERAL (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + number * interval '1 month') AS each (month);
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0003_decisions_to_policies")]
    operations = [
        migrations.RunSQL(MAKE_MONTH, "DROP FUNCTION usage_event_make_month;"),
        migrations.RunSQL(FIRST_MONTHS, migrations.RunSQL.noop),
    ]
