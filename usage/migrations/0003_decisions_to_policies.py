"""Blocked decisions belong to `policies`, which alone writes and reads them; policies/0002 takes the table over."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("usage", "0002_ledger")]

    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel("Decision")]),
    ]
