import django.utils.timezone
from django.db import migrations, models

import tenants.models

# What was not made good yet stays noted. The column itself stays one release longer, for processes of the one before.
MISSED = """
    INSERT INTO tenants_missed (environment_id, what, times)
    SELECT id, 'change', 1 FROM tenants_environment WHERE recount_needed ORDER BY id;
    ALTER TABLE tenants_environment ALTER COLUMN recount_needed SET DEFAULT false;
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0004_feature_names")]

    operations = [
        migrations.AddField(
            model_name="environment",
            name="policies_token",
            field=models.CharField(default=tenants.models.new_token, editable=False, max_length=16),
        ),
        migrations.AddField(
            model_name="environment",
            name="revised_at",
            field=models.DateTimeField(default=django.utils.timezone.now, editable=False),
        ),
        migrations.AddField(
            model_name="environment",
            name="revision_token",
            field=models.CharField(default=tenants.models.new_token, editable=False, max_length=16),
        ),
        migrations.CreateModel(
            name="Missed",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("what", models.CharField(choices=[("change", "Change"), ("holds", "Holds")], max_length=6)),
                ("times", models.PositiveBigIntegerField(default=1)),
                (
                    "environment",
                    models.ForeignKey(
                        on_delete=models.CASCADE, related_name="missed", to="tenants.environment"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("environment", "what"), name="missed_unique")
                ],
            },
        ),
        migrations.RunSQL(MISSED, "ALTER TABLE tenants_environment ALTER COLUMN recount_needed DROP DEFAULT"),
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.RemoveField(model_name="environment", name="recount_needed")]
        ),
    ]
