"""Usage as each provider says it, in TokVigil's terms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokvigil import Usage, read_usage

OPENAI_CHAT = {
    "usage": {
        "prompt_tokens": 1_200,
        "completion_tokens": 90,
        "total_tokens": 1_290,
        "prompt_tokens_details": {"cached_tokens": 1_024},
        "completion_tokens_details": {"reasoning_tokens": 64},
    }
}
OPENAI_RESPONSES = {
    "usage": {
        "input_tokens": 1_200,
        "output_tokens": 90,
        "total_tokens": 1_290,
        "input_tokens_details": {"cached_tokens": 1_024},
        "output_tokens_details": {"reasoning_tokens": 64},
    }
}
OPENAI_USAGE = Usage(input_tokens=1_200, output_tokens=90, cached_input_tokens=1_024, reasoning_tokens=64)
ANTHROPIC = {
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 5,
        "cache_creation_input_tokens": 7,
        "output_tokens": 3,
    }
}
GEMINI = {
    "usageMetadata": {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 4,
        "cachedContentTokenCount": 6,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 64,
    }
}


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        (OPENAI_CHAT, OPENAI_USAGE),
        (OPENAI_RESPONSES, OPENAI_USAGE),
        ({"usage": {"prompt_tokens": 8, "total_tokens": 8}}, Usage(input_tokens=8, output_tokens=0)),
        (
            ANTHROPIC,
            Usage(input_tokens=22, output_tokens=3, cached_input_tokens=5, cache_write_tokens=7),
        ),
        (
            {"usage": {"input_tokens": 10, "output_tokens": 3, "cache_read_input_tokens": None}},
            Usage(input_tokens=10, output_tokens=3),
        ),
        (
            GEMINI,
            Usage(input_tokens=14, output_tokens=50, cached_input_tokens=6, reasoning_tokens=30),
        ),
        (
            {"usage_metadata": {"prompt_token_count": 10, "candidates_token_count": None}},
            Usage(input_tokens=10, output_tokens=0),
        ),
        # Ollama, with and without a prompt that it still had, and Llama on Bedrock.
        (
            {"response": "words", "prompt_eval_count": 26, "eval_count": 401},
            Usage(input_tokens=26, output_tokens=401),
        ),
        ({"response": "words", "eval_count": 401}, Usage(input_tokens=0, output_tokens=401)),
        (
            {"generation": "words", "prompt_token_count": 26, "generation_token_count": 401},
            Usage(input_tokens=26, output_tokens=401),
        ),
        # Parts that contradict their total are cut to it.
        (
            {
                "usage": {
                    "prompt_tokens": 5,
                    "completion_tokens": 1,
                    "prompt_tokens_details": {"cached_tokens": 9},
                }
            },
            Usage(input_tokens=5, output_tokens=1, cached_input_tokens=5),
        ),
    ],
)
def test_totals_contain_their_parts(answer: Any, usage: Usage) -> None:
    assert read_usage(answer) == usage
    assert read_usage(_object(answer)) == usage


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        [],
        "usage",
        7,
        {"usage": None},
        {"usage": []},
        {"usage": {"prompt_tokens": 5}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": 1}},
        {"usage": {"input_tokens": True, "output_tokens": 1}},
        {"usage": {"input_tokens": "1", "output_tokens": 1}},
        {"usage": {"output_tokens": 1, "cache_read_input_tokens": 4}},
        {"usageMetadata": {"candidatesTokenCount": 3}},
    ],
)
def test_an_answer_that_does_not_say_its_usage_has_none(answer: Any) -> None:
    assert read_usage(answer) is None


class Dumped:
    """As the providers' SDKs answer: a model that can be dumped."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self._fields


def test_a_model_is_read_by_what_it_dumps() -> None:
    assert read_usage(Dumped(OPENAI_CHAT)) == OPENAI_USAGE
    assert read_usage(SimpleNamespace(usage=Dumped(OPENAI_CHAT["usage"]))) == OPENAI_USAGE


def test_a_class_of_answers_is_no_answer() -> None:
    assert read_usage(Dumped) is None


def _object(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _object(part) for name, part in value.items()})
    return [_object(item) for item in value] if isinstance(value, list) else value


def test_an_interaction_of_gemini_names_thoughts_and_tool_prompts_beside_its_totals() -> None:
    usage = {
        "total_input_tokens": 100,
        "total_tool_use_tokens": 20,
        "total_cached_tokens": 60,
        "total_output_tokens": 30,
        "total_thought_tokens": 50,
        "total_tokens": 200,
    }
    assert read_usage({"usage": usage}) == Usage(
        input_tokens=120, output_tokens=80, cached_input_tokens=60, reasoning_tokens=50
    )


def test_figures_that_nobody_can_mean_are_not_said() -> None:
    assert read_usage({"usage": {"prompt_tokens": 10, "completion_tokens": 10**9}}) is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # xAI: what Grok reasons stands beside what it says.
        (
            {
                "prompt_tokens": 10_120,
                "completion_tokens": 1_499,
                "total_tokens": 14_428,
                "prompt_tokens_details": {"cached_tokens": 128},
                "completion_tokens_details": {"reasoning_tokens": 2_809},
            },
            Usage(input_tokens=10_120, output_tokens=4_308, cached_input_tokens=128, reasoning_tokens=2_809),
        ),
        # Gemini behind OpenAI's format: thoughts have no name at all.
        (
            {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623},
            Usage(input_tokens=20, output_tokens=603),
        ),
        (
            {"input_tokens": 20, "output_tokens": 198, "total_tokens": 623},
            Usage(input_tokens=20, output_tokens=603),
        ),
        ({"prompt_tokens": 20, "total_tokens": 50}, Usage(input_tokens=20, output_tokens=30)),
        # Mistral: what connectors found, and a recording, are read by the model.
        (
            {
                "prompt_tokens": 189,
                "completion_tokens": 435,
                "total_tokens": 3_390,
                "connector_tokens": 2_766,
            },
            Usage(input_tokens=2_955, output_tokens=435),
        ),
        (
            {"prompt_tokens": 189, "completion_tokens": 435, "total_tokens": 624, "connector_tokens": 100},
            Usage(input_tokens=189, output_tokens=435),
        ),
        (
            {
                "prompt_tokens": 4,
                "completion_tokens": 635,
                "total_tokens": 3_264,
                "prompt_audio_seconds": 203,
            },
            Usage(input_tokens=2_629, output_tokens=635),
        ),
    ],
)
def test_what_only_the_total_contains_is_billed_too(usage: dict[str, Any], expected: Usage) -> None:
    assert read_usage({"usage": usage}) == expected
    assert read_usage(_object({"usage": usage})) == expected


@pytest.mark.parametrize("total", [0, 10, 14, 15, -1, 10**9, "20", True, None, 20.5, float("inf")])
def test_a_total_that_says_no_more_changes_nothing(total: Any) -> None:
    for names in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
        usage = dict(zip((*names, "total_tokens"), (10, 5, total), strict=True))
        assert read_usage({"usage": usage}) == Usage(input_tokens=10, output_tokens=5)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 8, "total_tokens": 7}, {"prompt_tokens": 8}, {"prompt_tokens": 0}]
)
def test_without_output_or_a_total_with_it_nothing_is_said(usage: dict[str, Any]) -> None:
    assert read_usage({"usage": usage}) is None


def iteration(kind: str, *counts: int) -> dict[str, Any]:
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return {"type": kind, **dict(zip(names, counts, strict=True))}


@pytest.mark.parametrize("kind", ["compaction", "advisor_message"])
@pytest.mark.parametrize("cache", [{}, {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}])
def test_what_anthropic_bills_beside_its_totals_is_added(kind: str, cache: dict[str, int]) -> None:
    """The totals are of the model's own messages; compacting the context and asking an advisor cost more."""
    iterations = [iteration(kind, 180_000, 3_500, 7, 5), iteration("message", 23_000, 1_000, 0, 0)]
    answer = {"usage": {"input_tokens": 23_000, "output_tokens": 1_000, "iterations": iterations, **cache}}
    cached, written = (107, 25) if cache else (7, 5)
    expected = Usage(
        input_tokens=203_000 + cached + written,
        output_tokens=4_500,
        cached_input_tokens=cached,
        cache_write_tokens=written,
    )
    assert read_usage(answer) == expected
    assert read_usage(_object(answer)) == expected


@pytest.mark.parametrize(
    "iterations", [None, [], "x", {}, [None, 7, {"type": []}], [iteration("message", 10, 3, 0, 0)]]
)
def test_iterations_that_the_totals_contain_add_nothing(iterations: Any) -> None:
    usage = {"input_tokens": 10, "output_tokens": 3, "iterations": iterations}
    assert read_usage({"usage": usage}) == Usage(input_tokens=10, output_tokens=3)


def test_an_iteration_without_counts_adds_what_it_has() -> None:
    iterations = [{"type": "compaction", "input_tokens": "x", "output_tokens": 4}, {"type": "compaction"}]
    usage = {"input_tokens": 10, "output_tokens": 3, "iterations": iterations}
    assert read_usage({"usage": usage}) == Usage(input_tokens=10, output_tokens=7)
