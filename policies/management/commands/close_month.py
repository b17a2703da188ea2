from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand

from audit.log import acting_as
from policies import budgets
from policies.models import ClosedMonth
from tenants.management import environments
from tenants.models import Environment

ACTOR = "cli:close_month"


class Command(BaseCommand):
    help = "Close the monthly budgets of every month that is over and settled: 36 days after its end."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_optional_argument(parser)

    def handle(self, *args: Any, environment: str | None, **options: Any) -> None:
        for chosen in environments.named_or_all(environment):
            with acting_as(ACTOR):
                closed = budgets.close_over(chosen)
            for month in closed:
                found = list(month.budgets.all())
                exceeded = sum(budget.exceeded for budget in found)
                self.stdout.write(f"{chosen}: {month} closed, {len(found)} budgets, {exceeded} exceeded")
            if not closed:
                self.stdout.write(f"{chosen}: nothing to close{self._next(chosen)}")

    def _next(self, environment: Environment) -> str:
        now = datetime.now(UTC)
        zone = ZoneInfo(environment.tenant.timezone)
        last = ClosedMonth.objects.filter(environment=environment).first()
        closed = "" if last is None else f"; closed up to {last}"
        this_month = now.astimezone(zone).date().replace(day=1)
        return f"{closed}; {this_month:%Y-%m} is settled on {budgets.settled_from(this_month, zone):%Y-%m-%d}"
