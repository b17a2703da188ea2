"""Alerts of rules that are switched off or gone are over: nobody looks any more whether they still stand."""

from django.db import migrations
from django.db.models import Q
from django.utils import timezone


def end_alerts(apps, schema_editor):
    standing = apps.get_model("policies", "Alert").objects.filter(ended_at=None)
    standing.filter(Q(rule=None) | ~Q(rule__active=True)).update(ended_at=timezone.now())


class Migration(migrations.Migration):
    dependencies = [("policies", "0016_replay_self_check")]

    operations = [migrations.RunPython(end_alerts, migrations.RunPython.noop)]
