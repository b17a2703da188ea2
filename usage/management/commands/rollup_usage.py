from argparse import ArgumentParser
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.management import environments
from usage.ledger import rollups
from usage.ledger.rollups import MonthDetached


class Command(BaseCommand):
    help = "Roll up what is new in the ledger; or, with --from and --to, make the rollups of these days anew."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_optional_argument(parser)
        parser.add_argument("--from", dest="first", type=date.fromisoformat, metavar="YYYY-MM-DD")
        parser.add_argument(
            "--to", dest="last", type=date.fromisoformat, metavar="YYYY-MM-DD", help="the last day, in UTC"
        )

    def handle(
        self, *args: Any, environment: str | None, first: date | None, last: date | None, **options: Any
    ) -> None:
        if (first is None) != (last is None):
            raise CommandError("Give both --from and --to, or neither.")
        if first is not None and last is not None and first > last:
            raise CommandError(f"--from {first} is after --to {last}.")
        for chosen in environments.named_or_all(environment):
            rolled = rollups.roll(chosen.pk)
            self.stdout.write(f"{chosen}: {rolled} rows rolled up")
            if first is not None and last is not None:
                try:
                    again = rollups.rebuild(chosen.pk, first, last)
                except MonthDetached as error:
                    raise CommandError(f"{error}; their rollups stay as they are.") from error
                self.stdout.write(f"{chosen}: {again} rows of {first} to {last} rolled up anew")
