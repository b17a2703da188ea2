"""The shared book as load_prices fills it, against the package it comes from and against published costs."""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from io import StringIO

import genai_prices
import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from genai_prices.data import providers as genai_providers
from genai_prices.types import ModelInfo, Provider, StartDateConstraint

from tenants.models import Environment, Tenant
from usage.models import ModelPrice
from usage.money import NANO, format_usd
from usage.prices import additions, genai
from usage.prices.book import PriceBook
from usage.prices.cost import AS_USUAL, IN_BATCH, UNDATED, Cost, Rates, Served, Use, cost_of
from usage.prices.genai import SOURCE, load_shared_prices, package_rows
from usage.prices.names import MatchKind
from usage.quantities import MAPPED, QUANTITIES, REQUESTS, ServiceTier

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

CACHED = Use(input_tokens=10_000, output_tokens=1_000, cached_input_tokens=6_000)
LONG = Use(input_tokens=300_000, output_tokens=2_000, cached_input_tokens=100_000)
WRITING = Use(input_tokens=10_000, output_tokens=1_000, cached_input_tokens=2_000, cache_write_tokens=6_000)
MILLIONS = Use(input_tokens=1_000_000, output_tokens=1_000_000)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    rows, _ = package_rows()
    return PriceBook.build([row.to_price() for row in rows])


def cost(book: PriceBook, model: str, use: Use, at: datetime = NOW, *, batch: bool = False) -> str:
    match = book.find(model, at)
    assert match is not None, model
    return format_usd(cost_of(match.price, use, IN_BATCH if batch else AS_USUAL).nano)


# Costs on which genai-prices, litellm and model-prices agree, November 2026.
@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("gpt-4o-mini", "0.00165"),
        ("gpt-4o", "0.0275"),
        ("gpt-4.1-mini", "0.0038"),
        ("o3", "0.019"),
        ("gpt-5", "0.01575"),
        ("gpt-5-mini", "0.00315"),
        ("gpt-5-nano", "0.00063"),
        ("gpt-5.4", "0.0265"),
        ("gpt-5.6-sol", "0.0384"),
        ("gpt-6-sol", "0.0192"),
        ("gpt-6.1-sol", "0.0186"),
        ("claude-haiku-4-5", "0.0096"),
        ("claude-sonnet-4-5", "0.0288"),
        ("claude-sonnet-5", "0.0192"),
        ("claude-sonnet-5-5", "0.0186"),
        ("claude-opus-5", "0.048"),
        ("claude-opus-5-5", "0.0372"),
        ("claude-haiku-5-5", "0.00096"),
        ("gemini-2.5-flash", "0.00388"),
        ("gemini-2.5-pro", "0.01575"),
        ("gemini-2.5-flash-lite", "0.00086"),
        ("gemini-3.5-flash", "0.0159"),
        ("gemini-3.8-flash", "0.0072"),
        ("gemini-4-argon", "0.0186"),
        ("grok-4.6", "0.017"),
    ],
)
def test_a_call_with_cached_input_costs_what_the_providers_publish(
    book: PriceBook, model: str, usd: str
) -> None:
    assert cost(book, model, CACHED) == usd


@pytest.mark.parametrize(("model", "usd"), [("claude-sonnet-5-5", "0.0292"), ("claude-opus-5-5", "0.0584")])
def test_cache_writes_cost_what_anthropic_publishes(book: PriceBook, model: str, usd: str) -> None:
    assert cost(book, model, WRITING) == usd


def test_a_long_call_is_charged_the_long_context_rates(book: PriceBook) -> None:
    assert cost(book, "claude-sonnet-4-5", LONG) == "1.305"


def test_o3_costs_what_it_cost_on_the_day(book: PriceBook) -> None:
    assert cost(book, "o3", MILLIONS, datetime(2025, 5, 1, tzinfo=UTC)) == "50.00"
    assert cost(book, "o3", MILLIONS, datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC)) == "50.00"
    assert cost(book, "o3", MILLIONS, datetime(2025, 6, 10, tzinfo=UTC)) == "10.00"


def test_gpt_5_6_sol_became_cheaper_on_21_august_2026(book: PriceBook) -> None:
    assert cost(book, "gpt-5.6-sol", MILLIONS, datetime(2026, 8, 20, tzinfo=UTC)) == "55.00"
    assert cost(book, "gpt-5.6-sol", MILLIONS, datetime(2026, 8, 22, tzinfo=UTC)) == "38.00"


def test_a_batch_call_costs_half_from_the_day_it_was_verified(book: PriceBook) -> None:
    assert cost(book, "gpt-5", MILLIONS, batch=True) == "5.625"
    assert cost(book, "gpt-5", MILLIONS, datetime(2026, 10, 13, tzinfo=UTC), batch=True) == "11.25"


def test_retired_models_keep_their_price(book: PriceBook) -> None:
    assert cost(book, "claude-3-5-sonnet-20241022", MILLIONS) == "18.00"
    assert cost(book, "gemini-2.0-flash-001", MILLIONS) == "0.50"


def test_prices_by_time_of_day_are_the_dearest_from_their_date_on(book: PriceBook) -> None:
    assert cost(book, "deepseek-chat", CACHED) == "0.0026"
    assert cost(book, "deepseek-v4-pro", MILLIONS, datetime(2026, 8, 16, 2, tzinfo=UTC)) == "1.305"
    assert cost(book, "deepseek-v4-pro", MILLIONS, datetime(2026, 8, 17, 20, tzinfo=UTC)) == "5.28"


def test_a_free_model_has_a_price_of_zero(book: PriceBook) -> None:
    assert cost(book, "omni-moderation-latest", CACHED) == "0.00"


@pytest.mark.parametrize(
    "model",
    [
        "gpt-7", "gpt-5-max", "claude-sonnet-6", "claude-sonnet-5-9", "grok-5", "gemini-5-pro",
        "deepseek-chat-v9", "gpt-4o-mini-2030-01-01", "my-azure-deployment", "claude", "gpt", "claude-2-neu",
        "gpt-5-nano-x", "ft:o3:acme::abc", "gemini-1.5-flash-8b-001", "deepseek-r1-distill-x",
    ],
)  # fmt: skip
def test_an_unknown_model_is_unpriced_and_never_its_neighbour(book: PriceBook, model: str) -> None:
    assert book.find(model, NOW) is None


@pytest.mark.parametrize(
    ("model", "quantities", "usd"),
    [
        ("whisper-1", {"input_audio_seconds": 600}, "0.06"),
        ("tts-1", {"input_characters": 1_000}, "0.015"),
        ("mistral-ocr-latest", {"input_pages": 10}, "0.04"),
    ],
)
def test_what_is_not_billed_by_tokens_costs_what_its_provider_publishes(
    book: PriceBook, model: str, quantities: dict[str, int], usd: str
) -> None:
    assert cost(book, model, Use(input_tokens=0, output_tokens=0, quantities=quantities)) == usd


def test_tokens_have_no_price_where_the_model_is_billed_by_something_else(book: PriceBook) -> None:
    match = book.find("whisper-1", NOW)
    assert match is not None
    priced = cost_of(match.price, Use(input_tokens=14, output_tokens=45))
    assert (priced.nano, priced.unpriced) == (0, ("input_tokens", "output_tokens"))


@pytest.mark.parametrize(
    ("model", "use", "tier", "usd"),
    [
        ("gpt-5-mini", Use(input_tokens=10_000, output_tokens=1_000), "priority", "0.0081"),
        ("gpt-5-mini", Use(input_tokens=10_000, output_tokens=1_000), "flex", "0.00225"),
        (
            "claude-haiku-4-5",
            Use(
                input_tokens=100_000,
                output_tokens=0,
                cache_write_tokens=40_000,
                quantities={"cache_write_1h_tokens": 60_000},
            ),
            "default",
            "0.17",
        ),
        (
            "claude-sonnet-4-5",
            Use(input_tokens=9_548, output_tokens=528, quantities={"web_searches": 2}),
            "default",
            "0.056564",
        ),
        (
            "gpt-5-mini",
            Use(input_tokens=100, output_tokens=4_619, quantities={"web_searches": 3}),
            "default",
            "0.039263",
        ),
        (
            "gemini-2.5-flash",
            Use(input_tokens=10_000, output_tokens=100, quantities={"input_audio_tokens": 9_900}),
            "default",
            "0.01018",
        ),
        (
            "gpt-image-1.5",
            Use(input_tokens=23, output_tokens=1_056, quantities={"output_image_tokens": 1_056}),
            "default",
            "0.033907",
        ),
        (
            "gemini-2.5-flash-image",
            Use(input_tokens=0, output_tokens=1_290, quantities={"output_image_tokens": 1_290}),
            "default",
            "0.0387",
        ),
        # From our own file, for the package lacks them.
        ("claude-opus-4-6", Use(input_tokens=10_000, output_tokens=1_000), "fast", "0.45"),
        (
            "gpt-4o-audio-preview",
            Use(input_tokens=1_000, output_tokens=100, quantities={"input_audio_tokens": 900}),
            "default",
            "0.03725",
        ),
        (
            "gpt-image-1",
            Use(input_tokens=23, output_tokens=1_056, quantities={"output_image_tokens": 1_056}),
            "default",
            "0.042355",
        ),
        (
            "ft:gpt-4.1-mini-2025-04-14:acme::x",
            Use(input_tokens=1_000, output_tokens=200),
            "default",
            "0.00144",
        ),
        # Google's list has one price of the model's input, whatever it is.
        (
            "gemini-2.5-pro",
            Use(input_tokens=10_000, output_tokens=0, quantities={"input_audio_tokens": 9_000}),
            "default",
            "0.0125",
        ),
    ],
)
def test_more_than_text_costs_what_its_provider_publishes(
    book: PriceBook, model: str, use: Use, tier: str, usd: str
) -> None:
    match = book.find(model, NOW)
    assert match is not None
    assert cost_of(match.price, use, Served(ServiceTier(tier))) == Cost(int(Decimal(usd) * NANO))


@pytest.mark.parametrize(
    ("model", "provider", "kind"),
    [
        ("gpt-4o-2024-05-13", "openai", MatchKind.EXACT),
        ("gpt-4o-2024-08-06", "openai", MatchKind.ALIAS),
        ("azure/gpt-4o", "openai", MatchKind.EXACT),
        ("claude-sonnet-4-20250514", "anthropic", MatchKind.SNAPSHOT_SUFFIX),
        ("vertex_ai/claude-sonnet-4-5@20250929", "google", MatchKind.SNAPSHOT_SUFFIX),
        ("xai/grok-4.6", "x-ai", MatchKind.EXACT),
        ("ft:gpt-4o-2024-08-06:acme::abc", "openai", MatchKind.SNAPSHOT_SUFFIX),
        ("groq/llama-3.3-70b-versatile", "groq", MatchKind.EXACT),
    ],
)
def test_names_as_callers_write_them_are_found(
    book: PriceBook, model: str, provider: str, kind: MatchKind
) -> None:
    match = book.find(model, NOW)
    assert match is not None
    assert (match.price.provider, match.kind) == (provider, kind)


def package_models() -> Iterator[tuple[Provider, ModelInfo]]:
    """The seeded models whose price does not depend on the time of day, which the book simplifies."""
    seeded = {(row.provider, row.model) for row in package_rows()[0]}
    for provider in genai_providers:
        for model in provider.models:
            conditions = model.prices if isinstance(model.prices, list) else []
            by_hour = any(
                c.constraint and not isinstance(c.constraint, StartDateConstraint) for c in conditions
            )
            if (provider.id, model.id.lower()) in seeded and not by_hour:
                yield provider, model


# What the package calls a quantity of a use, and how it says that a call was served so.
_GENAI_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_1h_tokens": "cache_write_1h_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
    "input_audio_tokens": "input_audio_tokens",
    "input_image_tokens": "input_image_tokens",
    "input_video_tokens": "input_video_tokens",
    "cached_audio_tokens": "cache_audio_read_tokens",
    "cached_image_tokens": "cache_image_read_tokens",
    "output_audio_tokens": "output_audio_tokens",
    "output_image_tokens": "output_image_tokens",
    "output_video_tokens": "output_video_tokens",
    "citation_tokens": "output_citation_tokens",
    "input_audio_seconds": "input_audio_seconds",
    "input_characters": "input_characters",
    "input_messages": "input_text_messages",
    "input_annotated_pages": "input_annotated_document_pages",
    "web_searches": "web_searches",
    "file_searches": "storage_searches",
}
_GENAI_CONTEXTS: dict[ServiceTier, list[dict[str, str] | None]] = {
    ServiceTier.DEFAULT: [None],
    ServiceTier.BATCH: [{"processing": "batch"}],
    ServiceTier.FAST: [{"speed": "fast"}, {"service_tier": "fast"}],
    ServiceTier.FLEX: [{"service_tier": "flex"}],
    ServiceTier.PRIORITY: [{"service_tier": "priority"}],
}


USES_EACH = 3


def drawn_use(drawn: random.Random, rates: Rates) -> Use:
    """A use of what the rates are for, and of nothing else."""

    def of(name: str, most: int) -> int:
        return drawn.randrange(most) if rates.of(name) is not None and drawn.random() < 0.7 else 0

    length = drawn.choice([1_000, 50_000, 150_000])
    audio, image, video = (of(f"input_{kind}_tokens", length) for kind in ("audio", "image", "video"))
    # The package knows what was both only where it has a rate for that.
    both = {
        name: isinstance(rates.others.get(name), int)
        for name in ("cached_audio_tokens", "cached_image_tokens")
    }
    cached_audio = min(of("cached_audio_tokens", length), audio) if both["cached_audio_tokens"] else 0
    cached_image = min(of("cached_image_tokens", length), image) if both["cached_image_tokens"] else 0
    cached = of("cached_input_tokens", length) + cached_audio + cached_image
    written, hour = of("cache_write_tokens", length), of("cache_write_1h_tokens", length)
    parts = [
        of(name, 5_000) for name in ("output_audio_tokens", "output_image_tokens", "output_video_tokens")
    ]
    reasoning, citations = of("reasoning_tokens", 5_000), of("citation_tokens", 5_000)
    quantities = {
        "cache_write_1h_tokens": hour,
        "input_audio_tokens": audio,
        "input_image_tokens": image,
        "input_video_tokens": video,
        "cached_audio_tokens": cached_audio,
        "cached_image_tokens": cached_image,
        "citation_tokens": citations,
        **dict(
            zip(("output_audio_tokens", "output_image_tokens", "output_video_tokens"), parts, strict=True)
        ),
        **{name: of(name, 500) for name in MAPPED if QUANTITIES[name].unit != "tokens" and name != REQUESTS},
    }
    inputs = (
        of("input_tokens", length)
        + cached
        + written
        + hour
        + audio
        - cached_audio
        + image
        - cached_image
        + video
    )
    return Use(
        input_tokens=inputs,
        output_tokens=of("output_tokens", 5_000) + reasoning + citations + sum(parts),
        cached_input_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        quantities={name: number for name, number in quantities.items() if number},
    )


def as_the_package_says(use: Use) -> genai_prices.Usage:
    overlaps = {"cached_audio_tokens": 0, "cached_image_tokens": 0}
    used = overlaps | {name: number for name, number in use.all.items() if number}
    said = {_GENAI_USAGE[name]: number for name, number in used.items() if name in _GENAI_USAGE}
    # Of these the package's total contains both kinds, which are told apart here.
    mapped = use.quantities
    said["cache_write_tokens"] = use.cache_write_tokens + mapped.get("cache_write_1h_tokens", 0)
    said["input_document_pages"] = mapped.get("input_pages", 0) + mapped.get("input_annotated_pages", 0)
    said["audio_seconds"] = mapped.get("input_audio_seconds", 0)
    return genai_prices.Usage(**said)


@pytest.fixture(scope="module")
def package_book() -> PriceBook:
    """Without what we add to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(additions, "added_to", lambda rows, _version: rows)
        rows, _ = package_rows()
    return PriceBook.build([row.to_price() for row in rows])


def test_every_model_costs_what_the_package_computes(package_book: PriceBook) -> None:
    """The oracle: the package's own arithmetic, for every model, quantity and tier of service, over two years."""
    instants = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=days) for days in range(0, 1100, 53)] + [
        NOW
    ]
    drawn = random.Random(12)
    compared: Counter[str] = Counter()
    for provider, model in package_models():
        for tier, contexts in _GENAI_CONTEXTS.items():
            known = [
                context
                for context in contexts
                if context is None or any(variant.when == context for variant in model.price_variants or ())
            ]
            for context in [each for each in known for _ in range(USES_EACH)]:
                at = drawn.choice(instants) if tier is ServiceTier.DEFAULT else drawn.choice([NOW, *instants])
                match = package_book.find(model.id, at, provider.id)
                assert match is not None
                use = drawn_use(drawn, match.price.rates)
                priced = cost_of(match.price, use, Served(tier))
                expected = model.calc_price(
                    as_the_package_says(use), provider, genai_request_timestamp=at, price_context=context
                ).total_price
                # A model with a fee for each request is charged for one, by the package even where nothing was used.
                if not any(use.all.values()):
                    continue
                nano = int((expected * NANO).to_integral_value(ROUND_CEILING))
                assert priced.nano == nano, (provider.id, model.id, at, context, use)
                compared.update(
                    {"usages": 1, tier: 1} | {name: 1 for name, number in use.all.items() if number}
                )
    assert compared["usages"] > 2_000
    assert all(compared[tier] > 2 for tier in ServiceTier), compared


def test_a_call_that_stays_in_the_united_states_costs_a_tenth_more(book: PriceBook) -> None:
    match = book.find("claude-opus-4-6", NOW)
    assert match is not None
    use = Use(input_tokens=10_000, output_tokens=1_000)
    assert cost_of(match.price, use, Served(region="us")).nano == int(Decimal("0.0825") * NANO)


def test_what_we_add_is_of_models_that_the_package_has_or_has_not_as_it_says() -> None:
    known = {(provider.id, model.id.lower()) for provider in genai_providers for model in provider.models}
    for each in additions.additions():
        for model in each.models:
            assert ((each.provider, model) in known) is not each.new, model
            assert additions.sources(each.provider, model)
        assert each.source.startswith("https://"), "where it is from"
        assert each.confirmed_by.startswith("https://"), "and who else says so"
        assert each.confirmed_by != each.source


def test_every_alias_is_one_the_package_gives_that_model() -> None:
    models = {(provider.id, model.id.lower()): (provider, model) for provider, model in package_models()}
    aliases = 0
    for row in package_rows()[0]:
        if (row.provider, row.model) in models:
            provider, model = models[row.provider, row.model]
            for alias in row.aliases:
                assert provider.find_model(alias) is model
                assert not alias.endswith(("-", "@", "."))
                aliases += 1
    assert aliases > 300


def test_every_row_is_one_the_model_accepts() -> None:
    for row in package_rows()[0]:
        row.clean_fields(exclude=["tenant"])


def revision(tenant: Tenant) -> int:
    return Environment.objects.get(tenant=tenant, slug="prod").revision


@pytest.mark.django_db
class TestLoading:
    def test_the_first_load_adds_everything_and_the_second_changes_nothing(self) -> None:
        tenant = Tenant.create_with_environments("acme")
        before = revision(tenant)

        first = load_shared_prices()
        assert first.added == ModelPrice.objects.shared().count() == len(package_rows()[0])
        assert (first.changed, first.retired, first.kept) == (0, 0, 0)
        assert revision(tenant) == before + 1

        second = load_shared_prices()
        assert (second.added, second.changed, second.retired) == (0, 0, 0)
        assert second.unchanged == first.added
        assert revision(tenant) == before + 1

    def test_loading_is_a_handful_of_queries(self) -> None:
        with CaptureQueriesContext(connection) as queries:
            load_shared_prices()
        assert len(queries) < 20

    def test_a_row_that_drifted_is_put_right(self) -> None:
        load_shared_prices()
        drifted = ModelPrice.objects.get(provider="openai", model="gpt-4o-mini", effective_from=UNDATED)
        ModelPrice.objects.filter(pk=drifted.pk).update(input_per_million=Decimal("99"), aliases=[])

        report = load_shared_prices()
        assert (report.added, report.changed) == (0, 1)
        mended = ModelPrice.objects.get(pk=drifted.pk)
        assert mended.input_per_million == Decimal("0.15")
        assert mended.aliases == drifted.aliases
        assert mended.updated_at > drifted.updated_at

    def test_a_row_of_another_source_and_a_tenants_row_are_left_alone(self) -> None:
        load_shared_prices()
        mine = ModelPrice.objects.get(provider="openai", model="gpt-4o-mini", effective_from=UNDATED)
        ModelPrice.objects.filter(pk=mine.pk).update(input_per_million=Decimal("0.2"), source="contract")
        tenant = Tenant.create_with_environments("acme")
        own = ModelPrice.objects.create(
            tenant=tenant,
            provider="openai",
            model="gpt-4o-mini",
            effective_from=UNDATED,
            input_per_million=Decimal("0.1"),
            output_per_million=Decimal("0.1"),
        )

        report = load_shared_prices()
        assert (report.changed, report.kept) == (0, 1)
        mine.refresh_from_db()
        own.refresh_from_db()
        assert mine.input_per_million == Decimal("0.2")
        assert own.input_per_million == Decimal("0.1")

    def test_a_tenants_own_price_does_not_keep_the_shared_one_out(self) -> None:
        ModelPrice.objects.create(
            tenant=Tenant.create_with_environments("acme"),
            provider="openai",
            model="gpt-4o-mini",
            effective_from=UNDATED,
            input_per_million=1,
            output_per_million=1,
        )
        assert load_shared_prices().added == len(package_rows()[0])

    def test_a_date_that_the_package_took_back_is_switched_off(self) -> None:
        load_shared_prices()
        wrong = ModelPrice.objects.get(provider="openai", model="gpt-4o-mini", effective_from=UNDATED)
        wrong.pk, wrong.effective_from = None, NOW
        wrong.save(force_insert=True)

        assert load_shared_prices().retired == 1
        wrong.refresh_from_db()
        assert not wrong.active
        assert load_shared_prices().retired == 0

    def test_a_model_that_the_package_dropped_keeps_its_price(self, monkeypatch: pytest.MonkeyPatch) -> None:
        load_shared_prices()
        rows, left_out = package_rows()
        fewer = [row for row in rows if row.model != "o3"]
        monkeypatch.setattr(genai, "package_rows", lambda: (fewer, left_out))

        assert load_shared_prices().retired == 0
        assert ModelPrice.objects.filter(model="o3", provider="openai", active=True).exists()

    def test_a_load_that_fails_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise RuntimeError

        monkeypatch.setattr(genai, "bump_all", fail)
        with pytest.raises(RuntimeError):
            load_shared_prices()
        assert not ModelPrice.objects.exists()

    def test_the_command_says_what_it_did(self) -> None:
        out = StringIO()
        call_command("load_prices", stdout=out)
        call_command("load_prices", stdout=out)
        first, second = (line for line in out.getvalue().splitlines() if line.startswith(SOURCE))
        count = ModelPrice.objects.count()
        assert f"{SOURCE} 0." in first
        assert f"{count} added, 0 changed, 0 unchanged" in first
        assert f"0 added, 0 changed, {count} unchanged" in second
