"""Attributes on the caller's own OpenTelemetry span, if the application traces. All names stand here.

`gen_ai.*` follow OpenTelemetry's semantic conventions for generative AI, still in development (names as in
opentelemetry-util-genai 1.3b0); there is none for a cost or a decision, so those are `tokvigil.*`.
Nothing is imported: an application that traces has imported OpenTelemetry itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokvigil.evaluation import Question
    from tokvigil.models import Decision, UsageEvent

REQUEST_MODEL = "gen_ai.request.model"
PROVIDER_NAME = "gen_ai.provider.name"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
REQUEST_ID = "tokvigil.request_id"
FEATURE = "tokvigil.feature"
ALLOWED = "tokvigil.allowed"
REASON_CODE = "tokvigil.reason_code"
POLICY = "tokvigil.policy"
DEGRADED = "tokvigil.degraded"
USAGE_STATUS = "tokvigil.usage.status"
USAGE_SOURCE = "tokvigil.usage.source"


def note_decision(question: Question, decision: Decision) -> None:
    """Users are not named: a trace goes to more people than a ledger does."""
    _note(
        {
            REQUEST_MODEL: question.model,
            FEATURE: question.feature,
            REQUEST_ID: decision.request_id,
            ALLOWED: decision.allowed,
            REASON_CODE: decision.reason_code,
            POLICY: None if decision.policy is None else decision.policy.name,
            DEGRADED: decision.degraded,
        }
    )


def note_usage(event: UsageEvent) -> None:
    _note(
        {
            PROVIDER_NAME: event.provider,
            INPUT_TOKENS: event.usage.input_tokens,
            OUTPUT_TOKENS: event.usage.output_tokens,
            CACHED_INPUT_TOKENS: event.usage.cached_input_tokens,
            CACHE_WRITE_TOKENS: event.usage.cache_write_tokens,
            REASONING_TOKENS: event.usage.reasoning_tokens,
            USAGE_STATUS: event.status,
            USAGE_SOURCE: event.usage.source,
        }
    )


def _note(attributes: Mapping[str, Any]) -> None:
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({name: value for name, value in attributes.items() if value is not None})
