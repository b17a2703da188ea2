from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError

from audit.log import acting_as
from usage.ledger import partitions, retention
from usage.ledger.months import StillRead

ACTOR = "cli:partition_usage"


def month(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)


class Command(BaseCommand):
    help = (
        "Make the ledger's partitions of the coming months and detach those that USAGE_KEPT_MONTHS says are over;"
        " or detach that of an old one. Tables that are detached stay."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--months", type=int, default=partitions.AHEAD_MONTHS, help="how many months ahead"
        )
        parser.add_argument("--detach", type=month, metavar="YYYY-MM")

    def handle(self, *args: Any, months: int, detach: datetime | None, **options: Any) -> None:
        with acting_as(ACTOR):
            if detach is not None:
                self.stdout.write(self._detach(detach))
            else:
                self._keep_up(datetime.now(UTC), months)

    def _keep_up(self, now: datetime, months: int) -> None:
        made = partitions.keep_up(now, months)
        self.stdout.write(f"Made {', '.join(made)}." if made else "All partitions are there.")
        outcome = retention.apply(now)
        if outcome.detached:
            self.stdout.write(_detached(outcome.detached))
        if outcome.stayed:
            raise CommandError(" ".join(f"The rows stay of {reason}." for reason in outcome.stayed))

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
        return _detached(names)


def _detached(names: Sequence[str]) -> str:
    tables = "its table is" if len(names) == 1 else "their tables are"
    return f"Detached {', '.join(names)}; {tables} still there."
