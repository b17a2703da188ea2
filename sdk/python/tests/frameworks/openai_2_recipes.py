"""Frameworks that run with openai 2."""

from __future__ import annotations

from typing import Any

from sdk.python.tests.frameworks.checks import *  # noqa: F403
from sdk.python.tests.frameworks.checks import Style, every
from sdk.python.tests.wrapped import TOOL_MESSAGES, Person

HELLO = "Say hello to Ada"
WHO: Any = {"messages": TOOL_MESSAGES, "response_model": Person}
GPT: Any = WHO | {"model": "gpt-4o-mini"}


def chat() -> Any:
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(content=HELLO)]


async def achat_stream(llm: Any) -> list[Any]:
    return await every(await llm.astream_chat(chat()))


STYLES = [
    Style("instructor", "instructor", "create", lambda made: made.client.create(**GPT)),
    Style("instructor", "instructor", "partial", lambda made: list(made.client.create_partial(**GPT))),
    Style("instructor", "instructor", "retrying", lambda made: made.client.create(**GPT, max_retries=3)),
    Style(
        "instructor",
        "instructor",
        "anthropic",
        lambda made: made.claude.create(**WHO, model="claude-haiku-4-5", max_tokens=500),
        "anthropic",
    ),
    Style("llama-index", "llama-index-llms-openai", "chat", lambda made: made.llm.chat(chat())),
    Style(
        "llama-index", "llama-index-llms-openai", "stream", lambda made: list(made.llm.stream_chat(chat()))
    ),
    Style("llama-index", "llama-index-llms-openai", "achat", lambda made: made.llm.achat(chat())),
    Style("llama-index", "llama-index-llms-openai", "async stream", lambda made: achat_stream(made.llm)),
    Style(
        "llama-index",
        "llama-index-embeddings-openai",
        "embedding",
        lambda made: made.embedding.get_text_embedding(HELLO),
        "embeddings",
    ),
    Style(
        "llama-index",
        "llama-index-embeddings-openai",
        "async embedding",
        lambda made: made.embedding.aget_text_embedding(HELLO),
        "embeddings",
    ),
]
