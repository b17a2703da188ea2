"""Calls that are billed for more than text tokens: what they cost, what they are held at, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.assessment import held_cost_nano
from usage.money import MAX_LIMIT_NANO, NANO
from usage.prices import genai
from usage.prices.book import PriceBook
from usage.prices.cost import (
    RATE_MAX_NANO,
    Cost,
    Price,
    Rates,
    Served,
    Tier,
    Use,
    cost_of,
    dearest_of,
    dearest_rates,
)
from usage.prices.rates import parse_other_rates, parse_regions, parse_service_tiers
from usage.quantities import (
    INPUT,
    MAPPED,
    OUTPUT,
    OWN_COLUMNS,
    QUANTITIES,
    REQUESTS,
    ServiceTier,
    check_mapped,
    disjoint,
    root,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def nano(usd: str) -> int:
    return int(Decimal(usd) * NANO)


def price(rates: Rates, **more: object) -> Price:
    return Price(provider="openai", model="m", rates=rates, **more)  # type: ignore[arg-type]


ALL_KINDS = Rates(
    input=nano("4"),
    output=nano("16"),
    cached_input=nano("0.4"),
    others={
        "cache_write_1h_tokens": nano("8"),
        "input_audio_tokens": nano("32"),
        "cached_audio_tokens": nano("0.8"),
        "output_audio_tokens": nano("64"),
        "web_searches": nano("10"),
        "input_audio_seconds": nano("0.36"),
    },
)


def use(input_tokens: int, output_tokens: int, *, cached: int = 0, **quantities: int) -> Use:
    return Use(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        quantities=quantities,
    )


class TestCost:
    def test_each_kind_has_its_own_rate_and_the_rest_is_text(self) -> None:
        spoken = use(
            1_000, 100, cached=300, input_audio_tokens=500, cached_audio_tokens=200, output_audio_tokens=60
        )
        by_hand = (
            400 * nano("4")
            + 100 * nano("0.4")
            + 300 * nano("32")
            + 200 * nano("0.8")
            + 40 * nano("16")
            + 60 * nano("64")
        ) // 1_000_000
        assert cost_of(price(ALL_KINDS), spoken) == Cost(by_hand)

    def test_searches_are_per_thousand_and_seconds_per_hour(self) -> None:
        assert cost_of(price(ALL_KINDS), use(0, 0, web_searches=3, input_audio_seconds=600)) == Cost(
            nano("0.09")
        )

    def test_a_kind_without_a_rate_is_named_and_never_priced_as_another(self) -> None:
        seen = use(1_000, 0, input_image_tokens=900, file_searches=2)
        assert cost_of(price(ALL_KINDS), seen) == Cost(
            nano("0.0004"), ("input_image_tokens", "file_searches")
        )

    def test_a_kind_may_cost_the_same_as_its_total_however_it_is_served(self) -> None:
        rates = Rates(input=nano("2"), output=0, others={"input_image_tokens": INPUT})
        flex = Rates(input=nano("1"), output=0, others={"input_image_tokens": INPUT})
        seen = use(1_000_000, 0, input_image_tokens=900_000)
        both = price(rates, service_tiers={ServiceTier.FLEX: flex})
        assert cost_of(both, seen).nano == nano("2")
        assert cost_of(both, seen, Served(ServiceTier.FLEX)).nano == nano("1")

    def test_a_region_makes_tokens_dearer_and_not_the_fees(self) -> None:
        here = price(ALL_KINDS, regions={"us": Decimal("1.1")})
        searched = use(1_000_000, 0, web_searches=1)
        assert cost_of(here, searched, Served(region="us")).nano == nano("4.41")
        assert cost_of(here, searched, Served(region="eu")).nano == nano("4.01")

    def test_a_dearer_tier_of_service_without_rates_is_named(self) -> None:
        plain = price(Rates(input=nano("2"), output=nano("2")))
        assert cost_of(plain, use(500_000, 0), Served(ServiceTier.PRIORITY)) == Cost(
            nano("1"), ("service_tier",)
        )
        assert cost_of(plain, use(500_000, 0), Served(ServiceTier.FLEX)) == Cost(nano("1"))

    def test_a_fee_for_each_request_is_charged_once_unless_the_report_says_how_often(self) -> None:
        fee = price(Rates(input=0, output=0, others={REQUESTS: nano("5")}))
        assert cost_of(fee, use(10, 10)).nano == nano("0.005")
        assert cost_of(fee, use(10, 10, provider_requests=3)).nano == nano("0.015")
        assert cost_of(fee, use(0, 0)).nano == 0

    def test_no_call_can_cost_more_than_the_largest_limit(self) -> None:
        beside = {name: QUANTITIES[name].most for name in MAPPED if QUANTITIES[name].unit != "tokens"}
        dearest = Rates(
            input=RATE_MAX_NANO, output=RATE_MAX_NANO, others=dict.fromkeys(MAPPED, RATE_MAX_NANO)
        )
        assert cost_of(price(dearest), use(100_000_000, 100_000_000, **beside)).nano <= MAX_LIMIT_NANO


class TestRefused:
    @pytest.mark.parametrize(
        ("quantities", "named"),
        [
            ({"audio_tokens": 1}, "quantities.audio_tokens is not known. Known are cache_write_1h_tokens"),
            ({"input_tokens": 1}, "quantities.input_tokens is a field of its own"),
            ({"web_searches": -1}, "quantities.web_searches must be from 0 to 10000"),
            ({"web_searches": 10_001}, "quantities.web_searches must be from 0 to 10000"),
            ({"input_audio_tokens": 11}, "quantities.input_audio_tokens is too much"),
            ({"input_audio_tokens": 6, "input_image_tokens": 5}, "quantities.input_image_tokens is too much"),
            ({"cache_write_1h_tokens": 7}, "quantities.cache_write_1h_tokens is too much"),
            (
                {"input_audio_tokens": 2, "cached_audio_tokens": 3},
                "quantities.cached_audio_tokens is too much",
            ),
            (
                {"input_audio_tokens": 6, "cached_audio_tokens": 5},
                "quantities.cached_audio_tokens is too much",
            ),
            ({"output_audio_tokens": 5}, "quantities.output_audio_tokens is too much"),
        ],
    )
    def test_what_no_call_can_have_used_is_refused_by_name(
        self, quantities: dict[str, int], named: str
    ) -> None:
        with pytest.raises(ValueError, match=named):
            Use(
                input_tokens=10,
                output_tokens=5,
                cached_input_tokens=4,
                reasoning_tokens=1,
                quantities=quantities,
            )

    @pytest.mark.parametrize(
        ("parse", "stored", "named"),
        [
            (parse_other_rates, [], "must be an object"),
            (parse_other_rates, {"web_search": "1"}, "web_search is not known"),
            (parse_other_rates, {"input_tokens": "1"}, "input_tokens has a field of its own"),
            (parse_other_rates, {"web_searches": 1}, "web_searches must be a decimal string"),
            (parse_other_rates, {"web_searches": "-1"}, "web_searches must be a decimal string"),
            (parse_other_rates, {"web_searches": "10001"}, "web_searches must be at most"),
            (
                parse_other_rates,
                {"input_image_tokens": "output_tokens"},
                "input_image_tokens must be a decimal",
            ),
            (parse_service_tiers, {"turbo": {}}, "turbo is no tier of service"),
            (parse_service_tiers, {"flex": []}, "flex must be an object"),
            (parse_service_tiers, {"batch": {"input_tokens": "1"}}, "batch_input_per_million"),
            (parse_regions, {"US": "1.1"}, "US"),
            (parse_regions, {"us": "0"}, "us must be a decimal string"),
            (parse_regions, {"us": 1.1}, "us must be a decimal string"),
        ],
    )
    def test_rates_that_cannot_be_are_refused_by_name(
        self, parse: object, stored: object, named: str
    ) -> None:
        with pytest.raises(ValueError, match=named):
            parse(stored)  # type: ignore[operator]


rates = st.integers(0, 100 * NANO)


@st.composite
def priced_calls(draw: st.DrawFn) -> tuple[Price, Served, Use]:
    """A price with any rates, and a call that has a part of each kind."""

    def some() -> Rates:
        others = draw(st.dictionaries(st.sampled_from(MAPPED), rates))
        optional = st.none() | rates
        return Rates(
            input=draw(rates),
            output=draw(rates),
            cached_input=draw(optional),
            cache_write=draw(optional),
            reasoning=draw(optional),
            others=others,
        )

    tiers = draw(st.lists(st.integers(1, 5_000), unique=True, max_size=2).map(sorted))
    tier = draw(st.sampled_from(ServiceTier))
    model = price(
        some(),
        service_tiers={tier: some()} if draw(st.booleans()) else {},
        tiers=tuple(
            Tier(
                above_input_tokens=above,
                rates=some(),
                service_tiers={tier: some()} if draw(st.booleans()) else {},
            )
            for above in tiers
        ),
        regions=draw(st.dictionaries(st.just("us"), st.just(Decimal("1.1")))),
    )
    parts = {name: draw(st.integers(0, 1_000)) for name in QUANTITIES}
    # What is both audio and cached is a part of both.
    whole = dict(parts)
    for name in reversed(QUANTITIES):
        for total in QUANTITIES[name].parts_of:
            whole[total] += whole[name]
        if len(QUANTITIES[name].parts_of) > 1:
            whole[INPUT] -= whole[name]
    own = {name: whole[name] for name in OWN_COLUMNS}
    return (
        model,
        Served(tier, draw(st.sampled_from(["", "us"]))),
        Use(**own, quantities={n: whole[n] for n in MAPPED}),
    )


@given(priced_calls())
def test_what_is_taken_apart_adds_up_again(call: tuple[Price, Served, Use]) -> None:
    _, _, used = call
    apart = disjoint(used.all)
    for whole in (INPUT, OUTPUT):
        assert sum(number for name, number in apart.items() if root(name) == whole) == used.all[whole]
    assert min(apart.values()) >= 0


@given(priced_calls(), st.booleans(), st.data())
def test_a_call_that_stayed_within_its_request_is_held_at_no_less_than_it_is_charged(
    call: tuple[Price, Served, Use], says_its_kinds: bool, data: st.DataObject
) -> None:
    model, served, used = call
    quantities = dict(used.quantities) if says_its_kinds else None
    if quantities is None:
        # What is not said cannot be held, if it is no kind of token.
        kept = {name: number for name, number in used.quantities.items() if QUANTITIES[name].unit == "tokens"}
        used = msgspec.structs.replace(used, quantities=kept)
    room = data.draw(st.integers(0, 100))
    held = dearest_rates(model, used.input_tokens + room, served, quantities)
    held_nano = (
        held_cost_nano(used.input_tokens + room, held.input, used.output_tokens, held.output) + held.fees
    )
    assert held_nano >= cost_of(model, used, served).nano


def test_every_name_of_the_table_is_taken_and_no_other() -> None:
    check_mapped(dict.fromkeys(MAPPED, 1))
    for name in OWN_COLUMNS:
        with pytest.raises(ValueError, match="field of its own"):
            check_mapped({name: 1})


WHOLE_BOOK = PriceBook.build(row.to_price() for row in genai.package_rows()[0])
# Every name that somebody sells, and by whom it is sold.
SOLD = [
    (name, seller) for name, sellers in WHOLE_BOOK._shared.sellers.items() for seller in sorted({*sellers})
]
SOLD_BY_SEVERAL = [(name, seller) for name, seller in SOLD if len(WHOLE_BOOK._shared.sellers[name]) > 1]


def held_at_least(name: str, seller: str | None, served: Served, used: Use) -> None:
    """Evaluated without a provider, reported of this one."""
    named, elsewhere = WHOLE_BOOK.candidates(name, NOW)
    candidates = elsewhere if named is None else (named, *elsewhere)
    match = WHOLE_BOOK.find(name, NOW, seller)
    if match is None:
        return
    held = dearest_of([each.price for each in candidates], used.input_tokens, served, used.quantities)
    held_nano = held_cost_nano(used.input_tokens, held.input, used.output_tokens, held.output) + held.fees
    assert held_nano >= cost_of(match.price, used, served).nano, (name, seller)


@pytest.mark.parametrize("tier", ServiceTier)
def test_a_name_is_held_at_no_less_than_any_of_its_sellers_charges(tier: ServiceTier) -> None:
    assert len(SOLD_BY_SEVERAL) > 50
    for name, seller in SOLD:
        for tokens in (1_000, 150_000, 900_000):
            used = Use(input_tokens=tokens, output_tokens=tokens // 3, cache_write_tokens=tokens // 2)
            held_at_least(name, seller, Served(tier), used)
            held_at_least(name, None, Served(tier), used)


@given(
    st.sampled_from(SOLD_BY_SEVERAL),
    st.sampled_from(ServiceTier),
    st.sampled_from(["", "us"]),
    st.integers(0, 1_000_000),
    st.integers(0, 100_000),
    st.dictionaries(st.sampled_from(["web_searches", "images", "input_pages"]), st.integers(1, 50)),
)
def test_whoever_sells_it_a_call_of_any_size_is_held_at_what_it_can_cost(
    sold: tuple[str, str], tier: ServiceTier, region: str, used_in: int, used_out: int, more: dict[str, int]
) -> None:
    used = Use(input_tokens=used_in, output_tokens=used_out, quantities=more)
    held_at_least(*sold, Served(tier, region), used)
