"""What a call used beside text tokens, and how it was served; rows of the version before said nothing of it."""

from django.db import migrations

ADD = """
ALTER TABLE usage_event
    ADD COLUMN requested_model varchar(255) NOT NULL DEFAULT '',
    ADD COLUMN service_tier varchar(10) NOT NULL DEFAULT '',
    ADD COLUMN region varchar(255) NOT NULL DEFAULT '',
    -- By name, those without a column of their own; null: none.
    ADD COLUMN quantities jsonb,
    -- What of it had no rate; null: all had one, or the model has no price at all.
    ADD COLUMN unpriced_quantities jsonb;
"""
DROP = """
ALTER TABLE usage_event
    DROP COLUMN requested_model, DROP COLUMN service_tier, DROP COLUMN region,
    DROP COLUMN quantities, DROP COLUMN unpriced_quantities;
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0010_price_quantities")]
    operations = [migrations.RunSQL(ADD, DROP)]
