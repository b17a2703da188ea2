from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError

from usage.ledger import partitions


def month(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)


class Command(BaseCommand):
    help = "Make the ledger's partitions of the coming months; or detach that of an old one, whose table then stays."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--months", type=int, default=partitions.AHEAD_MONTHS, help="how many months ahead"
        )
        parser.add_argument("--detach", type=month, metavar="YYYY-MM")

    def handle(self, *args: Any, months: int, detach: datetime | None, **options: Any) -> None:
        if detach is not None:
            try:
                self.stdout.write(f"Detached {partitions.detach(detach)}; its table is still there.")
            except LookupError as error:
                raise CommandError(f"{error}; there are {', '.join(partitions.names())}.") from error
            except ProgrammingError as error:
                raise CommandError(
                    f"Detaching takes the owner of the ledger, see MIGRATION_DATABASE_URL: {error}"
                ) from error
            return
        made = partitions.ensure_ahead(datetime.now(UTC), months)
        self.stdout.write(f"Made {', '.join(made)}." if made else "All partitions are there.")
