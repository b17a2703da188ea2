from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.management import environments
from usage.counting.store import StoreUnavailable
from usage.money import format_usd
from usage.settling import recount


class Command(BaseCommand):
    help = "Compare the live counters with the ledger; exits with 1 if they differ."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_optional_argument(parser)

    def handle(self, *args: Any, environment: str | None, **options: Any) -> None:
        drifted = 0
        for chosen in environments.named_or_all(environment):
            try:
                found = recount.check(chosen)
            except StoreUnavailable as error:
                raise CommandError(f"The counter store cannot be reached: {error}") from error
            for drift in found.drifts:
                self.stdout.write(f"{drift.key}: counted {drift.counted}, ledger {drift.recorded}")
            held = found.held
            self.stdout.write(
                f"{chosen}: drift {len(found.drifts)} of {found.complete} counters ({found.cold} cold: not compared, "
                f"rebuilt from the ledger at their next use); open reservations {found.open_reservations}, the most "
                f"that one counter holds: {held.requests} requests, {held.input_tokens + held.output_tokens} tokens, "
                f"{format_usd(held.cost_nano)} USD"
            )
            drifted += len(found.drifts)
        if drifted:
            raise CommandError(
                f"{drifted} counters differ from the ledger; rebuild_counters makes them equal."
            )
