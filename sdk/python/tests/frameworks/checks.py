"""What is checked of every recipe."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from tokvigil import AIUsageBlockedError, context
from tokvigil.blocked import block_behind

from sdk.python.tests.wire_provider import WireProvider, anthropic, gemini, openai
from sdk.python.tests.wrapped import Books

USAGES = {
    "openai": openai.USAGE,
    "anthropic": anthropic.USAGE,
    "gemini": gemini.USAGE,
    "embeddings": openai.EMBEDDING_USAGE,
}
Recipe = Callable[[str], SimpleNamespace]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the docs say of a package: its version, and the errors that a block arrives as."""

    version: str
    errors: frozenset[str]


@dataclass(frozen=True, slots=True)
class Style:
    """One way to call a model through what a recipe makes. `asks`: how often the framework tries a blocked call."""

    recipe: str
    package: str
    name: str
    call: Callable[[Any], Any]
    usage: str = "openai"
    asks: int = 1

    def run(self, made: SimpleNamespace) -> Any:
        with context(user_id="user_123", feature="chat"):
            answer = self.call(made)
            return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Any) -> Any:
    return await answer


async def every(stream: Any) -> list[Any]:
    return [item async for item in stream]


def test_a_call_is_asked_and_settled_once_with_the_figures_of_the_provider(
    style: Style, recipe: Recipe, books: Books
) -> None:
    style.run(recipe(style.recipe))
    settled = books.only()
    assert (settled.status, settled.usage) == ("succeeded", USAGES[style.usage])
    assert (settled.user_id, settled.feature) == ("user_123", "chat")


def test_a_block_of_the_version_in_the_docs_arrives_as_they_say_and_no_call_goes_out(
    style: Style,
    recipe: Recipe,
    rows: dict[str, Row],
    control_plane: Any,
    wire: Any,
    wire_provider: WireProvider,
    books: Books,
) -> None:
    assert version(style.package).startswith(rows[style.package].version + ".")
    made = recipe(style.recipe)
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.blocked(seen.body["request_id"])
    )
    with pytest.raises(Exception) as raised:
        style.run(made)
    assert type(raised.value).__name__ in rows[style.package].errors
    block = AIUsageBlockedError.find(raised.value)
    assert block is not None
    assert block.reason_code == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert block_behind(raised.value) is block
    assert len(books.asked) == style.asks
    assert wire_provider.seen == []


__all__ = [
    "test_a_block_of_the_version_in_the_docs_arrives_as_they_say_and_no_call_goes_out",
    "test_a_call_is_asked_and_settled_once_with_the_figures_of_the_provider",
]
