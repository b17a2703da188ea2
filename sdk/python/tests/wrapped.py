"""What the tests of `wrap` have in common."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from tokvigil import TokVigil, UsageEvent
from tokvigil.testing.control_plane import event_of

from sdk.python.tests.wire_provider.content import TOOL_TRIGGER

MESSAGES: Any = [{"role": "user", "content": "Say hello to Ada"}]
CHAT: Any = {"model": "gpt-4o-mini", "messages": MESSAGES}
# Its answer repeats its cap: one that no decision lowers.
RESPONSE: Any = {"model": "gpt-5-mini", "input": "Say hello to Ada", "max_output_tokens": 50}
CLAUDE: Any = {"model": "claude-haiku-4-5", "messages": MESSAGES, "max_tokens": 500}
GEMINI: Any = {"model": "gemini-2.5-flash", "contents": "Say hello to Ada"}
TOOL_MESSAGES: Any = [{"role": "user", "content": f"Please {TOOL_TRIGGER}"}]
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
PNG = b"\x89PNG\r\n\x1a\n"
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
WAIT_S_MAX = 10.0


class Person(BaseModel):
    name: str
    age: int
    friends: list[str]


@dataclass
class Books:
    """What TokVigil was asked, and what it was told."""

    tv: TokVigil
    control_plane: Any

    @property
    def asked(self) -> list[Any]:
        """Evaluated."""
        return [seen.body for seen in self.control_plane.calls("/v1/evaluate")]

    def settled(self) -> list[UsageEvent]:
        """All reports, once they have arrived."""
        assert self.tv.flush() == 0
        return [event_of(event) for event in self.control_plane.charged.values()]

    def only(self) -> UsageEvent:
        """The report of the one call there was: evaluated once, settled once."""
        (asked,) = self.asked
        (settled,) = self.settled()
        assert settled.request_id == asked["request_id"]
        return settled


def check_answers_block(response: Any, status: int, retry_after: str | None) -> None:
    """The answer of a web application to its own caller."""
    assert (response.status_code, response.headers.get("Retry-After")) == (status, retry_after)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "title": "Too Many Requests" if status == 429 else "Forbidden",
        "status": status,
        "code": "DAILY_REQUEST_LIMIT_EXCEEDED",
        "detail": "Daily request limit of 50 reached for user user_123.",
    }


def plain(value: Any) -> Any:
    """An answer, in whatever form it came, as what two of them are compared by."""
    if isinstance(value, BaseModel):
        return value.model_dump(warnings=False)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def pending_of(tv: Any) -> tuple[UsageEvent, ...]:
    """The reports that TokVigil has not confirmed yet, oldest first."""
    return tuple(event_of(json.loads(report.body)) for report in tv._reporter.journal.pending())


def wait_for(condition: Callable[[], Any]) -> None:
    tick = threading.Event()
    for _ in range(int(WAIT_S_MAX / 0.005)):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("it did not happen")
