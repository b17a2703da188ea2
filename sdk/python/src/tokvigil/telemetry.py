"""An OpenTelemetry span for each AI call, if the application traces. All names stand here.

The span begins with the question and ends with the report, inside the span that was current when the call was made. So
two calls of one request have a span each.

`gen_ai.*` follow OpenTelemetry's semantic conventions for generative AI, which are still in development and live in a
repository of their own now. The package opentelemetry-semantic-conventions keeps their older names as deprecated; they
are the same but for cache writes, `cache_creation` there and `cache_write` since (semantic-conventions-genai#440).
OpenTelemetry's own instrumentations write the newer one, and so does this file. There is no convention for a decision:
those names are `tokvigil.*`. Users are not named: a trace goes to more people than a ledger does.

Nothing is imported: an application that traces has imported OpenTelemetry itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokvigil import containing
from tokvigil.json_values import present
from tokvigil.version import __version__

if TYPE_CHECKING:
    from tokvigil.models import Decision, Usage
    from tokvigil.question import Question

OPERATION_NAME = "gen_ai.operation.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
PROVIDER_NAME = "gen_ai.provider.name"
MAX_TOKENS = "gen_ai.request.max_tokens"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
ERROR_TYPE = "error.type"
REQUEST_ID = "tokvigil.request_id"
FEATURE = "tokvigil.feature"
ALLOWED = "tokvigil.allowed"
REASON_CODE = "tokvigil.reason_code"
POLICY = "tokvigil.policy"
DEGRADED = "tokvigil.degraded"
USAGE_STATUS = "tokvigil.usage.status"
USAGE_SOURCE = "tokvigil.usage.source"

# As the conventions name a provider, where TokVigil's price book has another name.
PROVIDERS = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
}
# Without a format that is known, any call.
CALL = "call"


class CallSpan:
    """The span of one call; nothing if the application does not trace here. A defect of it never reaches the call."""

    def __init__(self, question: Question, operation: str | None) -> None:
        self._span: Any = None
        provider = question.provider
        with containing.defects("the span of a call cannot be begun"):
            self._span = _begun(
                f"{operation or CALL} {question.model}",
                {
                    OPERATION_NAME: operation,
                    REQUEST_MODEL: question.model,
                    PROVIDER_NAME: None if provider is None else PROVIDERS.get(provider, provider),
                    FEATURE: question.feature,
                    REQUEST_ID: question.request_id,
                },
            )

    def decided(self, decision: Decision) -> None:
        self._note(
            {
                ALLOWED: decision.allowed,
                REASON_CODE: decision.reason_code,
                POLICY: None if decision.policy is None else decision.policy.name,
                DEGRADED: decision.degraded,
                MAX_TOKENS: decision.max_output_tokens,
            }
        )

    def answered(self, model: str, answer_id: str) -> None:
        """By a model that may be another than the one asked for."""
        self._note({RESPONSE_MODEL: model or None, RESPONSE_ID: answer_id or None})

    def used(self, status: str, usage: Usage) -> None:
        """The call has ended, and the span with it."""
        self._note(
            {
                INPUT_TOKENS: usage.input_tokens,
                OUTPUT_TOKENS: usage.output_tokens,
                CACHED_INPUT_TOKENS: usage.cached_input_tokens,
                CACHE_WRITE_TOKENS: usage.cache_write_tokens,
                REASONING_TOKENS: usage.reasoning_tokens,
                USAGE_STATUS: status,
                USAGE_SOURCE: usage.source,
            }
        )
        self.end(None if status == "succeeded" else status)

    def end(self, error_type: str | None = None) -> None:
        span, self._span = self._span, None
        if span is not None:
            with containing.defects("the span of a call cannot be ended"):
                if error_type is not None:
                    span.set_attribute(ERROR_TYPE, error_type)
                span.end()

    def _note(self, attributes: Mapping[str, Any]) -> None:
        if self._span is not None:
            with containing.defects("the span of a call cannot be written"):
                self._span.set_attributes(present(attributes))


def _begun(name: str, attributes: Mapping[str, Any]) -> Any:
    """None if nobody records it."""
    # Another thread may be importing it just now.
    trace = sys.modules.get("opentelemetry.trace")
    get_tracer = getattr(trace, "get_tracer", None)
    if trace is None or get_tracer is None:
        return None
    span = get_tracer("tokvigil", __version__).start_span(
        name, kind=trace.SpanKind.CLIENT, attributes=present(attributes)
    )
    return span if span.is_recording() else None
