from argparse import ArgumentParser
from datetime import UTC, date, datetime
from typing import Any

from django.core.management.base import BaseCommand

from audit.log import acting_as
from policies import month_report
from tenants import exporting
from tenants.exporting import Format
from tenants.management import environments, months
from usage.analytics import exports

ACTOR = "cli:month_report"


class Command(BaseCommand):
    help = "Write the month-end report of a tenant as a table: what the month cost, by whom, and what budgets had left."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("whose", metavar="TENANT[/ENV]", help="such as acme or acme/prod")
        months.add_argument(parser)
        parser.add_argument(
            "--format", type=Format, choices=exports.FORMATS, default=Format.CSV, metavar="csv|json"
        )

    def handle(self, *args: Any, whose: str, month: date, **options: Any) -> None:
        kind: Format = options["format"]
        report = month_report.report(environments.of_tenant_or_named(whose), month, datetime.now(UTC))
        with acting_as(ACTOR):
            about = exports.logged(report.tenant, f"the report of {month:%Y-%m}", report.environments, kind)
        for line in exporting.written(
            kind, {**report.about, **about}, month_report.COLUMNS, month_report.rows(report)
        ):
            self.stdout.write(line, ending="")
