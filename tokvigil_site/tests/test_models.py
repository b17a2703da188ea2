"""`GET /v1/models`: the price book in force."""

from datetime import UTC, datetime
from decimal import Decimal

from tenants.models import Environment
from tokvigil_site.testing import Api, set_price
from tokvigil_site.tests.callers import assert_problem
from usage.models import ModelPrice


def test_it_lists_what_a_call_is_charged(api: Api) -> None:
    set_price("gpt-x", input_usd="0.15", output_usd="0.60")

    (price,) = api.get("/v1/models").json["models"]

    assert price["provider"] == "openai"
    assert price["model"] == "gpt-x"
    assert price["input_per_million"] == "0.15"
    assert price["output_per_million"] == "0.60"
    assert price["cached_input_per_million"] == "0.15"
    assert price["effective_from"] == "2020-01-01T00:00:00Z"
    assert price["source"] == "test"


def test_a_provider_leaves_the_others_out(api: Api) -> None:
    set_price("gpt-x")

    assert len(api.get("/v1/models?provider=openai").json["models"]) == 1
    assert api.get("/v1/models?provider=anthropic").json["models"] == []


def test_a_price_that_is_not_in_force_yet_is_not_listed(api: Api) -> None:
    price = set_price("gpt-x", input_usd="1")
    price.pk, price.effective_from, price.input_per_million = (
        None,
        datetime(2099, 1, 1, tzinfo=UTC),
        Decimal(9),
    )
    price.save(force_insert=True)

    assert [price["input_per_million"] for price in api.get("/v1/models").json["models"]] == ["1.00"]


def test_a_tenants_own_price_is_seen_by_that_tenant_alone(
    api: Api, other_api: Api, environment: Environment
) -> None:
    set_price("gpt-x", input_usd="1")
    ModelPrice.objects.create(
        tenant=environment.tenant,
        provider="openai",
        model="gpt-x",
        effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        input_per_million=Decimal("0.5"),
        output_per_million=Decimal(0),
    )

    assert [price["input_per_million"] for price in api.get("/v1/models").json["models"]] == ["0.50"]
    assert [price["input_per_million"] for price in other_api.get("/v1/models").json["models"]] == ["1.00"]


def test_a_bad_provider_is_refused(api: Api) -> None:
    assert_problem(api.get("/v1/models?provider="), 422, "VALIDATION_ERROR", field="provider")
