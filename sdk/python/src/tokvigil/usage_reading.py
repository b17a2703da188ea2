"""What a provider's answer says it used, in TokVigil's terms. Pure.

Providers disagree on what their totals contain (facts measured on their own SDKs' answers):

OpenAI, chat        prompt_tokens contains cached ones; completion_tokens contains reasoning
OpenAI, responses   input_tokens contains cached ones; output_tokens contains reasoning
OpenAI, by others   as OpenAI, but with xAI and Gemini only total_tokens contains reasoning: what it has beyond the
                    others is output; with Mistral it is what a recording and connectors gave the model to read
Anthropic           input_tokens contains neither cache reads nor cache writes: both are added; output_tokens
                    contains thinking. Compacting the context and an advisor are billed beside these totals and
                    added; an advisor's tokens count as those of the model that asked it
Bedrock             as Anthropic
Cohere              billed_units are what is billed; tokens, which contain Cohere's own words, stand in for them
Gemini              thoughts are not among the candidates' tokens, nor tool prompts in the prompt's: both are added
Ollama              counts beside its answer, and leaves out what it still had of the prompt; so does Llama on Bedrock

Parts are cut to their totals, so that no report contradicts itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil import message_reading
from tokvigil.checked import TOKENS_MAX
from tokvigil.json_values import either
from tokvigil.models import Usage

_ANTHROPICS = frozenset({"cache_read_input_tokens", "cache_creation_input_tokens", "iterations"})
# Of Anthropic's iterations those that its totals do not contain.
_BESIDE_TOTALS = ("compaction", "advisor_message")

# Bedrock's words for what Anthropic says: those of converse, and of the last event of an invoked model.
_BEDROCK = {
    "inputTokens": "input_tokens",
    "inputTokenCount": "input_tokens",
    "outputTokens": "output_tokens",
    "outputTokenCount": "output_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheWriteInputTokens": "cache_creation_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
}


def read_usage(answer: Any) -> Usage | None:
    """The usage of an answer: a provider SDK's object, or its JSON as a mapping. None if it says none."""
    fields = _mapping(answer)
    block = _mapping(either(fields, "usage", "amazon-bedrock-invocationMetrics"))
    if block:
        return read_usage_block(block)
    gemini = _gemini(_mapping(either(fields, "usage_metadata", "usageMetadata")))
    return gemini or _cohere(_mapping(either(fields, "meta"))) or _beside_answer(fields)


def read_usage_block(usage: Mapping[str, Any]) -> Usage | None:
    """The `usage` of an answer of OpenAI, Anthropic, Bedrock or Cohere."""
    if "prompt_tokens" in usage:
        return _openai(usage, "prompt_tokens", "completion_tokens")
    if not _ANTHROPICS.isdisjoint(usage):
        return _anthropic(usage)
    if "total_input_tokens" in usage:
        return _gemini_interaction(usage)
    if not _BEDROCK.keys().isdisjoint(usage):
        return _anthropic({_BEDROCK.get(name, name): value for name, value in usage.items()})
    if "input_tokens" not in usage:
        return _cohere(usage)
    return _openai(usage, "input_tokens", "output_tokens")


def _openai(usage: Mapping[str, Any], input_name: str, output_name: str) -> Usage | None:
    input_tokens, output_tokens = _whole(usage, input_name), _whole(usage, output_name)
    total = _whole(usage, "total_tokens")
    if input_tokens is None:
        return None
    if usage.get(output_name) is None and total is not None and total >= input_tokens:
        # Embeddings have no completion, and say so by their total.
        output_tokens = 0
    if output_tokens is None:
        return None
    beyond = max(0, (total or 0) - input_tokens - output_tokens)
    # Mistral counts a recording, and what its connectors found, in the total only. Elsewhere it is reasoning.
    read = beyond if usage.get("prompt_audio_seconds") else _whole(usage, "connector_tokens") or 0
    input_tokens += min(beyond, read)
    output_tokens += beyond - min(beyond, read)
    details = _mapping(usage.get(f"{input_name}_details"))
    cached = min(_whole(details, "cached_tokens") or 0, input_tokens)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=min(_whole(details, "cache_write_tokens") or 0, input_tokens - cached),
        reasoning_tokens=_reasoning(_mapping(usage.get(f"{output_name}_details")), output_tokens),
    )


def _anthropic(usage: Mapping[str, Any]) -> Usage | None:
    if _whole(usage, "input_tokens") is None or _whole(usage, "output_tokens") is None:
        return None
    iterations = usage.get("iterations")
    parts = [usage]
    if isinstance(iterations, list):
        parts += [part for part in map(_mapping, iterations) if part.get("type") in _BESIDE_TOTALS]

    def total(name: str) -> int:
        return sum(_whole(part, name) or 0 for part in parts)

    cached, written = total("cache_read_input_tokens"), total("cache_creation_input_tokens")
    output_tokens = total("output_tokens")
    return Usage(
        input_tokens=total("input_tokens") + cached + written,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=_reasoning(_mapping(usage.get("output_tokens_details")), output_tokens),
    )


def _cohere(usage: Mapping[str, Any]) -> Usage | None:
    units = _mapping(either(usage, "billed_units", "tokens"))
    prompt = _whole(units, "input_tokens")
    if prompt is None:
        return None
    input_tokens = prompt + (_whole(units, "image_tokens") or 0)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=_whole(units, "output_tokens") or 0,
        cached_input_tokens=min(_whole(usage, "cached_tokens") or 0, input_tokens),
    )


def _reasoning(details_of_output: Mapping[str, Any], output_tokens: int) -> int:
    return min(_whole(details_of_output, "reasoning_tokens", "thinking_tokens") or 0, output_tokens)


def _gemini(usage: Mapping[str, Any]) -> Usage | None:
    prompt = _whole(usage, "prompt_token_count", "promptTokenCount")
    if prompt is None:
        return None
    thoughts = _whole(usage, "thoughts_token_count", "thoughtsTokenCount") or 0
    input_tokens = prompt + (_whole(usage, "tool_use_prompt_token_count", "toolUsePromptTokenCount") or 0)
    cached = _whole(usage, "cached_content_token_count", "cachedContentTokenCount") or 0
    return Usage(
        input_tokens=input_tokens,
        output_tokens=(_whole(usage, "candidates_token_count", "candidatesTokenCount") or 0) + thoughts,
        cached_input_tokens=min(cached, input_tokens),
        reasoning_tokens=thoughts,
    )


def _gemini_interaction(usage: Mapping[str, Any]) -> Usage | None:
    """Its totals are named so, and are none: thoughts and tool prompts stand beside them."""
    prompt = _whole(usage, "total_input_tokens")
    if prompt is None:
        return None
    thoughts = _whole(usage, "total_thought_tokens") or 0
    input_tokens = prompt + (_whole(usage, "total_tool_use_tokens") or 0)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=(_whole(usage, "total_output_tokens") or 0) + thoughts,
        cached_input_tokens=min(_whole(usage, "total_cached_tokens") or 0, input_tokens),
        reasoning_tokens=thoughts,
    )


def _beside_answer(fields: Mapping[str, Any]) -> Usage | None:
    output_tokens = _whole(fields, "eval_count", "generation_token_count")
    if output_tokens is None:
        return None
    input_tokens = _whole(fields, "prompt_eval_count", "prompt_token_count") or 0
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens)


def _mapping(value: Any) -> Mapping[str, Any]:
    """What a mapping or an object says, also one that cannot be dumped; nothing, of anything else."""
    said = message_reading.fields(value)
    return getattr(value, "__dict__", {}) if said is None else said


def _whole(fields: Mapping[str, Any], *names: str) -> int | None:
    value = either(fields, *names)
    if isinstance(value, float) and value.is_integer():
        # As Cohere's SDK gives them.
        value = int(value)
    return (
        value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX else None
    )
