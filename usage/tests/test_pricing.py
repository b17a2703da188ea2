import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.lengths import NAME_LENGTH_MAX
from usage.amounts import TOKENS_MAX
from usage.money import MAX_LIMIT_NANO, NANO, TOKENS_PER_RATE
from usage.prices.book import RESOLVED_NAMES_MAX, PriceBook
from usage.prices.cost import (
    IN_BATCH,
    RATE_MAX_NANO,
    Price,
    Rates,
    Tier,
    Use,
    completed,
    cost_of,
)
from usage.prices.names import MatchKind
from usage.quantities import CACHE_WRITE, CACHED, INPUT, OUTPUT, REASONING, ServiceTier

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def usd(text: str) -> int:
    return int(Decimal(text) * NANO)


def price(model: str, rate: str = "1", provider: str = "openai", **fields: object) -> Price:
    known = Price(provider=provider, model=model, rates=Rates(input=usd(rate), output=usd(rate)))
    return replace(known, **fields)  # type: ignore[arg-type]


GPT_4O = price("gpt-4o", "2.5", aliases=("gpt-4o-2024-08-06", "chatgpt-4o"))
GPT_4O_MAY = price("gpt-4o-2024-05-13", "5")
GPT_4O_MINI = price("gpt-4o-mini", "0.15")
SONNET_4 = price("claude-sonnet-4-0", "3", "anthropic", aliases=("claude-sonnet-4",))
BOOK = PriceBook.build([GPT_4O, GPT_4O_MAY, GPT_4O_MINI, SONNET_4])


def found(
    model: str, *, book: PriceBook = BOOK, at: datetime = NOW, provider: str | None = None
) -> Price | None:
    match = book.find(model, at, provider)
    return None if match is None else match.price


def kind(model: str, *, book: PriceBook = BOOK) -> MatchKind | None:
    match = book.find(model, NOW)
    return None if match is None else match.kind


class TestUse:
    @pytest.mark.parametrize(
        ("counts", "field"),
        [
            ({"cached_input_tokens": 11}, "cached_input_tokens"),
            ({"cache_write_tokens": 11}, "cache_write_tokens"),
            ({"cached_input_tokens": 6, "cache_write_tokens": 5}, "cache_write_tokens"),
            ({"reasoning_tokens": 6}, "reasoning_tokens"),
            ({"input_tokens": -1}, "input_tokens"),
            ({"output_tokens": -1}, "output_tokens"),
            ({"cached_input_tokens": -1}, "cached_input_tokens"),
            ({"input_tokens": TOKENS_MAX + 1}, "input_tokens"),
        ],
    )
    def test_parts_larger_than_their_total_are_refused_by_name(
        self, counts: dict[str, int], field: str
    ) -> None:
        with pytest.raises(ValueError, match=field):
            msgspec.convert({"input_tokens": 10, "output_tokens": 5} | counts, Use)

    def test_parts_may_be_all_of_their_total(self) -> None:
        Use(input_tokens=10, output_tokens=5, cached_input_tokens=4, cache_write_tokens=6, reasoning_tokens=5)


class TestCost:
    def test_each_part_is_charged_at_its_own_rate(self) -> None:
        rates = Rates(
            input=usd("4"),
            output=usd("20"),
            cached_input=usd("0.4"),
            cache_write=usd("5"),
            reasoning=usd("30"),
        )
        use = Use(
            input_tokens=1_000,
            output_tokens=100,
            cached_input_tokens=500,
            cache_write_tokens=300,
            reasoning_tokens=40,
        )
        expected = (
            200 * usd("4") + 500 * usd("0.4") + 300 * usd("5") + 60 * usd("20") + 40 * usd("30")
        ) // 1_000_000
        assert cost_of(price("m", rates=rates), use).nano == expected

    def test_a_part_without_a_rate_costs_what_its_total_costs(self) -> None:
        rates = Rates(input=usd("2"), output=usd("8"))
        parts = Use(
            input_tokens=10, output_tokens=10, cached_input_tokens=4, cache_write_tokens=5, reasoning_tokens=7
        )
        whole = Use(input_tokens=10, output_tokens=10)
        assert (
            cost_of(price("m", rates=rates), parts).nano
            == cost_of(price("m", rates=rates), whole).nano
            == 100_000
        )

    def test_a_free_model_costs_nothing(self) -> None:
        use = Use(input_tokens=TOKENS_MAX, output_tokens=TOKENS_MAX)
        assert cost_of(price("m", "0"), use).nano == 0

    def test_no_tokens_cost_nothing(self) -> None:
        assert cost_of(GPT_4O, Use(input_tokens=0, output_tokens=0)).nano == 0

    def test_the_smallest_use_of_a_priced_model_costs_at_least_a_nano(self) -> None:
        cheapest = price("m", rates=Rates(input=1, output=1))
        assert cost_of(cheapest, Use(input_tokens=1, output_tokens=0)).nano == 1

    @pytest.mark.parametrize(
        ("total", "rate"), [(199_999, "3"), (200_000, "3"), (200_001, "6"), (400_000, "6"), (400_001, "12")]
    )
    def test_a_tier_begins_above_its_threshold_and_covers_every_token(self, total: int, rate: str) -> None:
        tiers = tuple(
            Tier(above_input_tokens=above, rates=Rates(input=usd(tier_rate), output=0))
            for above, tier_rate in ((200_000, "6"), (400_000, "12"))
        )
        tiered = price("m", rates=Rates(input=usd("3"), output=0), tiers=tiers)
        assert (
            cost_of(tiered, Use(input_tokens=total, output_tokens=0)).nano == total * usd(rate) // 1_000_000
        )

    def test_cached_tokens_count_for_the_threshold(self) -> None:
        tier = Tier(
            above_input_tokens=200_000, rates=Rates(input=usd("6"), output=0, cached_input=usd("0.6"))
        )
        tiered = price("m", rates=Rates(input=usd("3"), output=0, cached_input=usd("0.3")), tiers=(tier,))
        use = Use(input_tokens=200_001, output_tokens=0, cached_input_tokens=200_000)
        assert cost_of(tiered, use).nano == (200_000 * usd("0.6") + usd("6")) // 1_000_000

    def test_a_batch_rate_that_is_not_given_is_the_usual_one(self) -> None:
        rates = Rates(input=usd("2"), output=usd("8"), cached_input=usd("0.5"))
        batch = completed(rates, {INPUT: usd("1"), OUTPUT: usd("4")})
        use = Use(input_tokens=3_000_000, output_tokens=1_000_000, cached_input_tokens=1_000_000)
        assert cost_of(
            price("o3", rates=rates, service_tiers={ServiceTier.BATCH: batch}), use, IN_BATCH
        ).nano == usd("6.5")

    def test_a_batch_call_of_a_model_without_batch_rates_costs_the_full_price(self) -> None:
        use = Use(input_tokens=1_000, output_tokens=10)
        assert cost_of(GPT_4O, use, IN_BATCH).nano == cost_of(GPT_4O, use).nano

    def test_a_long_batch_call_is_charged_the_batch_rates_of_its_tier(self) -> None:
        tier = Tier(
            above_input_tokens=10,
            rates=Rates(input=8, output=8),
            service_tiers={ServiceTier.BATCH: Rates(input=4_000_000, output=8)},
        )
        tiered = price("m", service_tiers={ServiceTier.BATCH: Rates(input=2, output=2)}, tiers=(tier,))
        assert cost_of(tiered, Use(input_tokens=11, output_tokens=0), IN_BATCH).nano == 44

    def test_no_call_can_cost_more_than_the_largest_limit(self) -> None:
        dearest = price("m", rates=Rates(input=RATE_MAX_NANO, output=RATE_MAX_NANO))
        assert cost_of(dearest, Use(input_tokens=TOKENS_MAX, output_tokens=TOKENS_MAX)).nano <= MAX_LIMIT_NANO

    @pytest.mark.parametrize("rate", [-1, RATE_MAX_NANO + 1])
    def test_a_rate_out_of_range_is_refused_by_name(self, rate: int) -> None:
        with pytest.raises(ValueError, match="cached_input"):
            Rates(input=1, output=1, cached_input=rate)

    def test_unsorted_tiers_and_naive_instants_are_refused(self) -> None:
        tier = Tier(above_input_tokens=10, rates=Rates(input=1, output=1))
        with pytest.raises(ValueError, match="rising"):
            price("m", tiers=(tier, tier))
        with pytest.raises(ValueError, match="time zone"):
            price("m", effective_from=datetime(2026, 1, 1))  # noqa: DTZ001


rates = st.integers(0, RATE_MAX_NANO)
optional_rates = st.none() | rates
counts = st.integers(0, 1_000_000)


@st.composite
def full_rates(draw: st.DrawFn) -> Rates:
    return Rates(
        input=draw(rates),
        output=draw(rates),
        cached_input=draw(optional_rates),
        cache_write=draw(optional_rates),
        reasoning=draw(optional_rates),
    )


@st.composite
def uses(draw: st.DrawFn) -> Use:
    plain, cached, write, visible, reasoning = (draw(counts) for _ in range(5))
    return Use(
        input_tokens=plain + cached + write,
        output_tokens=visible + reasoning,
        cached_input_tokens=cached,
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
    )


@given(full_rates(), uses(), st.sampled_from(["input_tokens", "output_tokens"]), counts)
def test_more_tokens_never_cost_less(rate: Rates, use: Use, grown: str, more: int) -> None:
    larger = msgspec.structs.replace(use, **{grown: getattr(use, grown) + more})
    assert cost_of(price("m", rates=rate), larger).nano >= cost_of(price("m", rates=rate), use).nano


@given(full_rates(), uses())
def test_the_cost_is_the_exact_sum_rounded_up_by_less_than_a_nano(rate: Rates, use: Use) -> None:
    plain = use.input_tokens - use.cached_input_tokens - use.cache_write_tokens
    parts = {
        INPUT: plain,
        CACHED: use.cached_input_tokens,
        CACHE_WRITE: use.cache_write_tokens,
        OUTPUT: use.output_tokens - use.reasoning_tokens,
        REASONING: use.reasoning_tokens,
    }
    exact = sum(number * (rate.of(name) or 0) for name, number in parts.items())
    assert 0 <= cost_of(price("m", rates=rate), use).nano * TOKENS_PER_RATE - exact < TOKENS_PER_RATE


@given(full_rates(), uses(), st.integers(0, 100))
def test_a_batch_call_at_a_discount_never_costs_more(rate: Rates, use: Use, percent: int) -> None:
    cheaper = {name: (rate.of(name) or 0) * percent // 100 for name in (INPUT, OUTPUT, CACHED, CACHE_WRITE)}
    discount = price("m", rates=rate, service_tiers={ServiceTier.BATCH: completed(rate, cheaper)})
    assert cost_of(discount, use, IN_BATCH).nano <= cost_of(discount, use).nano


class TestNames:
    def test_a_model_is_found_by_its_own_name(self) -> None:
        assert found("gpt-4o") is GPT_4O
        assert kind("gpt-4o") is MatchKind.EXACT

    def test_a_model_is_found_by_an_alias(self) -> None:
        assert found("gpt-4o-2024-08-06") is GPT_4O
        assert kind("gpt-4o-2024-08-06") is MatchKind.ALIAS

    @pytest.mark.parametrize("name", ["GPT-4o", "openai/gpt-4o", " gpt-4o ", "OpenAI/GPT-4o"])
    def test_case_and_a_provider_prefix_do_not_matter(self, name: str) -> None:
        assert found(name) is GPT_4O

    @pytest.mark.parametrize("name", ["gpt-4o-2025-03-01", "gpt-4o-20250301", "gpt-4o@20250301"])
    def test_a_dated_name_that_is_not_listed_has_the_price_of_its_base(self, name: str) -> None:
        assert found(name) is GPT_4O
        assert kind(name) is MatchKind.SNAPSHOT_SUFFIX

    def test_a_dated_alias_has_the_price_of_the_model(self) -> None:
        assert found("claude-sonnet-4-20250514") is SONNET_4
        assert kind("claude-sonnet-4-20250514") is MatchKind.SNAPSHOT_SUFFIX

    def test_a_listed_snapshot_has_its_own_price(self) -> None:
        assert found("gpt-4o-2024-05-13") is GPT_4O_MAY
        assert kind("gpt-4o-2024-05-13") is MatchKind.EXACT

    @pytest.mark.parametrize(
        "name",
        [
            "gpt-7", "gpt-4", "gpt-4o-", "gpt-4o-max", "gpt-4o-mini-high", "gpt-4o-mini-2030-01-01",
            "gpt-4o-2025-02-30", "gpt-4o-20251301", "gpt-4o-0613", "gpt-4o-2025", "gpt-4o2025-03-01",
            "gpt-4o-2025-03-01-preview", "gpt-4o-2024-08-06-2025-03-01", "2025-03-01", "-2025-03-01", "",
            " ", "acme/gpt-4o", "openai/", "/gpt-4o", "openai/openai/gpt-4o", "ft:gpt-4o:acme::abc",
            "ft:gpt-4o", "x" * (NAME_LENGTH_MAX + 1), "gpt-4o\x00", "gpt-4o-２０２５-０３-０１",
        ],
    )  # fmt: skip
    def test_an_unknown_name_has_no_price(self, name: str) -> None:
        assert found(name) is None

    def test_a_snapshot_cannot_be_younger_than_the_call(self) -> None:
        day = datetime(2026, 6, 1, tzinfo=UTC)
        assert found("gpt-4o-mini-2026-06-01", at=day - timedelta(days=2)) is None
        assert found("gpt-4o-mini-2026-06-01", at=day) is GPT_4O_MINI

    def test_a_fine_tuned_name_has_a_price_only_if_its_base_is_listed_as_fine_tuned(self) -> None:
        tuned = price("ft:gpt-4o", "3.75")
        book = PriceBook.build([GPT_4O, tuned])
        assert found("ft:gpt-4o:acme:support:abc", book=book) is tuned
        assert found("ft:gpt-4o-2024-08-06:acme::abc", book=book) is tuned
        assert found("ft:gpt-4o-mini:acme::abc", book=book) is None

    def test_a_models_own_name_beats_another_models_alias(self) -> None:
        own, other = price("a", "1"), price("b", "2", aliases=("a",))
        for rows in ([own, other], [other, own]):
            assert found("a", book=PriceBook.build(rows)) is own


class TestProviders:
    GROQ = price("gpt-oss", "9", "groq")
    FIREWORKS = price("gpt-oss", "8", "fireworks")
    GOOGLE_SONNET = price("claude-sonnet-4-0", "4", "google")
    BOOK = PriceBook.build(
        [GPT_4O, SONNET_4, GROQ, FIREWORKS, GOOGLE_SONNET, price("claude-x-20250101", "7", "groq")]
    )

    def test_a_named_provider_has_its_own_price(self) -> None:
        assert found("gpt-oss", book=self.BOOK, provider="groq") is self.GROQ
        assert found("groq/gpt-oss", book=self.BOOK) is self.GROQ
        assert found("fireworks_ai/gpt-oss", book=self.BOOK) is self.FIREWORKS

    def test_a_name_that_several_hosts_sell_has_no_price_without_a_provider(self) -> None:
        assert found("gpt-oss", book=self.BOOK) is None

    def test_a_bare_name_means_its_maker(self) -> None:
        assert found("claude-sonnet-4-0", book=self.BOOK) is SONNET_4
        assert found("claude-sonnet-4-0", book=self.BOOK, provider="google") is self.GOOGLE_SONNET

    def test_a_hosts_listing_never_beats_a_dated_name_of_the_maker(self) -> None:
        book = PriceBook.build([SONNET_4, price("claude-sonnet-4-20250514", "9", "aws")])
        assert found("claude-sonnet-4-20250514", book=book) is SONNET_4

    def test_a_reseller_charges_the_makers_price_for_what_it_does_not_list(self) -> None:
        assert found("azure/gpt-4o", book=self.BOOK) is GPT_4O
        assert found("gpt-4o", book=self.BOOK, provider="Azure") is GPT_4O

    def test_no_price_of_another_provider_is_taken(self) -> None:
        assert found("gpt-4o", book=self.BOOK, provider="groq") is None
        assert found("gpt-4o", book=self.BOOK, provider="my-gateway") is None
        assert found("groq/gpt-4o", book=self.BOOK) is None

    def test_a_slash_may_be_part_of_the_name(self) -> None:
        hosted = price("openai/gpt-oss", "9", "groq")
        book = PriceBook.build([GPT_4O, hosted])
        assert found("openai/gpt-oss", book=book) is hosted
        assert found("openai/gpt-oss", book=book, provider="groq") is hosted
        assert found("groq/openai/gpt-oss", book=book) is hosted


class TestDates:
    JUNE = datetime(2025, 6, 10, tzinfo=UTC)
    OLD = price("o3", "10")
    NEW = price("o3", "2", effective_from=JUNE)

    def test_the_price_in_force_at_the_instant_counts(self) -> None:
        for rows in ([self.OLD, self.NEW], [self.NEW, self.OLD]):
            book = PriceBook.build(rows)
            assert found("o3", book=book, at=self.JUNE - timedelta(microseconds=1)) is self.OLD
            assert found("o3", book=book, at=self.JUNE) is self.NEW

    def test_before_its_first_start_a_model_has_no_price(self) -> None:
        assert found("o3", book=PriceBook.build([self.NEW]), at=self.JUNE - timedelta(seconds=1)) is None


class TestOverrides:
    OWN = price("gpt-4o", "2")

    def test_a_tenants_price_wins_under_every_name_of_the_model(self) -> None:
        book = BOOK.with_overrides([self.OWN])
        for name in ("gpt-4o", "chatgpt-4o", "gpt-4o-2025-03-01", "azure/gpt-4o"):
            assert found(name, book=book) is self.OWN
            assert kind(name, book=book) is MatchKind.OVERRIDE

    def test_it_leaves_other_models_and_other_tenants_alone(self) -> None:
        book = BOOK.with_overrides([self.OWN])
        assert found("gpt-4o-2024-05-13", book=book) is GPT_4O_MAY
        assert found("gpt-4o-mini", book=book) is GPT_4O_MINI
        assert found("gpt-4o") is GPT_4O

    def test_before_it_starts_the_shared_price_is_in_force(self) -> None:
        later = replace(self.OWN, effective_from=NOW)
        book = PriceBook.build([GPT_4O], [later])
        assert found("gpt-4o", book=book, at=NOW - timedelta(seconds=1)) is GPT_4O
        assert found("gpt-4o", book=book, at=NOW) is later

    def test_it_can_price_what_the_book_does_not_know(self) -> None:
        deployment = price("prod-deployment", "2.2", "azure", aliases=("prod-eu",))
        book = BOOK.with_overrides([deployment])
        for name in ("prod-deployment", "azure/prod-deployment", "prod-eu"):
            assert found(name, book=book) is deployment

    def test_a_price_at_a_host_beats_the_makers_for_a_bare_name_only(self) -> None:
        hosted = price("gpt-4o", "1.9", "azure")
        book = BOOK.with_overrides([hosted])
        assert found("gpt-4o", book=book) is hosted
        assert found("gpt-4o", book=book, provider="azure") is hosted
        assert found("gpt-4o", book=book, provider="openai") is GPT_4O

    def test_a_free_override_costs_nothing(self) -> None:
        book = BOOK.with_overrides([price("gpt-4o", "0")])
        free = found("gpt-4o", book=book)
        assert free is not None
        assert cost_of(free, Use(input_tokens=10, output_tokens=10)).nano == 0

    def test_a_providers_other_names_are_one_provider(self) -> None:
        own = price("grok-4", "1", "xai")
        assert found("grok-4", book=BOOK.with_overrides([own]), provider="x-ai") is own


def test_all_models_in_force_are_listed_once() -> None:
    future = price("gpt-9", effective_from=NOW + timedelta(days=1))
    own = price("gpt-4o", "2")
    listed = PriceBook.build([GPT_4O, GPT_4O_MINI, SONNET_4, future], [own]).in_force(NOW)
    assert [match.price for match in listed] == [SONNET_4, own, GPT_4O_MINI]


def test_a_flood_of_names_neither_grows_the_book_nor_loses_prices() -> None:
    book = PriceBook.build([GPT_4O])

    def flood(seed: int) -> None:
        for number in range(RESOLVED_NAMES_MAX):
            assert book.find(f"hostile-{seed}-{number}", NOW) is None
            assert found("gpt-4o", book=book) is GPT_4O

    threads = [threading.Thread(target=flood, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert book.names_remembered <= RESOLVED_NAMES_MAX
