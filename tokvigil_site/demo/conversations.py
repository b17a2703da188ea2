"""The demo's traffic: what named demo users ask which models, and the answers that the provider gives.

The texts are in conversations.json. A content may be written as {"intro", "line", "lines"}: the intro, then
the line repeated with {n} counting up, which is how the very long ones stay readable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("conversations.json")
LINES_MAX = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One AI request: who asks, on which plan, for what, and what the model will answer."""

    id: str
    language: str
    user: str
    plan: str
    feature: str
    model: str
    messages: tuple[Mapping[str, str], ...]
    answer: str
    max_output_tokens: int | None = None


@cache
def load_conversations() -> tuple[Conversation, ...]:
    """All demo conversations, in the order in which the demo sends them."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    return tuple(_read(item, data["users"]) for item in data["conversations"])


def digests(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """One digest for each prefix of the messages, the shortest first, whatever the order of keys in each."""
    running = hashlib.sha256()
    prefixes = []
    for message in messages:
        running.update(json.dumps(dict(message), sort_keys=True).encode() + b"\n")
        prefixes.append(running.hexdigest())
    return prefixes


def digest(messages: Iterable[Mapping[str, Any]]) -> str:
    """Identifies a list of messages (at least one) by content."""
    return digests(messages)[-1]


def _read(item: Mapping[str, Any], plans_by_user: Mapping[str, str]) -> Conversation:
    return Conversation(
        id=item["id"],
        language=item["language"],
        user=item["user"],
        plan=plans_by_user[item["user"]],
        feature=item["feature"],
        model=item["model"],
        messages=tuple(
            {"role": message["role"], "content": _text(message["content"])} for message in item["messages"]
        ),
        answer=item["answer"],
        max_output_tokens=item.get("max_output_tokens"),
    )


def _text(content: str | Mapping[str, Any]) -> str:
    if isinstance(content, str):
        return content
    if not 0 < content["lines"] <= LINES_MAX:
        raise ValueError(f"lines must be 1 to {LINES_MAX}")
    lines = (content["line"].replace("{n}", str(n)) for n in range(1, content["lines"] + 1))
    return "\n".join([content["intro"], *lines])
