"""Everything that a call is billed for, as its provider's answer says it."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from tokvigil import ConfigurationError, Usage, UsageEvent, read_usage
from tokvigil.answered_model import model_of, named
from tokvigil.frozen_mapping import FrozenMapping
from tokvigil.models import checked_usage


def said(usage: dict[str, Any], **answer: Any) -> Usage:
    """As the JSON says it, and as an object."""
    found = read_usage(answer | {"usage": usage})
    assert found is not None
    assert read_usage(_object(answer | {"usage": usage})) == found
    return found


def _object(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _object(part) for name, part in value.items()})
    return [_object(item) for item in value] if isinstance(value, list) else value


class TestCaches:
    def test_what_anthropic_keeps_for_an_hour_is_told_from_the_rest(self) -> None:
        """claude-haiku-4-5: 40,000 x $1.25 and 60,000 x $2 per million are $0.17."""
        usage = {
            "input_tokens": 0,
            "output_tokens": 0,
            "cache_creation_input_tokens": 100_000,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 40_000, "ephemeral_1h_input_tokens": 60_000},
        }
        assert said(usage) == Usage(
            input_tokens=100_000,
            output_tokens=0,
            cache_write_tokens=40_000,
            quantities={"cache_write_1h_tokens": 60_000},
        )
        del usage["cache_creation_input_tokens"]
        assert said(usage).input_tokens == 100_000

    @pytest.mark.parametrize("alone", [False, True])
    def test_bedrocks_converse_says_so_by_how_long_it_keeps_them(self, alone: bool) -> None:
        usage = {
            "inputTokens": 18,
            "outputTokens": 386,
            "totalTokens": 7_906,
            "cacheReadInputTokens": 0,
            "cacheWriteInputTokens": 7_502,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 7_000}, {"ttl": "5m", "inputTokens": 502}],
        }
        assert (read_usage(usage) if alone else said(usage)) == Usage(
            input_tokens=7_520,
            output_tokens=386,
            cache_write_tokens=502,
            quantities={"cache_write_1h_tokens": 7_000},
        )

    def test_what_stands_for_an_answers_usage_may_be_all_there_is(self) -> None:
        counts = {
            "inputTokens": 18,
            "outputTokens": 386,
            "cacheReadInputTokens": 0,
            "cacheWriteInputTokens": 7_502,
        }
        assert read_usage(counts) == Usage(input_tokens=7_520, output_tokens=386, cache_write_tokens=7_502)
        assert read_usage({"prompt_tokens": 3, "completion_tokens": 2}) == Usage(
            input_tokens=3, output_tokens=2
        )

    @pytest.mark.parametrize(
        "spelled",
        [
            {"prompt_tokens_details": {"cached_tokens": 1_792}},
            # DeepSeek, Moonshot, Databricks, and where both stand.
            {"prompt_cache_hit_tokens": 1_792, "prompt_cache_miss_tokens": 208},
            {"cached_tokens": 1_792},
            {"cache_read_input_tokens": 1_792},
            {"cached_tokens": 7, "prompt_tokens_details": {"cached_tokens": 1_792}},
            {"cached_tokens": 1_792, "prompt_tokens_details": {"cached_tokens": 0}},
            {"cached_tokens": 1_792, "prompt_tokens_details": {"cached_tokens": None}},
        ],
    )
    def test_cached_tokens_are_read_in_every_spelling(self, spelled: dict[str, Any]) -> None:
        usage = {"prompt_tokens": 2_000, "completion_tokens": 50, "total_tokens": 2_050} | spelled
        assert said(usage) == Usage(input_tokens=2_000, output_tokens=50, cached_input_tokens=1_792)

    def test_written_tokens_of_openai_are_a_part_of_the_input(self) -> None:
        usage = {"input_tokens": 900, "output_tokens": 5, "input_tokens_details": {"cache_write_tokens": 800}}
        assert said(usage) == Usage(input_tokens=900, output_tokens=5, cache_write_tokens=800)


class TestModalities:
    def test_openais_audio(self) -> None:
        usage = {
            "prompt_tokens": 1_000,
            "completion_tokens": 100,
            "total_tokens": 1_100,
            "prompt_tokens_details": {"audio_tokens": 900, "cached_tokens": 0, "text_tokens": 100},
            "completion_tokens_details": {"audio_tokens": 80, "reasoning_tokens": 0, "text_tokens": 20},
        }
        assert said(usage) == Usage(
            input_tokens=1_000,
            output_tokens=100,
            quantities={"input_audio_tokens": 900, "output_audio_tokens": 80},
        )

    def test_geminis_details_by_modality(self) -> None:
        metadata = {
            "promptTokenCount": 10_000,
            "cachedContentTokenCount": 3_000,
            "candidatesTokenCount": 1_390,
            "thoughtsTokenCount": 10,
            "totalTokenCount": 11_400,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 100},
                {"modality": "AUDIO", "tokenCount": 8_000},
                {"modality": "IMAGE", "tokenCount": 1_000},
                {"modality": "VIDEO", "tokenCount": 900},
            ],
            "cacheTokensDetails": [
                {"modality": "AUDIO", "tokenCount": 2_000},
                {"modality": "IMAGE", "tokenCount": 1_000},
            ],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_290}],
        }
        expected = Usage(
            input_tokens=10_000,
            output_tokens=1_400,
            cached_input_tokens=3_000,
            reasoning_tokens=10,
            quantities={
                "input_audio_tokens": 8_000,
                "input_image_tokens": 1_000,
                "input_video_tokens": 900,
                "cached_audio_tokens": 2_000,
                "cached_image_tokens": 1_000,
                "output_image_tokens": 1_290,
            },
        )
        assert read_usage({"usageMetadata": metadata}) == expected
        detail = {"modality": SimpleNamespace(value="AUDIO"), "token_count": 9_900}
        snake = {
            "prompt_token_count": 10_000,
            "candidates_token_count": 100,
            "prompt_tokens_details": [detail],
        }
        assert read_usage({"usage_metadata": snake}) == Usage(
            input_tokens=10_000, output_tokens=100, quantities={"input_audio_tokens": 9_900}
        )

    def test_an_interaction_of_gemini(self) -> None:
        usage = {
            "total_input_tokens": 100,
            "total_output_tokens": 30,
            "input_tokens_by_modality": [
                {"modality": "audio", "tokens": 90},
                {"modality": "text", "tokens": 10},
            ],
            "grounding_tool_count": [
                {"type": "google_search", "count": 2},
                {"type": "google_maps", "count": 1},
            ],
        }
        assert said(usage).quantities == {"input_audio_tokens": 90, "web_searches": 2, "map_searches": 1}

    def test_an_image_model_reads_text_and_pictures_and_makes_pictures(self) -> None:
        usage = {
            "input_tokens": 523,
            "output_tokens": 1_056,
            "total_tokens": 1_579,
            "input_tokens_details": {"text_tokens": 23, "image_tokens": 500},
        }
        quantities = {"input_image_tokens": 500, "output_image_tokens": 1_056}
        made = {"created": 1, "data": [{"b64_json": "QUJD"}]}
        assert said(usage, **made) == Usage(input_tokens=523, output_tokens=1_056, quantities=quantities)
        told = usage | {"output_tokens_details": {"image_tokens": 1_000, "text_tokens": 56}}
        assert said(told, **made).quantities == quantities | {"output_image_tokens": 1_000}

    def test_transcriptions_are_billed_by_the_second_or_by_audio_tokens(self) -> None:
        assert said({"type": "duration", "seconds": 600}, text="words") == Usage(
            input_tokens=0, output_tokens=0, quantities={"input_audio_seconds": 600}
        )
        assert said({"type": "duration", "seconds": 8.47}).quantities == {"input_audio_seconds": 9}
        usage = {
            "type": "tokens",
            "input_tokens": 14,
            "output_tokens": 45,
            "total_tokens": 59,
            "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
        }
        assert said(usage) == Usage(input_tokens=14, output_tokens=45, quantities={"input_audio_tokens": 14})

    def test_cached_tokens_that_must_be_audio_count_as_such(self) -> None:
        """Only so does what is said add up: 1,000 tokens, 900 of audio, 512 cached."""
        details = {"audio_tokens": 900, "cached_tokens": 512}
        usage = said({"prompt_tokens": 1_000, "completion_tokens": 1, "prompt_tokens_details": details})
        assert usage.quantities == {"input_audio_tokens": 900, "cached_audio_tokens": 412}
        assert usage.doubtful is None


class TestPieces:
    @pytest.mark.parametrize(
        ("answer", "quantities"),
        [
            ({"created": 1, "data": [{"url": "https://x/1"}, {"url": "https://x/2"}]}, {"images": 2}),
            ({"predictions": [{"bytesBase64Encoded": "QUJD", "mimeType": "image/png"}]}, {"images": 1}),
            (
                {"object": "video", "status": "queued", "seconds": "8", "model": "sora-2"},
                {"output_video_seconds": 8},
            ),
            ({"meta": {"billed_units": {"search_units": 3}}}, {"rerank_searches": 3}),
            ({"pages": [], "usage_info": {"pages_processed": 12, "doc_size_bytes": 5}}, {"input_pages": 12}),
            (
                {"document_annotation": "{}", "usage_info": {"pages_processed": 12}},
                {"input_annotated_pages": 12},
            ),
        ],
    )
    def test_what_is_billed_by_piece_is_counted_by_piece(
        self, answer: dict[str, Any], quantities: dict[str, int]
    ) -> None:
        assert read_usage(answer) == Usage(input_tokens=0, output_tokens=0, quantities=quantities)

    def test_a_film_that_failed_is_none(self) -> None:
        assert read_usage({"object": "video", "status": "failed", "seconds": "8"}) is None

    def test_vectors_may_say_their_total_alone(self) -> None:
        usage = {"total_tokens": 10}
        assert said(usage, object="list") == Usage(input_tokens=10, output_tokens=0)
        assert read_usage({"usage": usage}) is None


class TestHostedTools:
    def test_anthropic_counts_its_searches(self) -> None:
        usage = {
            "input_tokens": 9_548,
            "output_tokens": 528,
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 4},
        }
        assert said(usage) == Usage(input_tokens=9_548, output_tokens=528, quantities={"web_searches": 2})

    def test_openai_bills_searches_and_not_what_is_done_with_a_page(self) -> None:
        output = [
            {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "x"}},
            {"type": "web_search_call", "id": "ws_2", "action": {"type": "open_page", "url": "https://x"}},
            {"type": "web_search_call", "id": "ws_3", "action": {"type": "search", "query": "y"}},
            {"type": "web_search_call", "id": "ws_4", "action": {"type": "find_in_page", "pattern": "z"}},
            {"type": "web_search_call", "id": "ws_5"},
            {"type": "file_search_call", "id": "fs_1"},
            {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1"},
            {"type": "code_interpreter_call", "id": "ci_2", "container_id": "cntr_1"},
            {"type": "message", "content": []},
        ]
        usage = {"input_tokens": 100, "output_tokens": 4_619}
        counted = {"web_searches": 3, "file_searches": 1, "code_executions": 1}
        assert said(usage, output=output).quantities == counted
        tool_usage = {"web_search": {"num_requests": 2}}
        assert said(usage, output=output, tool_usage=tool_usage).quantities == counted | {"web_searches": 2}
        none = {"web_search": {"num_requests": 0}}
        assert "web_searches" not in said(usage, output=output, tool_usage=none).quantities

    def test_xai_says_what_it_bills_whatever_was_tried(self) -> None:
        details = {
            "web_search_calls": 2,
            "x_search_calls": 1,
            "code_interpreter_calls": 1,
            "file_search_calls": 4,
        }
        usage = {"input_tokens": 5, "output_tokens": 6, "server_side_tool_usage_details": details}
        output = [{"type": "web_search_call", "action": {"type": "search"}}] * 3
        assert said(usage, output=output).quantities == {
            "web_searches": 2,
            "social_searches": 1,
            "code_executions": 1,
            "file_searches": 4,
        }

    @pytest.mark.parametrize(
        ("model", "searches"), [("gemini-2.5-flash", 1), ("gemini-3.5-flash", 2), ("gemini-3-pro-preview", 2)]
    )
    def test_gemini_bills_the_prompt_or_each_query(self, model: str, searches: int) -> None:
        answer = {
            "modelVersion": model,
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 6},
            "candidates": [
                {"groundingMetadata": {"webSearchQueries": ["a", "", "b", "a"]}},
                {"groundingMetadata": {"groundingChunks": [{"web": {}}]}},
            ],
        }
        usage = read_usage(answer)
        assert usage is not None
        assert usage.quantities == {"web_searches": searches}

    def test_perplexity_bills_citations_and_reasoning_beside_and_searches_of_its_research_model(self) -> None:
        usage = {
            "prompt_tokens": 33,
            "completion_tokens": 7_163,
            "total_tokens": 7_196,
            "citation_tokens": 20_016,
            "num_search_queries": 18,
            "reasoning_tokens": 73_997,
        }
        assert said(usage, model="sonar-deep-research") == Usage(
            input_tokens=33,
            output_tokens=101_176,
            reasoning_tokens=73_997,
            quantities={"citation_tokens": 20_016, "web_searches": 18},
        )
        usual = {
            "prompt_tokens": 8,
            "completion_tokens": 439,
            "total_tokens": 447,
            "search_context_size": "low",
        }
        assert said(usual | {"num_search_queries": 1}, model="sonar-pro") == Usage(
            input_tokens=8, output_tokens=439, quantities={"provider_requests": 1}
        )

    def test_an_image_tool_is_used_by_another_model(self) -> None:
        answer = {
            "tools": [{"type": "image_generation", "model": "gpt-image-1.5"}],
            "tool_usage": {
                "image_gen": {"input_tokens": 40, "output_tokens": 7_024, "total_tokens": 7_064},
                "web_search": {"num_requests": 0},
            },
        }
        drawn = Usage(input_tokens=40, output_tokens=7_024, quantities={"output_image_tokens": 7_024})
        usage = {"input_tokens": 1_820, "output_tokens": 210}
        asked = Usage(input_tokens=1_820, output_tokens=210, other_models={"gpt-image-1.5": drawn})
        assert said(usage, **answer) == asked
        unnamed = said(usage, tool_usage=answer["tool_usage"])
        assert unnamed.other_models == {"unspecified": drawn}
        unused = {"image_gen": {"input_tokens": 0, "output_tokens": 0}}
        assert said(usage, tool_usage=unused).other_models == {}


class TestTierAndRegion:
    @pytest.mark.parametrize(
        ("answer", "usage", "tier"),
        [
            ({"service_tier": "priority"}, {}, "priority"),
            ({"service_tier": "fast"}, {}, "priority"),
            ({"service_tier": "flex"}, {}, "flex"),
            *(({"service_tier": name}, {}, None) for name in ("default", "auto", "on_demand", "scale", None)),
            ({}, {"service_tier": "standard"}, None),
            ({}, {"service_tier": "batch"}, "batch"),
            ({}, {"speed": "fast", "service_tier": "standard"}, "fast"),
            ({}, {"speed": "standard", "service_tier": "priority"}, "priority"),
            ({"serviceTier": {"type": "flex"}}, {}, "flex"),
        ],
    )
    def test_the_tier_is_the_one_that_served(
        self, answer: dict[str, Any], usage: dict[str, Any], tier: str | None
    ) -> None:
        found = said({"input_tokens": 10, "output_tokens": 1} | usage, **answer)
        assert (found.service_tier, found.doubtful) == (tier, None)

    @pytest.mark.parametrize(
        ("traffic", "tier"),
        [("ON_DEMAND", None), ("ON_DEMAND_PRIORITY", "priority"), ("ON_DEMAND_FLEX", "flex")],
    )
    def test_vertex_says_it_as_traffic(self, traffic: str, tier: str | None) -> None:
        usage = read_usage({"usageMetadata": {"promptTokenCount": 1, "trafficType": traffic}})
        assert usage is not None
        assert usage.service_tier == tier

    def test_a_tier_of_tomorrow_is_doubtful(self) -> None:
        found = said({"input_tokens": 10, "output_tokens": 1}, service_tier="ultrafast")
        assert (found.service_tier, found.doubtful) == (
            None,
            "service_tier is 'ultrafast', which is not known",
        )

    @pytest.mark.parametrize(
        ("geo", "region"),
        [("us", "us"), ("US", "us"), ("global", None), ("not_available", None), (None, None)],
    )
    def test_a_region_is_said_if_it_makes_a_price(self, geo: str | None, region: str | None) -> None:
        usage = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 0, "inference_geo": geo}
        assert said(usage).region == region


class TestReportedCost:
    @pytest.mark.parametrize(
        ("fields", "usd"),
        [
            ({"cost": 0.0123}, "0.0123"),
            ({"cost": "0.5"}, "0.5"),
            ({"cost": 1e-07}, "0.0000001"),
            ({"cost": 0.05, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.04}}, "0.05"),
            ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}, "0.02"),
            ({"cost_in_usd_ticks": 37_756_000}, "0.0037756"),
            ({"cost": {"input_tokens_cost": 0.001, "total_cost": 0.007}}, "0.007"),
            # The fee alone says nothing, nor does what is none.
            ({"cost": 0.001, "is_byok": True}, None),
            *(({"cost": cost}, None) for cost in (-1, "x", True, float("nan"), float("inf"), {}, [], 10**9)),
        ],
    )
    def test_what_the_provider_says_it_cost_is_kept(self, fields: dict[str, Any], usd: str | None) -> None:
        usage = said({"prompt_tokens": 10, "completion_tokens": 1} | fields)
        assert usage.reported_cost_usd == (None if usd is None else Decimal(usd))
        assert (usage.input_tokens, usage.output_tokens) == (10, 1)


class TestOddFigures:
    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            (
                {"prompt_tokens": 512.0, "completion_tokens": 321.0},
                Usage(input_tokens=512, output_tokens=321),
            ),
            (
                {"input_tokens": 123.6, "output_tokens": 321, "cache_read_input_tokens": 5_000},
                Usage(input_tokens=5_124, output_tokens=321, cached_input_tokens=5_000),
            ),
            ({"input_tokens": 1.5, "output_tokens": 1}, Usage(input_tokens=2, output_tokens=1)),
        ],
    )
    def test_whole_floats_are_counts_and_fractions_are_rounded_up(
        self, usage: dict[str, Any], expected: Usage
    ) -> None:
        assert said(usage) == expected

    def test_a_form_that_cannot_be_read_hides_no_other(self) -> None:
        both = {"prompt_tokens": "x", "input_tokens": 5, "output_tokens": 2}
        assert said(both) == Usage(input_tokens=5, output_tokens=2)

    def test_a_figure_that_is_none_costs_no_other(self) -> None:
        details = {"cached_tokens": "many", "audio_tokens": 3}
        usage = said({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": details})
        assert usage == Usage(input_tokens=10, output_tokens=2, quantities={"input_audio_tokens": 3})
        assert usage.doubtful == "cached_tokens is no count"

    def test_parts_that_do_not_add_up_are_cut_and_the_usage_is_doubtful(self) -> None:
        details = {"audio_tokens": 7, "reasoning_tokens": 5}
        usage = said(
            {
                "prompt_tokens": 10,
                "completion_tokens": 9,
                "total_tokens": 19,
                "completion_tokens_details": details,
            }
        )
        assert usage == Usage(
            input_tokens=10, output_tokens=9, reasoning_tokens=5, quantities={"output_audio_tokens": 4}
        )
        assert usage.doubtful == "output_audio_tokens is 7, and no more than 4 is left for it"
        assert checked_usage(usage) == usage

    def test_without_a_total_more_reasoning_than_output_stands_beside_it(self) -> None:
        usage = {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "completion_tokens_details": {"reasoning_tokens": 5},
        }
        assert said(usage) == Usage(input_tokens=10, output_tokens=6, reasoning_tokens=5)
        assert said(usage | {"total_tokens": 11}) == Usage(
            input_tokens=10, output_tokens=1, reasoning_tokens=1
        )

    def test_an_answer_that_cannot_be_read_says_nothing(self) -> None:
        class Hostile:
            def model_dump(self) -> Any:
                raise RuntimeError("no")

        assert read_usage(Hostile()) is None


class TestModel:
    @pytest.mark.parametrize(
        ("asked", "answered", "reported"),
        [
            ("gpt-4o", "gpt-4o-2024-08-06", ("gpt-4o", None)),
            ("gpt-4o-mini", "", ("gpt-4o-mini", None)),
            ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", ("claude-sonnet-4-5", None)),
            (
                "us.anthropic.claude-haiku-4-5-20251001-v1:0",
                "claude-haiku-4-5-20251001",
                ("us.anthropic.claude-haiku-4-5-20251001-v1:0", None),
            ),
            ("claude-haiku-4-5@20251001", "claude-haiku-4-5-20251001", ("claude-haiku-4-5@20251001", None)),
            ("models/gemini-2.5-flash", "gemini-2.5-flash", ("models/gemini-2.5-flash", None)),
            ("openai/gpt-4o-mini", "gpt-4o-mini-2024-07-18", ("openai/gpt-4o-mini", None)),
            ("mistral-large-latest", "mistral-large-2411", ("mistral-large-latest", None)),
            ("grok-4", "grok-4-0709", ("grok-4", None)),
            ("llama3", "llama3:latest", ("llama3", None)),
            # Another model: a fallback, a deployment, a router.
            ("claude-fable-5", "claude-opus-4-8", ("claude-opus-4-8", "claude-fable-5")),
            ("team-chat", "gpt-4o-2024-08-06", ("gpt-4o-2024-08-06", "team-chat")),
            ("model-router", "gpt-5-nano", ("gpt-5-nano", "model-router")),
            ("gpt-4o", "gpt-4o-mini", ("gpt-4o-mini", "gpt-4o")),
            # A snapshot with a price of its own.
            ("gpt-4o", "gpt-4o-2024-05-13", ("gpt-4o-2024-05-13", "gpt-4o")),
        ],
    )
    def test_another_name_of_the_same_model_is_no_other_model(
        self, asked: str, answered: str, reported: tuple[str, str | None]
    ) -> None:
        assert named(asked, answered, None) == reported

    @pytest.mark.parametrize(
        ("answer", "model"),
        [
            ({"model": "gpt-4o"}, "gpt-4o"),
            ({"modelVersion": "gemini-2.5-flash"}, "gemini-2.5-flash"),
            (SimpleNamespace(model_version="gemini-2.5-flash"), "gemini-2.5-flash"),
            ({"trace": {"promptRouter": {"invokedModelId": "arn:aws:bedrock:x"}}}, "arn:aws:bedrock:x"),
            ({"usage": {}, "model": 7}, ""),
            *(({"model": name}, "") for name in ("", "a\0b", "a\ud83d", "m" * 256)),
            (None, ""),
            (
                {
                    "model": "claude-fable-5",
                    "usage": {
                        "iterations": [
                            {"type": "message", "model": "claude-fable-5"},
                            {"type": "fallback_message", "model": "claude-opus-4-8"},
                        ]
                    },
                },
                "claude-opus-4-8",
            ),
        ],
    )
    def test_an_answer_names_its_model(self, answer: Any, model: str) -> None:
        assert model_of(answer) == model


class TestValues:
    USAGE = Usage(input_tokens=10, output_tokens=2, quantities={"web_searches": 2, "images": 0}, region="us")

    def test_zeros_are_left_out_and_nothing_can_be_changed(self) -> None:
        assert self.USAGE.quantities == {"web_searches": 2}
        with pytest.raises(AttributeError):
            self.USAGE.quantities.web_searches = 3  # type: ignore[attr-defined]
        assert repr(self.USAGE.quantities) == "{'web_searches': 2}"

    def test_it_is_a_value(self) -> None:
        again = pickle.loads(pickle.dumps(self.USAGE))  # noqa: S301
        assert again == copy.deepcopy(self.USAGE) == self.USAGE
        assert len({self.USAGE, copy.copy(self.USAGE)}) == 1
        assert FrozenMapping({"a": 1}) == {"a": 1}

    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({"quantities": {"websearches": 1}}, "a name in quantities"),
            ({"quantities": {"web_searches": -1}}, "web_searches"),
            ({"quantities": {"web_searches": 1.5}}, "web_searches"),
            ({"quantities": {"input_audio_tokens": 11}}, "audio"),
            ({"quantities": {"cached_audio_tokens": 1}}, "cached_audio_tokens"),
            ({"quantities": {"output_image_tokens": 3}}, "images"),
            ({"quantities": {"cache_write_1h_tokens": 11}}, "cache_write"),
            ({"service_tier": "slow"}, "service_tier"),
            ({"region": 7.5}, "region"),
            ({"reported_cost_usd": -1}, "reported_cost_usd"),
        ],
    )
    def test_what_tokvigil_does_not_take_is_refused_where_it_is_said(
        self, fields: dict[str, Any], names: str
    ) -> None:
        usage = Usage(input_tokens=10, output_tokens=2, **fields)
        with pytest.raises(ConfigurationError, match=names):
            UsageEvent(request_id="r", user_id="ada", model="m", usage=usage)

    def test_a_report_says_what_there_is_to_say_and_no_more(self) -> None:
        plain = Usage(input_tokens=10, output_tokens=2, service_tier="default")
        event = UsageEvent(request_id="r", user_id="ada", model="m", usage=plain)
        assert event.to_wire() == {
            "request_id": "r",
            "user_id": "ada",
            "model": "m",
            "input_tokens": 10,
            "output_tokens": 2,
            "status": "succeeded",
        }
        full = Usage(
            input_tokens=10,
            output_tokens=2,
            quantities={"web_searches": 2},
            service_tier="flex",
            region="us",
            reported_cost_usd=Decimal("0.00001"),
        )
        event = UsageEvent(request_id="r", user_id="ada", model="m", requested_model="n", usage=full)
        assert event.reported_cost_usd == Decimal("0.00001")
        said_too = {
            "quantities": {"web_searches": 2},
            "service_tier": "flex",
            "region": "us",
            "reported_cost_usd": "0.00001",
            "requested_model": "n",
        }
        assert event.to_wire() | said_too == event.to_wire()
