from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from policies import repriced_text, repricing
from policies.repricing import Days, NotOpen
from tenants.management import environments, months
from tenants.models import Environment
from usage.settling.repricing import preview

ACTOR = "cli:reprice"


class Command(BaseCommand):
    help = (
        "Price calls of months that are not closed by the price book as it is now, and adjust those that were charged "
        "otherwise: a price was missing or wrong. Without days or a month: those of this month. Doing it again changes "
        "nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_argument(parser)
        parser.add_argument(
            "--month", type=months.parsed, metavar="YYYY-MM", help="of the tenant's time zone"
        )
        parser.add_argument(
            "--from", dest="first", type=_day, metavar="YYYY-MM-DD", help="the first day, of the same zone"
        )
        parser.add_argument("--to", dest="last", type=_day, metavar="YYYY-MM-DD", help="the last day; today")
        parser.add_argument(
            "--model", action="append", default=[], metavar="NAME",
            help="only calls of this model, as they name it; may be given again",
        )  # fmt: skip
        parser.add_argument("--dry-run", action="store_true", help="only say what would change")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, environment: str, model: list[str], **options: Any) -> None:
        chosen = environments.named(environment)
        days, dry_run = _days(chosen, options), options["dry_run"]
        try:
            question = repricing.asked(chosen, days, model)
            found = preview(question) if dry_run else repricing.apply(chosen, days, question, actor=ACTOR)
        except NotOpen as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(
                f"The ledger could not be read or written: {error}. What was done stays; run it again."
            ) from error
        if options["json"]:
            self.stdout.write(repriced_text.document(found, dry_run=dry_run))
            return
        for line in repriced_text.lines(found, dry_run=dry_run):
            self.stdout.write(line)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no day: write it such as 2026-11-28") from error


def _days(environment: Environment, options: dict[str, Any]) -> Days:
    month, first, last = options["month"], options["first"], options["last"]
    if month is not None and (first is not None or last is not None):
        raise CommandError("Give --month, or --from and --to, not both.")
    if last is not None and first is None:
        raise CommandError("Give --from too: --to is the last day.")
    today = datetime.now(UTC).astimezone(ZoneInfo(environment.tenant.timezone)).date()
    if first is not None:
        return Days(first, last or max(first, today))
    return repricing.of_month(month or today.replace(day=1))
