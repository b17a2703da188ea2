"""Attributes on the caller's own OpenTelemetry span, if the application traces. All names stand here.

A call belongs to the span that was current when it was decided: its usage goes there too, wherever and whenever the
answer ends, as long as that span has not ended before. Of several calls in one span the last one shows.

`gen_ai.*` follow OpenTelemetry's semantic conventions for generative AI, which are still in development and live in a
repository of their own now. The package opentelemetry-semantic-conventions keeps their older names as deprecated; they
are the same but for cache writes, `cache_creation` there and `cache_write` since (semantic-conventions-genai#440).
OpenTelemetry's own instrumentations write the newer one, and so does this file. There is no convention for a decision:
those names are `tokvigil.*`.

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
# A convention, but of spans about people. Only if the client is told to.
USER_ID = "enduser.id"

# What the conventions call a provider, where that is not the name that TokVigil's price book has for it.
PROVIDERS = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
}


def current_span() -> Any:
    """The caller's span; None if the application does not trace here."""
    # Another thread may be importing it just now.
    get_current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    span = None if get_current_span is None else get_current_span()
    return span if span is not None and span.is_recording() else None


def note_decision(question: Question, decision: Decision, *, name_user: bool) -> None:
    """On the current span. A trace goes to more people than a ledger does, so users are named only on request."""
    _note(
        current_span(),
        {
            REQUEST_MODEL: question.model,
            FEATURE: question.feature,
            USER_ID: question.user_id if name_user else None,
            REQUEST_ID: decision.request_id,
            ALLOWED: decision.allowed,
            REASON_CODE: decision.reason_code,
            POLICY: None if decision.policy is None else decision.policy.name,
            DEGRADED: decision.degraded,
        },
    )


def note_usage(span: Any, event: UsageEvent) -> None:
    """On the span given, one of `current_span`."""
    _note(
        span,
        {
            REQUEST_ID: event.request_id,
            PROVIDER_NAME: None if event.provider is None else PROVIDERS.get(event.provider, event.provider),
            INPUT_TOKENS: event.usage.input_tokens,
            OUTPUT_TOKENS: event.usage.output_tokens,
            CACHED_INPUT_TOKENS: event.usage.cached_input_tokens,
            CACHE_WRITE_TOKENS: event.usage.cache_write_tokens,
            REASONING_TOKENS: event.usage.reasoning_tokens,
            USAGE_STATUS: event.status,
            USAGE_SOURCE: event.usage.source,
        },
    )


def _note(span: Any, attributes: Mapping[str, Any]) -> None:
    if span is not None and span.is_recording():
        span.set_attributes({name: value for name, value in attributes.items() if value is not None})
