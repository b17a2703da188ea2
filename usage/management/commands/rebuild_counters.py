from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.management import environments
from usage.counting.store import StoreUnavailable
from usage.settling import recount


class Command(BaseCommand):
    help = "Make the live counters hold what the ledger says. Safe under traffic."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_optional_argument(parser)

    def handle(self, *args: Any, environment: str | None, **options: Any) -> None:
        for chosen in environments.named_or_all(environment):
            try:
                rebuilt = recount.rebuild(chosen)
            except StoreUnavailable as error:
                raise CommandError(f"The counter store cannot be reached: {error}") from error
            self.stdout.write(f"{chosen}: {rebuilt} counters rebuilt")
