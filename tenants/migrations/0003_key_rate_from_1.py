"""0 calls a minute is refused: it looked like none and meant any number. Keys that have it go on as they were."""

import django.core.validators
from django.db import migrations, models


def let_0_mean_any_number(apps, schema_editor):
    apps.get_model("tenants", "ApiKey").objects.filter(requests_per_minute=0).update(requests_per_minute=None)


class Migration(migrations.Migration):
    # Rows that were changed in a transaction cannot have a constraint added in the same one.
    atomic = False
    dependencies = [("tenants", "0002_protected_memberships")]

    operations = [
        migrations.RunPython(let_0_mean_any_number, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="apikey",
            name="requests_per_minute",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="How often the key may call the API; empty = as often as it likes.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(("requests_per_minute__gte", 1)), name="api_key_rate_not_zero"
            ),
        ),
    ]
