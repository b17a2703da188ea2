from argparse import ArgumentParser
from datetime import UTC, date, datetime
from typing import Any

from django.core.management.base import BaseCommand

from audit.log import acting_as
from tenants.exporting import Format
from tenants.management import environments, months
from usage import wording
from usage.analytics import exports
from usage.analytics.focus import By, Focus
from usage.money import format_usd

ACTOR = "cli:export_focus"


class Command(BaseCommand):
    help = "Write what a month cost as a FOCUS 1.2 file: by feature, user, plan and model. What it leaves out is said."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("whose", metavar="TENANT[/ENV]", help="such as acme or acme/prod")
        months.add_argument(parser)
        parser.add_argument(
            "--format", type=Format, choices=exports.FORMATS, default=Format.CSV, metavar="csv|json"
        )
        parser.add_argument("--by", type=By, choices=list(By), default=By.MONTH, metavar="month|day")

    def handle(self, *args: Any, whose: str, month: date, by: By, **options: Any) -> None:
        focus = Focus(environments.of_tenant_or_named(whose), month, by)
        now = datetime.now(UTC)
        with acting_as(ACTOR):
            for line in exports.focus_lines(focus, options["format"], now):
                self.stdout.write(line, ending="")
        totals = focus.totals
        self.stderr.write(f"{wording.counted(totals.rows, 'row')}, {format_usd(totals.cost_nano)} USD.")
        if totals.unpriced:
            self.stderr.write(
                f"{wording.counted(totals.unpriced, 'call')} without a price: what they cost is in no row."
            )
        if exports.settled_at(focus) > now:
            self.stderr.write(f"{month:%Y-%m} is not final until {exports.settled_at(focus):%Y-%m-%d}.")
