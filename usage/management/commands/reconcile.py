from argparse import ArgumentParser
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from tenants.management import environments
from tenants.models import Environment
from usage import wording
from usage.analytics import reconciled_text
from usage.analytics.charged_days import TooMany, charged, months_gone
from usage.analytics.provider_exports import reading
from usage.analytics.provider_exports.lines import Export, Refused
from usage.analytics.reconciling import Reconciliation, reconcile
from usage.prices import stored_book

# A file that cannot be compared; 1 says that something differs.
NOT_COMPARED = 2
PERCENT_MAX = 100


class Command(BaseCommand):
    help = (
        "Compare the ledger with a provider's own export, by UTC day and model; exits with 1 if they differ, and "
        "with 2 if the file cannot be compared."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_argument(parser)
        parser.add_argument(
            "file", metavar="FILE", type=Path, help="of OpenAI, Anthropic, or in FOCUS columns (AWS, Azure)"
        )
        parser.add_argument("--json", action="store_true", help="all rows, not only those that differ")
        parser.add_argument(
            "--tolerance", default="0.5", metavar="PERCENT", help="0.5, and never less than a cent"
        )
        parser.add_argument(
            "--name",
            action="append",
            default=[],
            metavar="THEIRS=OURS",
            help="a model that the file calls otherwise than the price book; may be given again",
        )

    def handle(self, *args: Any, environment: str, file: Path, name: list[str], **options: Any) -> None:
        chosen = environments.named(environment)
        tolerance = _share(options["tolerance"])
        called = dict(map(_name, name))
        export = _read(file)
        found = _compared(chosen, export, tolerance, called)
        for note in [*_notes(export), *_gone(chosen, export)]:
            self.stderr.write(note)
        lines = (
            reconciled_text.json_lines(export, found)
            if options["json"]
            else reconciled_text.table(export, found)
        )
        for line in lines:
            self.stdout.write(line)
        if found.differing:
            raise CommandError(f"{wording.counted(len(found.differing), 'row')} differ.")


def _share(percent: str) -> Decimal:
    try:
        value = Decimal(percent)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value <= PERCENT_MAX:
        raise CommandError(
            f"--tolerance {percent!r}: give a percentage from 0 to 100.", returncode=NOT_COMPARED
        )
    return value / 100


def _name(given: str) -> tuple[str, str]:
    theirs, sign, ours = given.rpartition("=")
    if not sign or not theirs or not ours:
        raise CommandError(f"--name {given!r}: write it as THEIRS=OURS.", returncode=NOT_COMPARED)
    return theirs.strip().lower(), ours.strip()


def _read(file: Path) -> Export:
    try:
        with file.open("rb") as opened:
            return reading.read(opened.read(reading.BYTES_MAX + 1))
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.", returncode=NOT_COMPARED) from error
    except Refused as error:
        raise CommandError(f"{file}: {error}", returncode=NOT_COMPARED) from error


def _compared(
    environment: Environment, export: Export, tolerance: Decimal, called: dict[str, str]
) -> Reconciliation:
    book = stored_book.of_environment(environment)
    try:
        ours = charged(environment.pk, min(export.days), max(export.days))
    except (DatabaseError, TooMany) as error:
        raise CommandError(f"The ledger could not be read: {error}", returncode=NOT_COMPARED) from error
    return reconcile(export, ours, book, tolerance, called)


def _notes(export: Export) -> list[str]:
    unknown = [f"Columns that are not known, and were not read: {', '.join(export.unknown)}."]
    return [*(unknown if export.unknown else []), *export.notes]


def _gone(environment: Environment, export: Export) -> list[str]:
    gone: list[date] = months_gone(environment.pk, min(export.days), max(export.days))
    if not gone:
        return []
    return [
        f"The single calls of {', '.join(f'{month:%Y-%m}' for month in gone)} have left the ledger: none of them is "
        "ours here. `month_report` has their sums."
    ]
