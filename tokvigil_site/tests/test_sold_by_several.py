"""A model that several hosts sell: held at the dearest of them, charged by the one that is named, never by another."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, ledger, limits, set_price
from usage.models import ModelPrice
from usage.prices import overrides

pytestmark = pytest.mark.django_db(transaction=True)

OPEN = "open-model-70b"
CALL: dict[str, Any] = {"model": OPEN, "input_tokens": 1_000_000, "max_output_tokens": 1_000_000}
USED: dict[str, Any] = {"model": OPEN, "input_tokens": 1_000_000, "output_tokens": 1_000_000}


def blocking() -> str:
    """A policy that blocks what has no price."""
    allowing = limits('{metric: cost_usd, window: day, amount: "1000", per: user}')
    return allowing.replace("unknown_price: allow", "unknown_price: block")


def sell(provider: str, input_usd: str, output_usd: str, model: str = OPEN) -> ModelPrice:
    price = set_price(model, input_usd=input_usd, output_usd=output_usd)
    price.provider = provider
    overrides.save(price, actor="test")
    return price


@pytest.fixture
def sold(environment: Environment) -> Environment:
    """One host is the dearest of the input, another of the output."""
    sell("groq", "1", "3")
    sell("together", "2", "2")
    sell("cerebras", "1", "1")
    apply_policies(environment, limits('{metric: cost_usd, window: day, amount: "1000", per: user}'))
    return environment


def test_it_is_held_at_the_dearest_of_each_kind_where_nobody_is_named(api: Api, sold: Environment) -> None:
    assert api.evaluate("ann", **CALL)["estimated_cost_usd"] == "5.00"


def test_it_is_held_at_the_price_of_the_one_who_is_named(api: Api, sold: Environment) -> None:
    for provider, cost in (("groq", "4.00"), ("together", "4.00"), ("cerebras", "2.00")):
        assert api.evaluate("ann", **CALL, provider=provider)["estimated_cost_usd"] == cost


def test_its_report_is_charged_by_the_one_it_names_and_not_by_another(api: Api, sold: Environment) -> None:
    for name, provider in (("r-1", "groq"), ("r-2", "cerebras"), ("r-3", "")):
        assert api.evaluate("ann", **CALL, request_id=name)["allowed"]
        said = {"provider": provider} if provider else {}
        assert api.report(name, "ann", **USED, **said).status == 201
    costs = {row.request_id: row.cost_nano for row in ledger(sold)}
    assert costs == {"r-1": 4 * 10**9, "r-2": 2 * 10**9, "r-3": None}


def test_a_maker_is_one_of_its_sellers(api: Api, sold: Environment) -> None:
    sell("openai", "0.10", "0.20")
    assert api.evaluate("ann", **CALL)["estimated_cost_usd"] == "5.00"
    assert api.evaluate("ann", **CALL, provider="openai")["estimated_cost_usd"] == "0.30"
    assert api.evaluate("ann", **CALL | {"model": f"openai/{OPEN}"})["estimated_cost_usd"] == "0.30", (
        "the name says who sells it"
    )


def test_the_tenants_own_price_for_the_name_stands_alone(api: Api, sold: Environment) -> None:
    sell("openai", "0.10", "0.20")
    own = ModelPrice(
        tenant=sold.tenant, provider="openai", model=OPEN, effective_from="2020-01-01T00:00:00Z",
        input_per_million=Decimal("0.05"), output_per_million=Decimal("0.05"), source="contract",
    )  # fmt: skip
    own.full_clean()
    overrides.save(own, actor="test")
    assert api.evaluate("ann", **CALL)["estimated_cost_usd"] == "0.10"


def test_a_seller_that_comes_or_goes_counts_at_the_next_call(api: Api, sold: Environment) -> None:
    dear = sell("fireworks", "20", "30")
    assert api.evaluate("ann", **CALL)["estimated_cost_usd"] == "50.00"
    dear.active = False
    overrides.save(dear, actor="test")
    assert api.evaluate("ann", **CALL)["estimated_cost_usd"] == "5.00"


def test_the_trace_names_the_dearest(api: Api, sold: Environment) -> None:
    assert api.evaluate("ann", **CALL, dry_run=True, explain=True)["trace"]["price"]["provider"] == "groq"


def test_where_unknown_prices_are_blocked_it_must_say_who_sells_it(api: Api, sold: Environment) -> None:
    """Its report could not be charged: a budget would never fill."""
    apply_policies(sold, blocking())
    refused = api.evaluate("ann", **CALL)
    assert (refused["reason_code"], refused["estimated_cost_usd"]) == ("PRICE_UNKNOWN", "5.00")
    assert "say which `provider` it goes to" in refused["message"]
    assert api.evaluate("ann", **CALL, provider="groq")["allowed"]
    sell("openai", "0.10", "0.20")
    assert api.evaluate("ann", **CALL)["estimated_cost_usd"] == "5.00", "its maker's price is charged"


def test_a_search_that_only_another_has_a_rate_for_is_not_priced(api: Api, sold: Environment) -> None:
    sell("openai", "0.10", "0.20")
    groq = ModelPrice.objects.get(model=OPEN, provider="groq")
    groq.other_rates = {"web_searches": "10"}
    groq.save()
    apply_policies(sold, blocking())
    searching = {**CALL, "quantities": {"web_searches": 1}}
    assert api.evaluate("ann", **searching)["reason_code"] == "PRICE_UNKNOWN"
    assert api.evaluate("ann", **searching, provider="groq")["allowed"]
