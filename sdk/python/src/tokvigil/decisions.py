"""The decision behind a provider's answer, or behind an error: what is left, the request id, the estimated cost."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tokvigil.errors import causes_of, said_by
from tokvigil.models import Decision

# Of so many answers the decision is known, the latest.
ANSWERS_MAX = 10_000
# Under this name the `extensions` of an HTTP request and of its response hold the call that they are of.
CALL = "tokvigil_call"
_MESSAGES = ("response", "http_response", "_response", "raw_response", "request")
_IDS = ("id", "response_id", "responseId")

_by_answer: dict[str, Decision] = {}


def remember(answer_id: str, decision: Decision) -> None:
    """By the id that the provider has given its answer."""
    # Each step is one of Python's own, so there is no lock that a signal handler or a fork could find held.
    _by_answer.pop(answer_id, None)
    _by_answer[answer_id] = decision
    if len(_by_answer) > ANSWERS_MAX:
        # Another thread may add one in the middle, and another may have taken the oldest.
        with suppress(RuntimeError, StopIteration):
            _by_answer.pop(next(iter(_by_answer)), None)


def call_of(message: Any) -> Any:
    """The call that an HTTP request or response of a guarded client is of; None for anything else."""
    return _said(_said(message, "extensions"), CALL)


def decision_of(answer: Any) -> Decision | None:
    """The decision that let an answer through, or that an error is about; None if it is not known.

    Takes what a wrapped client gives: an answer or a chunk of it, a raw response, an error of the provider's SDK, a
    block, also inside other errors. An answer is found by its provider's id, as long as it is among the latest
    `ANSWERS_MAX` of this process.
    """
    sources = causes_of(answer) if isinstance(answer, BaseException) else (answer,)
    for source in sources:
        own = _said(source, "decision")
        if isinstance(own, Decision):
            return own
        for message in (source, *(_said(source, name) for name in _MESSAGES)):
            call = call_of(message)
            if call is not None and call.decision is not None:
                return call.decision  # type: ignore[no-any-return]
        for holder in (source, _said(source, "response_metadata")):
            for name in _IDS:
                known = _by_answer.get(str(_said(holder, name)))
                if known is not None:
                    return known
    return None


def _said(source: Any, name: str) -> Any:
    """Of a mapping or an object."""
    return source.get(name) if isinstance(source, Mapping) else said_by(source, name)
