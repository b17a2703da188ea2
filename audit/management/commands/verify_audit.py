from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audit import chain


class Command(BaseCommand):
    help = (
        "Checks the hash chains of the audit log; names the first broken entry and exits 1 if there is one."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        entries = chains = 0
        for tenant_id in chain.tenant_ids():
            verdict = chain.verify(tenant_id)
            if verdict.broken:
                raise CommandError(f"broken: {verdict.broken}")
            entries, chains = entries + verdict.entries, chains + 1
        self.stdout.write(f"ok: {entries} entries, {chains} chains")
