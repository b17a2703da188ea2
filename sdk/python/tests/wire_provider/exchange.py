"""What goes over the wire, whoever the provider is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request. Header names are lower case; `body` is None if it is no JSON."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    raw: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events, or those of AWS, each as the bytes of its own. `error`: one that ends it in failure, if it is
    not the provider's usual one."""

    events: Sequence[bytes]
    content_type: str = "text/event-stream; charset=utf-8"
    error: bytes | None = None


class Refused(Exception):
    """The provider finds fault with the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Provider(Protocol):
    """What a module that speaks for one provider has to offer."""

    def headers(self, request_id: str) -> Mapping[str, str]:
        """That every answer of this provider carries."""

    def answer(self, seen: Seen) -> Answer | Stream:
        """Raises `Refused`."""

    def error(self, seen: Seen, status: int, message: str) -> Any:
        """The body of an answer that is no 200."""

    def stream_error(self) -> bytes:
        """The event that tells, in a stream that began well, that it ends in failure."""


def event(data: Any, name: str | None = None, newline: str = "\n") -> bytes:
    """A server-sent event with JSON in it, non-ASCII characters as they are."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    lines = [f"data: {text}"] if name is None else [f"event: {name}", f"data: {text}"]
    return (newline.join(lines) + 2 * newline).encode()


def require(body: Any, *names: str) -> None:
    if not isinstance(body, dict):
        raise Refused(400, "We could not parse the JSON body of your request.")
    for name in names:
        if body.get(name) is None:
            raise Refused(400, f"Missing required parameter: '{name}'.")


def require_at_least(body: Mapping[str, Any], name: str, minimum: int) -> None:
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or value < minimum):
        raise Refused(400, f"Invalid '{name}': expected an integer >= {minimum}, got {value!r}.")
