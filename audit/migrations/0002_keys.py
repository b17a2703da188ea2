"""Entries get a key. Those that there are have none; each chain is sealed with an entry that has one.

Frozen code: what is sealed here must verify for ever, whatever becomes of `audit.log`.
"""

import hmac
import json

from django.conf import settings
from django.db import migrations, models
from django.utils import timezone


def seal(apps, schema_editor):
    Entry, ChainHead = apps.get_model("audit", "Entry"), apps.get_model("audit", "ChainHead")
    key_id, key = next(iter(settings.AUDIT_KEYS.items()))
    for head in ChainHead.objects.select_for_update().order_by("tenant_id"):
        row = {
            "tenant_id": head.tenant_id,
            "seq": head.seq + 1,
            "at": timezone.now().isoformat(timespec="microseconds"),
            "actor": "system",
            "action": "audit.sealed",
            "target_type": "audit.chainhead",
            "target_id": str(head.pk),
            "target_name": "installation" if head.tenant_id is None else f"tenant {head.tenant_id}",
            "data": {"entries": head.seq},
            "key_id": key_id,
        }
        text = head.hash + json.dumps(row, sort_keys=True, separators=(",", ":"))
        row["hash"] = hmac.digest(key.encode(), text.encode(), "sha256").hex()
        Entry.objects.create(**row, prev_hash=head.hash)
        head.seq, head.hash = row["seq"], row["hash"]
        head.save(update_fields=["seq", "hash"])


class Migration(migrations.Migration):

    dependencies = [
        ("audit", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="entry",
            name="key_id",
            field=models.CharField(default="", max_length=16),
        ),
        migrations.RunPython(seal, migrations.RunPython.noop),
    ]
