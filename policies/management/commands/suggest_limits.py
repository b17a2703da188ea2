from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from policies.replaying import suggesting
from policies.replaying.periods import PeriodError, period
from policies.replaying.suggesting import Asked, Suggested
from tenants.management import environments
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

COUNTED = tuple(metric for metric in Metric if metric is not Metric.CONCURRENCY)


class Command(BaseCommand):
    help = "Amounts for a limit, by what share of users or of the money they would have blocked in a past period."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_argument(parser)
        parser.add_argument("--metric", choices=[*COUNTED], default=Metric.REQUESTS.value)
        parser.add_argument("--window", choices=[*Window], default=Window.DAY.value)
        parser.add_argument("--per", choices=[*Per], default=Per.USER.value)
        parser.add_argument("--plan", default="", help="only calls of this plan")
        parser.add_argument("--feature", default="", help="only calls of this feature")
        parser.add_argument(
            "--of-money", action="store_true", help="by shares of the money, for --metric cost_usd"
        )
        parser.add_argument(
            "--from", dest="start", metavar="WHEN", help="a date in the tenant's zone, or a time"
        )
        parser.add_argument("--to", dest="end", metavar="WHEN", help="until before this; without it, now")
        parser.add_argument("--json", action="store_true")

    def handle(self, *_args: Any, environment: str, **options: Any) -> None:
        target = environments.named(environment)
        asked = Asked(
            metric=Metric(options["metric"]),
            window=Window(options["window"]),
            per=Per(options["per"]),
            plan=options["plan"],
            feature=options["feature"],
        )
        of_money = options["of_money"]
        if of_money and asked.metric is not Metric.COST_USD:
            raise CommandError("--of-money is of limits on cost: add --metric cost_usd")
        try:
            zone = ZoneInfo(target.tenant.timezone)
            looked_at = period(options["start"], options["end"], timezone.now(), zone)
        except PeriodError as error:
            raise CommandError(str(error)) from error
        suggest = suggesting.of_money if of_money else suggesting.of_subjects
        found = suggest(target, asked, looked_at)
        if options["json"]:
            self.stdout.write(msgspec.json.encode(found).decode())
            return
        self.stdout.write(f"{looked_at.start.isoformat()} to {looked_at.end.isoformat()}")
        for each in found:
            if not each.blocked:
                # So small a share is nobody.
                continue
            self.stdout.write(_says(asked, each, of_money=of_money))


def _says(asked: Asked, each: Suggested, *, of_money: bool) -> str:
    """`5 % of users: 42 requests a day, each user, would have blocked 3 of 60`"""
    limit = wording.limit_of(asked.kind, each.amount)
    saved = "" if each.saved_nano is None else f", saving {wording.money(each.saved_nano)}"
    calls = "" if each.blocked_calls is None else f", {wording.counted(each.blocked_calls, 'call')}"
    share = f"{each.share_percent} % of {'the money' if of_money else 'subjects'}"
    return f"{share}: {limit}, would have blocked {each.blocked} of {each.subjects}{calls}{saved}"
