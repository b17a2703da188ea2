from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.models import Tenant
from usage.prices import additions, arithmetic, stored_book
from usage.prices.book import Match
from usage.prices.cost import UNDATED, Served, Use
from usage.quantities import OWN_COLUMNS, QUANTITIES, ServiceTier, noun, per_words


class Command(BaseCommand):
    help = (
        "Print a model's price, where it comes from, and what a call costs by it, line by line. Quantities are given "
        "as NAME=NUMBER, such as input_tokens=1000 web_searches=2; without any only the rates are printed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="as callers write it")
        parser.add_argument("quantities", metavar="NAME=NUMBER", nargs="*", help="what a call used")
        parser.add_argument("--tenant", metavar="TENANT", help="with its own prices")
        parser.add_argument("--provider", help="who sells it, where several do")
        parser.add_argument(
            "--at", metavar="TIME", help="ISO 8601, UTC unless it says its zone; now if left out"
        )
        parser.add_argument("--service-tier", choices=[tier.value for tier in ServiceTier], default="default")
        parser.add_argument("--region", default="", help="such as us, where that changes the price")

    def handle(self, *args: Any, model: str, quantities: list[str], **options: Any) -> None:
        at = _instant(options["at"])
        match = stored_book.load(_tenant_id(options["tenant"])).find(model, at, options["provider"])
        if match is None:
            raise CommandError(
                f"{model} had no price at {at.isoformat()}"
                + (f" of {options['provider']}" if options["provider"] else "")
                + "; add one in the console (Prices), or run load_prices."
            )
        self._say_price(match)
        use = _use(quantities)
        if quantities:
            self._say_cost(match, use, Served.of(options["service_tier"], options["region"]))

    def _say_price(self, match: Match) -> None:
        price = match.price
        since = "always" if price.effective_from == UNDATED else f"from {price.effective_from.isoformat()}"
        self.stdout.write(f"{price.provider}/{price.model}, found by {match.kind}, in force {since}")
        self.stdout.write(f"source: {price.source} {price.source_version}".rstrip())
        for page in additions.sources(price.provider, price.model):
            self.stdout.write(f"  with rates from {page}")
        for name in QUANTITIES:
            rate = price.rates.of(name)
            if rate is not None:
                self.stdout.write(f"  {noun(name)}: {arithmetic.usd(rate)} USD for {per_words(name)}")
        for tier, rates in price.service_tiers.items():
            differing = [name for name in QUANTITIES if rates.of(name) != price.rates.of(name)]
            said = ", ".join(f"{noun(name)} {arithmetic.usd(rates.of(name))}" for name in differing)
            self.stdout.write(f"  served as {tier}: {said}")
        for above in price.tiers:
            rates = above.rates
            said = f"input {arithmetic.usd(rates.input)}, output {arithmetic.usd(rates.output)}"
            self.stdout.write(
                f"  above {above.above_input_tokens:,} input tokens: {said}, for all tokens of the call"
            )
        for region, factor in price.regions.items():
            self.stdout.write(f"  in region {region}: tokens cost {factor} times as much")

    def _say_cost(self, match: Match, use: Use, served: Served) -> None:
        worked_out = arithmetic.of_call(match.price, use, served)
        for line in worked_out.lines:
            costs = (
                "no rate, not priced" if line.rate is None else f"x {line.rate} / {line.per} = {line.costs}"
            )
            self.stdout.write(f"{line.what}: {line.number} {costs}")
        self.stdout.write(f"sum: {worked_out.total} USD")
        if worked_out.unpriced:
            self.stdout.write(f"partly priced: no rate for {', '.join(map(noun, worked_out.unpriced))}")


def _instant(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"--at {text!r} is no time; write it as 2026-11-24T12:00:00Z.") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _tenant_id(slug: str | None) -> int | None:
    if slug is None:
        return None
    tenant_id = Tenant.objects.filter(slug=slug).values_list("pk", flat=True).first()
    if tenant_id is None:
        raise CommandError(f"There is no tenant {slug}.")
    return tenant_id


def _use(quantities: list[str]) -> Use:
    given = dict(map(_quantity, quantities))
    own = {name: given.pop(name, 0) for name in OWN_COLUMNS}
    try:
        return Use(**own, quantities=given)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _quantity(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not (number.isascii() and number.isdecimal() and len(number) <= 9):
        raise CommandError(f"{text!r} is no quantity; write it as input_tokens=1000.")
    return name, int(number)
