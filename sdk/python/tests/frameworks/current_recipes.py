"""Frameworks that run with the current SDKs of providers."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sdk.python.tests.frameworks.checks import *  # noqa: F403
from sdk.python.tests.frameworks.checks import Style, every

MESSAGES: Any = [{"role": "user", "content": "Say hello to Ada"}]
HELLO = "Say hello to Ada"


async def pydantic_ai_stream(agent: Any) -> list[str]:
    async with agent.run_stream(HELLO) as result:
        return [text async for text in result.stream_text()]


async def agents_stream(agent: Any) -> list[Any]:
    from agents import Runner

    return [event async for event in Runner.run_streamed(agent, HELLO).stream_events()]


def agents_run(agent: Any) -> Any:
    from agents import Runner

    return Runner.run(agent, HELLO)


def haystack_messages() -> Any:
    from haystack.dataclasses import ChatMessage

    return [ChatMessage.from_user(HELLO)]


def completion(model: str, **options: Any) -> Any:
    import litellm

    return litellm.completion(model, MESSAGES, **options)


def acompletion(model: str, **options: Any) -> Any:
    import litellm

    return litellm.acompletion(model, MESSAGES, **options)


def gemini(client: Any) -> Any:
    return completion(
        "gemini/gemini-2.5-flash", client=client, api_base=os.environ["GOOGLE_GEMINI_BASE_URL"] + "/v1"
    )


def router() -> Any:
    import litellm

    models = [{"model_name": "gpt", "litellm_params": {"model": "openai/gpt-4o-mini"}}]
    return litellm.Router(model_list=models, num_retries=0)


def langchain(package: str, name: str, usage: str = "openai") -> list[Style]:
    def style(kind: str, call: Any) -> Style:
        return Style("LangChain", package, kind, lambda made: call(getattr(made, name)), usage)

    return [
        style("invoke", lambda model: model.invoke(HELLO)),
        style("stream", lambda model: list(model.stream(HELLO))),
        style("ainvoke", lambda model: model.ainvoke(HELLO)),
        style("astream", lambda model: every(model.astream(HELLO))),
    ]


CLAUDE: Any = {"max_tokens": 500, "messages": MESSAGES}
BEDROCK: Any = CLAUDE | {"model": "anthropic.claude-haiku-4-5-20251001-v1:0"}
VERTEX: Any = CLAUDE | {"model": "claude-haiku-4-5@20251001"}
CLOUDS = "Anthropic on Bedrock, Vertex and Foundry"

STYLES = [
    Style("pydantic-ai", "pydantic-ai-slim", "openai", lambda made: made.agent.run(HELLO)),
    Style("pydantic-ai", "pydantic-ai-slim", "openai, sync", lambda made: made.agent.run_sync(HELLO)),
    Style("pydantic-ai", "pydantic-ai-slim", "openai, stream", lambda made: pydantic_ai_stream(made.agent)),
    Style("pydantic-ai", "pydantic-ai-slim", "anthropic", lambda made: made.claude.run(HELLO), "anthropic"),
    Style(
        "pydantic-ai",
        "pydantic-ai-slim",
        "anthropic, stream",
        lambda made: pydantic_ai_stream(made.claude),
        "anthropic",
    ),
    Style("pydantic-ai", "pydantic-ai-slim", "gemini", lambda made: made.gemini.run(HELLO), "gemini"),
    Style(
        "pydantic-ai",
        "pydantic-ai-slim",
        "gemini, stream",
        lambda made: pydantic_ai_stream(made.gemini),
        "gemini",
    ),
    Style("openai-agents", "openai-agents", "run", lambda made: agents_run(made.agent)),
    Style("openai-agents", "openai-agents", "stream", lambda made: agents_stream(made.agent)),
    *langchain("langchain-openai", "openai"),
    *langchain("langchain-anthropic", "anthropic", "anthropic"),
    *langchain("langchain-google-genai", "google", "gemini"),
    *langchain("langchain-groq", "groq"),
    *langchain("langchain-mistralai", "mistral"),
    Style("Haystack", "haystack-ai", "run", lambda made: made.generator.run(haystack_messages())),
    Style("Haystack", "haystack-ai", "run_async", lambda made: made.generator.run_async(haystack_messages())),
    Style(
        "Haystack",
        "haystack-ai",
        "streaming",
        lambda made: made.generator.run(haystack_messages(), streaming_callback=lambda chunk: None),
    ),
    Style("litellm", "litellm", "openai", lambda made: completion("gpt-4o-mini")),
    Style("litellm", "litellm", "openai, stream", lambda made: list(completion("gpt-4o-mini", stream=True))),
    Style("litellm", "litellm", "openai, async", lambda made: acompletion("gpt-4o-mini")),
    Style(
        "litellm",
        "litellm",
        "openai, retrying",
        lambda made: completion("gpt-4o-mini", num_retries=2),
        asks=3,
    ),
    Style(
        "litellm",
        "litellm",
        "anthropic",
        lambda made: completion("anthropic/claude-haiku-4-5", client=made.client),
        "anthropic",
    ),
    Style(
        "litellm",
        "litellm",
        "anthropic, stream",
        lambda made: list(completion("anthropic/claude-haiku-4-5", client=made.client, stream=True)),
        "anthropic",
    ),
    Style(
        "litellm",
        "litellm",
        "anthropic, async",
        lambda made: acompletion("anthropic/claude-haiku-4-5", client=made.async_client),
        "anthropic",
    ),
    Style("litellm", "litellm", "gemini", lambda made: gemini(made.client), "gemini"),
    Style("litellm", "litellm", "router", lambda made: router().completion("gpt", MESSAGES)),
    Style("litellm", "litellm", "router, async", lambda made: router().acompletion("gpt", MESSAGES)),
    Style("No SDK at all", "httpx2", "post", lambda made: made.ask(HELLO)),
    Style("dspy", "dspy", "call", lambda made: made.lm(HELLO)),
    Style("dspy", "dspy", "acall", lambda made: made.lm.acall(HELLO)),
    Style(
        "mistralai",
        "mistralai",
        "complete",
        lambda made: made.client.chat.complete(model="m", messages=MESSAGES),
    ),
    Style(
        "mistralai",
        "mistralai",
        "stream",
        lambda made: list(made.client.chat.stream(model="m", messages=MESSAGES)),
    ),
    Style(
        "mistralai",
        "mistralai",
        "complete_async",
        lambda made: made.client.chat.complete_async(model="m", messages=MESSAGES),
    ),
    Style(CLOUDS, "anthropic", "bedrock", lambda made: made.bedrock.messages.create(**BEDROCK), "anthropic"),
    Style(
        CLOUDS,
        "anthropic",
        "bedrock, stream",
        lambda made: list(made.bedrock.messages.create(**BEDROCK, stream=True)),
        "anthropic",
    ),
    Style(CLOUDS, "anthropic", "vertex", lambda made: made.vertex.messages.create(**VERTEX), "anthropic"),
    Style(
        CLOUDS,
        "anthropic",
        "vertex, stream",
        lambda made: list(made.vertex.messages.create(**VERTEX, stream=True)),
        "anthropic",
    ),
    Style(CLOUDS, "anthropic", "foundry", lambda made: made.foundry.messages.create(**VERTEX), "anthropic"),
]


@pytest.fixture(autouse=True)
def other_places(wire_provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no variable of the environment says."""
    from anthropic.lib.vertex import _client as vertex
    from google.oauth2.credentials import Credentials
    from mistralai.client import sdkconfiguration

    monkeypatch.setitem(sdkconfiguration.SERVERS, sdkconfiguration.SERVER_GLOBAL, wire_provider.url)
    monkeypatch.setattr(vertex, "load_auth", lambda project_id: (Credentials("token"), project_id))
