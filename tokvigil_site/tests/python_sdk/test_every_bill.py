"""Real situations whose bill is more than text tokens, from a provider's answer through a wrapped client to the ledger.

Answers are in their providers' published form; prices are those of the shared book.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import openai
import pytest
import tokvigil
from google import genai
from tokvigil import TokVigil

from tenants.models import Environment
from tokvigil_site.testing import apply_policies, assert_settled, ledger, limits
from usage.money import format_usd_if_known
from usage.prices.genai import load_shared_prices

USER = "ana"


class Canned:
    """A provider on loopback that answers with what it is given."""

    def __init__(self) -> None:
        self.answer: Any = {}
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.dumps(canned.answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _prices(environment: Environment) -> None:
    load_shared_prices()
    row = "{metric: cost_usd, window: month, amount: '1000', per: environment}"
    apply_policies(environment, limits(row))


def chat(model: str, usage: dict[str, Any], **more: Any) -> dict[str, Any]:
    said = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": [said]}
    return {**answer, "usage": usage, **more}


def message(model: str, usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def response(model: str, usage: dict[str, Any], output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    said = {
        "type": "message",
        "id": "o",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello.", "annotations": []}],
    }
    return {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": "completed",
        "output": [*output, said],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    } | more


def ask_chat(client: TokVigil, url: str, model: str) -> None:
    wrapped = client.wrap(openai.OpenAI(base_url=f"{url}/v1", api_key="sk", max_retries=0))
    with tokvigil.context(user_id=USER):
        wrapped.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])


def ask_response(client: TokVigil, url: str, model: str) -> None:
    wrapped = client.wrap(openai.OpenAI(base_url=f"{url}/v1", api_key="sk", max_retries=0))
    with tokvigil.context(user_id=USER):
        wrapped.responses.create(model=model, input="Hi")


def ask_message(client: TokVigil, url: str, model: str) -> None:
    wrapped = client.wrap(anthropic.Anthropic(base_url=url, api_key="sk", max_retries=0))
    with tokvigil.context(user_id=USER):
        wrapped.messages.create(model=model, max_tokens=2_000, messages=[{"role": "user", "content": "Hi"}])


def ask_gemini(client: TokVigil, url: str, model: str) -> None:
    wrapped = client.wrap(genai.Client(api_key="sk", http_options=genai.types.HttpOptions(base_url=url)))
    with tokvigil.context(user_id=USER):
        wrapped.models.generate_content(model=model, contents="Hi")


def gemini(model: str, usage: dict[str, Any]) -> dict[str, Any]:
    said = {"content": {"role": "model", "parts": [{"text": "Hello."}]}, "finishReason": "STOP", "index": 0}
    return {"candidates": [said], "usageMetadata": usage, "modelVersion": model}


@dataclass(frozen=True)
class Case:
    """What is asked of whom, what is answered, and what the ledger has then."""

    ask: Callable[[TokVigil, str, str], None]
    model: str
    answer: dict[str, Any]
    usd: str
    ledger: dict[str, Any] = field(default_factory=dict)


CASES = {
    "reasoning beside the completion (xAI)": Case(
        ask_chat,
        "grok-4",
        chat(
            "grok-4",
            {
                "prompt_tokens": 10_120,
                "completion_tokens": 1_499,
                "total_tokens": 14_428,
                "prompt_tokens_details": {"cached_tokens": 128},
                "completion_tokens_details": {"reasoning_tokens": 2_809},
            },
        ),
        "0.094692",
        {"output_tokens": 4_308, "reasoning_tokens": 2_809, "cached_input_tokens": 128},
    ),
    "cache writes for an hour": Case(
        ask_message,
        "claude-haiku-4-5",
        message(
            "claude-haiku-4-5",
            {
                "input_tokens": 10,
                "output_tokens": 5,
                "cache_read_input_tokens": 0,
                "cache_creation_input_tokens": 100_000,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 40_000,
                    "ephemeral_1h_input_tokens": 60_000,
                },
            },
        ),
        "0.170035",
        {"cache_write_tokens": 40_000, "quantities": {"cache_write_1h_tokens": 60_000}},
    ),
    "another model answers": Case(
        ask_message,
        "claude-fable-5",
        message("claude-opus-4-8", {"input_tokens": 412, "output_tokens": 264}),
        "0.00866",
        {"model": "claude-opus-4-8", "requested_model": "claude-fable-5"},
    ),
    "fast mode": Case(
        ask_message,
        "claude-opus-4-6",
        message("claude-opus-4-6", {"input_tokens": 10_000, "output_tokens": 1_000, "speed": "fast"}),
        "0.45",
        {"service_tier": "fast"},
    ),
    "inference in one region": Case(
        ask_message,
        "claude-opus-4-6",
        message("claude-opus-4-6", {"input_tokens": 10_000, "output_tokens": 1_000, "inference_geo": "us"}),
        "0.0825",
        {"region": "us"},
    ),
    "the tier that served": Case(
        ask_chat,
        "gpt-5-mini",
        chat(
            "gpt-5-mini",
            {"prompt_tokens": 10_000, "completion_tokens": 1_000, "total_tokens": 11_000},
            service_tier="priority",
        ),
        "0.0081",
        {"service_tier": "priority"},
    ),
    "flex": Case(
        ask_chat,
        "gpt-5-mini",
        chat(
            "gpt-5-mini",
            {"prompt_tokens": 10_000, "completion_tokens": 1_000, "total_tokens": 11_000},
            service_tier="flex",
        ),
        "0.00225",
        {"service_tier": "flex"},
    ),
    "searches of Anthropic": Case(
        ask_message,
        "claude-sonnet-4-5",
        message(
            "claude-sonnet-4-5",
            {"input_tokens": 9_548, "output_tokens": 528, "server_tool_use": {"web_search_requests": 2}},
        ),
        "0.056564",
        {"quantities": {"web_searches": 2}},
    ),
    "searches of OpenAI": Case(
        ask_response,
        "gpt-5-mini",
        response(
            "gpt-5-mini",
            {
                "input_tokens": 100,
                "output_tokens": 4_619,
                "total_tokens": 4_719,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
            [
                {
                    "type": "web_search_call",
                    "id": f"w{number}",
                    "status": "completed",
                    "action": {"type": "search", "query": "q"},
                }
                for number in range(3)
            ],
        ),
        "0.039263",
        {"quantities": {"web_searches": 3}},
    ),
    "audio of Gemini": Case(
        ask_gemini,
        "gemini-2.5-flash",
        gemini(
            "gemini-2.5-flash",
            {
                "promptTokenCount": 10_000,
                "candidatesTokenCount": 100,
                "totalTokenCount": 10_100,
                "promptTokensDetails": [
                    {"modality": "AUDIO", "tokenCount": 9_900},
                    {"modality": "TEXT", "tokenCount": 100},
                ],
            },
        ),
        "0.01018",
        {"quantities": {"input_audio_tokens": 9_900}},
    ),
    "audio of OpenAI": Case(
        ask_chat,
        "gpt-4o-audio-preview",
        chat(
            "gpt-4o-audio-preview",
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 100,
                "total_tokens": 1_100,
                "prompt_tokens_details": {"audio_tokens": 900, "cached_tokens": 0},
                "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 0},
            },
        ),
        "0.03725",
        {"quantities": {"input_audio_tokens": 900}},
    ),
    "cache hits of DeepSeek": Case(
        ask_chat,
        "deepseek-chat",
        chat(
            "deepseek-chat",
            {
                "prompt_tokens": 100_000,
                "completion_tokens": 50,
                "total_tokens": 100_050,
                "prompt_cache_hit_tokens": 90_000,
                "prompt_cache_miss_tokens": 10_000,
            },
        ),
        "0.009055",
        {"cached_input_tokens": 90_000},
    ),
    "cache hits of Moonshot": Case(
        ask_chat,
        "kimi-k2.5",
        chat(
            "kimi-k2.5",
            {"prompt_tokens": 2_000, "completion_tokens": 50, "total_tokens": 2_050, "cached_tokens": 1_792},
        ),
        "0.000454",
        {"cached_input_tokens": 1_792},
    ),
    "counts as floats": Case(
        ask_message,
        "claude-haiku-4-5",
        message(
            "claude-haiku-4-5",
            {"input_tokens": 123.6, "output_tokens": 321.0, "cache_read_input_tokens": 5_000},
        ),
        "0.002229",
        {"input_tokens": 5_124, "output_tokens": 321, "cached_input_tokens": 5_000},
    ),
    "a cost that the provider says": Case(
        ask_chat,
        "openai/gpt-4o-mini",
        chat(
            "openai/gpt-4o-mini",
            {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100, "cost": 0.00025},
        ),
        "0.00021",
        {"reported_cost_nano": 250_000},
    ),
    "a snapshot that a provider's resource name names": Case(
        ask_gemini,
        "models/gemini-2.5-flash",
        gemini(
            "gemini-2.5-flash",
            {"promptTokenCount": 1_000, "candidatesTokenCount": 100, "totalTokenCount": 1_100},
        ),
        "0.00055",
    ),
    # Three more kinds, of our own choosing.
    "thoughts and a tool's prompt beside the totals (Gemini)": Case(
        ask_gemini,
        "gemini-2.5-pro",
        gemini(
            "gemini-2.5-pro",
            {
                "promptTokenCount": 1_000,
                "candidatesTokenCount": 100,
                "thoughtsTokenCount": 400,
                "toolUsePromptTokenCount": 200,
                "totalTokenCount": 1_700,
            },
        ),
        "0.0065",
        {"input_tokens": 1_200, "output_tokens": 500, "reasoning_tokens": 400},
    ),
    "audio in and out of a voice model": Case(
        ask_chat,
        "gpt-audio",
        chat(
            "gpt-audio",
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 500,
                "total_tokens": 1_500,
                "prompt_tokens_details": {"audio_tokens": 600, "cached_tokens": 0},
                "completion_tokens_details": {"audio_tokens": 400, "reasoning_tokens": 0},
            },
        ),
        "0.0468",
        {"quantities": {"input_audio_tokens": 600, "output_audio_tokens": 400}},
    ),
    "a search of stored files (OpenAI)": Case(
        ask_response,
        "gpt-5",
        response(
            "gpt-5",
            {"input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100},
            [
                {
                    "type": "file_search_call",
                    "id": "f",
                    "status": "completed",
                    "queries": ["q"],
                    "results": None,
                }
            ],
        ),
        "0.00475",
        {"quantities": {"file_searches": 1}},
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_what_the_answer_says_is_charged_at_its_own_rate(
    name: str, client: TokVigil, canned: Canned, environment: Environment
) -> None:
    case = CASES[name]
    canned.answer = case.answer
    case.ask(client, canned.url, case.model)
    assert client.flush() == 0

    (row,) = ledger(environment)
    assert row.unpriced_quantities is None
    assert {each: getattr(row, each) for each in case.ledger} == case.ledger
    assert format_usd_if_known(row.cost_nano) == case.usd
    assert_settled(environment)


def test_dear_models_share_a_budget_and_others_are_free_of_it(
    client: TokVigil, canned: Canned, environment: Environment
) -> None:
    """The router of one call answers with a dear model, which is charged to their budget."""
    dear = (
        "{metric: cost_usd, window: month, amount: '1', per: environment, models: ['claude-opus-*', gpt-5]}"
    )
    apply_policies(environment, limits(dear))

    def used(prompt: int) -> dict[str, Any]:
        return {"prompt_tokens": prompt, "completion_tokens": 10, "total_tokens": prompt + 10}

    canned.answer = message("claude-opus-4-8", {"input_tokens": 100_000, "output_tokens": 10})
    ask_message(client, canned.url, "claude-opus-4-8")
    canned.answer = chat("gpt-4o-mini", used(100_000))
    for _ in range(3):
        ask_chat(client, canned.url, "gpt-4o-mini")
    canned.answer = chat("gpt-5-2025-08-07", used(480_000))
    ask_chat(client, canned.url, "gpt-4o-mini")
    assert client.flush() == 0

    with pytest.raises(
        tokvigil.AIUsageBlockedError,
        match=r"for the environment with claude-opus-\* and gpt-5: 1.10035 USD used",
    ):
        ask_message(client, canned.url, "claude-opus-4-8")
    ask_chat(client, canned.url, "gpt-4o-mini")
    assert client.flush() == 0
    spent = [format_usd_if_known(row.cost_nano) for row in ledger(environment)]
    assert spent == ["0.50025", "0.015006", "0.015006", "0.015006", "0.6001", "0.6001"]
    assert_settled(environment)
