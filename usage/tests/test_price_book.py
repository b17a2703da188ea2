from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from tenants.models import Tenant
from usage.models import ModelPrice
from usage.prices.cost import IN_BATCH, Use, cost_of
from usage.prices.names import MatchKind
from usage.prices.stored_book import current_models, load
from usage.prices.tiers import parse_tiers

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def acme() -> Tenant:
    return Tenant.create_with_environments("acme")


def add(model: str = "gpt-4o", rate: str = "2.5", **fields: Any) -> ModelPrice:
    defaults = {
        "provider": "openai",
        "effective_from": LONG_AGO,
        "input_per_million": rate,
        "output_per_million": rate,
    }
    row = ModelPrice(model=model, **(defaults | fields))
    row.full_clean()
    row.save()
    return row


def rate(tenant: Tenant | None, model: str = "gpt-4o", at: datetime = NOW) -> int | None:
    match = load(None if tenant is None else tenant.pk).find(model, at)
    return None if match is None else match.price.rates.input


class TestLoad:
    def test_a_row_becomes_a_price(self) -> None:
        row = add(
            aliases=["chatgpt-4o"],
            cached_input_per_million="1.25",
            cache_write_per_million="3",
            reasoning_per_million="11",
            batch_input_per_million="1",
            tiers=[{"above_input_tokens": 200_000, "input": "5", "output": "15", "batch_input": "2"}],
            source="contract",
        )
        match = load(None).find("chatgpt-4o", NOW)
        assert match is not None
        assert match.kind is MatchKind.ALIAS
        price = match.price
        assert (price.price_id, price.source, price.effective_from) == (row.pk, "contract", LONG_AGO)
        assert (price.rates.cached_input, price.rates.cache_write, price.rates.reasoning) == (
            1_250_000_000,
            3_000_000_000,
            11_000_000_000,
        )
        assert price.batch is not None
        assert (price.batch.input, price.batch.output) == (1_000_000_000, 2_500_000_000)
        long = Use(input_tokens=1_000_000, output_tokens=0)
        assert cost_of(price, long).nano == 5_000_000_000
        assert cost_of(price, long, IN_BATCH).nano == 2_000_000_000

    def test_the_shared_book_is_compiled_once(self) -> None:
        add()
        first = load(None)
        with CaptureQueriesContext(connection) as queries:
            assert load(None) is first
        assert len(queries) == 1

    def test_a_tenant_without_prices_shares_the_book(self, acme: Tenant) -> None:
        add()
        assert load(acme.pk) is load(None)

    def test_a_new_changed_or_deleted_row_is_seen_by_the_next_load(self) -> None:
        row = add()
        assert rate(None) == 2_500_000_000
        row.input_per_million = Decimal("3")
        row.save()
        assert rate(None) == 3_000_000_000
        row.active = False
        row.save()
        assert rate(None) is None
        row.delete()
        add(rate="4")
        assert rate(None) == 4_000_000_000

    def test_a_change_that_is_not_the_latest_one_is_seen_too(self) -> None:
        """Of two changes the one that began earlier may commit later."""
        older, newer = add("older"), add("newer")
        late = newer.updated_at + timedelta(seconds=9)
        ModelPrice.objects.filter(pk=newer.pk).update(updated_at=late)
        load(None)
        earlier = late - timedelta(microseconds=1)
        ModelPrice.objects.filter(pk=older.pk).update(input_per_million=7, updated_at=earlier)
        assert rate(None, "older") == 7_000_000_000

    def test_a_tenants_price_is_its_own(self, acme: Tenant) -> None:
        other = Tenant.create_with_environments("other")
        add(rate="2.5")
        add(rate="1", tenant=acme)
        assert rate(acme) == 1_000_000_000
        assert rate(other) == rate(None) == 2_500_000_000

    def test_history_is_charged_at_the_price_of_its_day(self) -> None:
        add(rate="10")
        add(rate="2", effective_from=NOW)
        assert rate(None, at=NOW - timedelta(seconds=1)) == 10_000_000_000
        assert rate(None, at=NOW) == 2_000_000_000

    def test_a_row_that_is_no_price_leaves_only_its_own_model_unpriced(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        add()
        broken = add("broken")
        ModelPrice.objects.filter(pk=broken.pk).update(tiers=[{"above_input_tokens": "many"}])
        assert rate(None, "broken") is None
        assert rate(None) == 2_500_000_000
        assert "openai/broken" in caplog.text


class TestConstraints:
    def test_a_model_has_one_price_per_start(self, acme: Tenant) -> None:
        for tenant in (None, acme):
            row = add(tenant=tenant)
            row.pk = None
            with pytest.raises(IntegrityError), transaction.atomic():
                row.save(force_insert=True)

    @pytest.mark.parametrize("name", ["input_per_million", "batch_cache_write_per_million"])
    @pytest.mark.parametrize("rate", ["-0.000000001", "10000.000000001"])
    def test_the_database_refuses_a_rate_out_of_range(self, name: str, rate: str) -> None:
        row = add()
        with pytest.raises(IntegrityError), transaction.atomic():
            ModelPrice.objects.filter(pk=row.pk).update(**{name: Decimal(rate)})

    @pytest.mark.parametrize(
        "tiers",
        [
            {},
            "x",
            [1],
            [{"above_input_tokens": 1}],
            [{"above_input_tokens": 0, "input": "1", "output": "1"}],
            [{"above_input_tokens": True, "input": "1", "output": "1"}],
            [{"above_input_tokens": "5", "input": "1", "output": "1"}],
            [{"above_input_tokens": 5, "input": 1.5, "output": "1"}],
            [{"above_input_tokens": 5, "input": "NaN", "output": "1"}],
            [{"above_input_tokens": 5, "input": "-1", "output": "1"}],
            [{"above_input_tokens": 5, "input": "10001", "output": "1"}],
            [{"above_input_tokens": 5, "input": "x", "output": "1"}],
            [{"above_input_tokens": 5, "input": "1", "output": "1", "imput": "1"}],
            [{"above_input_tokens": 5, "input": "1", "output": "1"}] * 2,
            [{"above_input_tokens": n, "input": "1", "output": "1"} for n in range(1, 10)],
        ],
    )
    def test_tiers_that_are_none_are_refused(self, tiers: object) -> None:
        with pytest.raises(ValidationError) as error:
            add(tiers=tiers)
        assert "tiers" in error.value.message_dict

    def test_tiers_are_read_exactly(self) -> None:
        (tier,) = parse_tiers([{"above_input_tokens": 5, "input": "0.000000001", "output": "0"}])
        assert (tier.above_input_tokens, tier.rates.input, tier.rates.output, tier.service_tiers) == (
            5,
            1,
            0,
            {},
        )


class TestCurrentModels:
    def test_each_model_is_listed_with_what_is_charged_now(self, acme: Tenant) -> None:
        add(rate="10")
        add(rate="2.5", effective_from=NOW, cached_input_per_million="1.25", aliases=["chatgpt-4o"])
        add(rate="99", effective_from=NOW + timedelta(days=1))
        add("own", "0", provider="azure", tenant=acme, source="contract")
        own, shared = current_models(acme.pk, NOW)
        assert (own.provider, own.model, own.override, own.source) == ("azure", "own", True, "contract")
        assert own.input_per_million == "0.00"
        assert (shared.model, shared.aliases, shared.effective_from) == ("gpt-4o", ["chatgpt-4o"], NOW)
        assert (
            shared.input_per_million,
            shared.cached_input_per_million,
            shared.cache_write_per_million,
        ) == (
            "2.50",
            "1.25",
            "2.50",
        )
        assert not shared.override
        assert [listed.model for listed in current_models(None, NOW)] == ["gpt-4o"]

    def test_tiers_are_listed(self) -> None:
        add(tiers=[{"above_input_tokens": 200_000, "input": "5", "output": "15"}])
        (listed,) = current_models(None, NOW)
        (tier,) = listed.tiers
        assert (tier.above_input_tokens, tier.input_per_million, tier.reasoning_per_million) == (
            200_000,
            "5.00",
            "15.00",
        )
