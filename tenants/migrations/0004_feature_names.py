import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0003_key_rate_from_1")]

    operations = [
        migrations.AlterField(
            model_name="environment",
            name="frozen_features",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=255),
                blank=True,
                default=list,
                help_text="Block every call of these features, at once. One name a line.",
                size=200,
            ),
        ),
    ]
