"""What alerts are about. Endpoints choose among these, and webhooks name them as `type`."""

from __future__ import annotations

from enum import StrEnum

EVENT_LENGTH_MAX = 32


class Event(StrEnum):
    LIMIT_THRESHOLD = "limit.threshold"
    LIMIT_RUNS_OUT = "limit.runs_out"
    BLOCKED_SPIKE = "calls.blocked_spike"
    SPEND_ANOMALY = "spend.anomaly"
    COUNTERS_DRIFT = "counters.drift"
    MODEL_UNPRICED = "model.unpriced"
    TEST = "alert.test"


IN_WORDS = {
    Event.LIMIT_THRESHOLD: "A limit or budget reaches a threshold",
    Event.LIMIT_RUNS_OUT: "A limit or budget will run out before it resets",
    Event.BLOCKED_SPIKE: "Far more calls are blocked than usual",
    Event.SPEND_ANOMALY: "A feature or a key spends far more than usual",
    Event.COUNTERS_DRIFT: "Counters differ from the ledger",
    Event.MODEL_UNPRICED: "Calls of a model that has no price",
}
# Of the limits of policies.
OF_LIMITS = frozenset({Event.LIMIT_THRESHOLD, Event.LIMIT_RUNS_OUT})
WITH_THRESHOLDS = frozenset({Event.LIMIT_THRESHOLD, Event.BLOCKED_SPIKE})


def title(event: str) -> str:
    """Also of a name that is no longer one."""
    return (
        "A test"
        if event == Event.TEST
        else {str(key): words for key, words in IN_WORDS.items()}.get(event, event)
    )


def watched() -> list[tuple[str, str]]:
    """All but the test, with their words. Asked for when needed, so that a new event changes no column."""
    return [(event.value, words) for event, words in IN_WORDS.items()]
