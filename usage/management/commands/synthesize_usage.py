import time
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.management import environments
from usage.counting.distrust import distrust
from usage.counting.store import StoreUnavailable
from usage.ledger import synthetic
from usage.ledger.synthetic import MadeAlready, Plan
from usage.prices import stored_book

EVENTS_MAX = 100_000_000
DAYS_MAX = 365


class Command(BaseCommand):
    help = "Fill the ledger of an environment with made-up calls, to try pages and sums at the size of a busy product."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_argument(parser)
        parser.add_argument("--events", type=int, required=True, metavar="N", help="calls")
        parser.add_argument("--days", type=int, required=True, metavar="D", help="until now")
        parser.add_argument("--users", type=int, default=1_000, metavar="U")
        parser.add_argument("--seed", type=int, default=1, help="another one makes other calls")
        parser.add_argument("--until", type=datetime.fromisoformat, metavar="ISO", help="instead of now")
        parser.add_argument("--force", action="store_true", help="also in an environment that is named prod")

    def handle(
        self,
        *args: Any,
        environment: str,
        events: int,
        days: int,
        users: int,
        seed: int,
        until: datetime | None,
        force: bool,
        **options: Any,
    ) -> None:
        chosen = environments.named(environment)
        for name, number, most in [
            ("events", events, EVENTS_MAX), ("days", days, DAYS_MAX), ("users", users, synthetic.USERS_MAX),
        ]:  # fmt: skip
            if not 1 <= number <= most:
                raise CommandError(f"--{name} {number}: give 1 to {most}.")
        if chosen.slug == "prod" and not force:
            raise CommandError(
                f"{chosen} is named prod, and rows of the ledger are never removed. --force fills it all the same."
            )
        end = datetime.now(UTC) if until is None else until
        if end.tzinfo is None:
            raise CommandError(
                f"--until {until}: say the offset from UTC too, such as 2026-11-28T12:00:00+00:00."
            )
        plan = Plan(
            environment_id=chosen.pk,
            calls=events,
            until=end.astimezone(UTC),
            days=days,
            users=users,
            seed=seed,
        )
        self._write(plan, chosen.tenant_id)
        try:
            distrust(chosen.pk)
        except StoreUnavailable:
            self.stderr.write(f"The counter store cannot be reached; run rebuild_counters {chosen} later.")

    def _write(self, plan: Plan, tenant_id: int) -> None:
        begun, written = time.monotonic(), 0
        try:
            for written in synthetic.write(plan, stored_book.load(tenant_id)):
                per_second = int(written / (time.monotonic() - begun))
                self.stdout.write(f"{written} of {plan.calls} calls, {per_second} a second")
        except MadeAlready as error:
            raise CommandError(f"{error}; choose another --seed.") from error
