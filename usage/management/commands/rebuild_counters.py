from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from usage import recount
from usage.counter_store import StoreUnavailable
from usage.management.commands import _environment


class Command(BaseCommand):
    help = "Make the live counters hold what the ledger says. Safe under traffic."

    def add_arguments(self, parser: ArgumentParser) -> None:
        _environment.add_argument(parser)

    def handle(self, *args: Any, environment: str | None, **options: Any) -> None:
        for chosen in _environment.chosen(environment):
            try:
                rebuilt = recount.rebuild(chosen)
            except StoreUnavailable as error:
                raise CommandError(f"The counter store cannot be reached: {error}") from error
            self.stdout.write(f"{chosen}: {rebuilt} counters rebuilt")
