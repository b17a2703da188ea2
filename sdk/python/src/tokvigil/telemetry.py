"""An OpenTelemetry span for each AI call, if the application traces. All its names stand here.

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

# As the conventions name a provider, where TokVigil's price book has another name.
PROVIDERS = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
}


class CallSpan:
    """The span of one call; nothing if the application does not trace here. A defect of it never reaches the call."""

    def __init__(self, question: Question, operation: str | None) -> None:
        self._span: Any = None
        provider = question.provider
        if "opentelemetry.trace" not in sys.modules:
            return
        with containing.defects("the span of a call cannot be begun"):
            self._span = _begun(
                f"{operation or 'call'} {question.model}",
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.request.model": question.model,
                    "gen_ai.provider.name": None if provider is None else PROVIDERS.get(provider, provider),
                    "tokvigil.feature": question.feature,
                    "tokvigil.request_id": question.request_id,
                },
            )

    def decided(self, decision: Decision) -> None:
        self._note(
            {
                "tokvigil.allowed": decision.allowed,
                "tokvigil.reason_code": decision.reason_code,
                "tokvigil.policy": None if decision.policy is None else decision.policy.name,
                "tokvigil.degraded": decision.degraded,
                "gen_ai.request.max_tokens": decision.max_output_tokens,
            }
        )

    def answered(self, model: str, answer_id: str) -> None:
        """By a model that may be another than the one asked for."""
        self._note({"gen_ai.response.model": model or None, "gen_ai.response.id": answer_id or None})

    def used(self, status: str, usage: Usage) -> None:
        """The call has ended, and the span with it."""
        self._note(
            {
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
                "gen_ai.usage.cache_write.input_tokens": usage.cache_write_tokens,
                "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
                "tokvigil.usage.status": status,
                "tokvigil.usage.source": usage.source,
                "tokvigil.usage.service_tier": usage.service_tier,
                "tokvigil.usage.region": usage.region,
                "tokvigil.usage.doubtful": usage.doubtful,
                **{f"tokvigil.usage.{name}": amount for name, amount in usage.quantities.items()},
            }
        )
        self.end(None if status == "succeeded" else status)

    def end(self, error_type: str | None = None) -> None:
        span, self._span = self._span, None
        if span is not None:
            with containing.defects("the span of a call cannot be ended"):
                if error_type is not None:
                    span.set_attribute("error.type", error_type)
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
