from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError

from usage.ledger import partitions
from usage.ledger.months import StillRead


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
            self.stdout.write(self._detach(detach))
            return
        made = partitions.keep_up(datetime.now(UTC), months)
        self.stdout.write(f"Made {', '.join(made)}." if made else "All partitions are there.")

    def _detach(self, month: datetime) -> str:
        try:
            names = partitions.detach(month)
        except LookupError as error:
            raise CommandError(f"{error}; there are {', '.join(partitions.names())}.") from error
        except partitions.NotYet as error:
            raise CommandError(f"{error}.") from error
        except ProgrammingError as error:
            raise CommandError(
                f"Detaching takes the owner of the ledger, see MIGRATION_DATABASE_URL: {error}"
            ) from error
        except StillRead as error:
            raise CommandError(f"{error}; it leaves as soon as they are done and this runs again.") from error
        return f"Detached {', '.join(names)}; its table is still there."
