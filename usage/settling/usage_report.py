"""`POST /v1/usage`: the body and the answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tenants.api.http import Metadata, Name, RequestId
from usage.amounts import Amounts, TokenCount
from usage.limit_state import LimitState
from usage.money import USD_TEXT_LENGTH_MAX
from usage.quantities import Quantities, ServiceTier

LATENCY_MS_MAX = 24 * 3600 * 1000


class UsageReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """`POST /v1/usage`. Token counts are totals; cached, cache-write and reasoning tokens are parts of them."""

    request_id: Annotated[
        RequestId,
        Meta(description="That of the evaluate, whose hold this settles, or a new one. Recorded once only."),
    ]
    user_id: Annotated[Name, Meta(description="Your end user, by your own id: limits per user count for it.")]
    model: Annotated[Name, Meta(description="The model as the provider calls it, such as gpt-4o-mini.")]
    input_tokens: Annotated[TokenCount, Meta(description="All tokens of the prompt, cached ones too.")]
    output_tokens: Annotated[TokenCount, Meta(description="All tokens of the answer, reasoning too.")]
    cached_input_tokens: Annotated[
        TokenCount, Meta(description="Part of `input_tokens` read from the provider's cache. Left out: 0.")
    ] = 0
    cache_write_tokens: Annotated[
        TokenCount, Meta(description="Part of `input_tokens` written to the provider's cache. Left out: 0.")
    ] = 0
    reasoning_tokens: Annotated[
        TokenCount, Meta(description="Part of `output_tokens` spent on reasoning. Left out: 0.")
    ] = 0
    plan: Annotated[
        Name | None, Meta(description="The end user's plan. While a hold is open, what was evaluated counts.")
    ] = None
    feature: Annotated[
        Name | None,
        Meta(
            description="The part of your product that called. While a hold is open, what was evaluated counts."
        ),
    ] = None
    run_id: Annotated[
        Name | None,
        Meta(description="The agent run or job. While a hold is open, what was evaluated counts."),
    ] = None
    provider: Annotated[
        Name | None,
        Meta(
            description="Whose price to take, where several offer the model. Left out: what was evaluated while a hold "
            "is open, else found by the model's name."
        ),
    ] = None
    status: Annotated[
        Literal["succeeded", "failed", "cancelled", "partial"],
        Meta(
            description="failed and cancelled with 0 tokens release the hold and take nothing of the limits."
        ),
    ] = "succeeded"
    requested_model: Annotated[
        Name | None,
        Meta(description="The model that was asked for, where `model`, which answered, is another."),
    ] = None
    service_tier: Annotated[
        ServiceTier | None,
        Meta(
            description="How the provider served the call, which has rates of its own. Left out: what was evaluated "
            "while a hold is open, else default."
        ),
    ] = None
    region: Annotated[
        Name | None,
        Meta(
            description="Where it was served, in the provider's words such as us, where that changes its price. Left "
            "out: what was evaluated while a hold is open."
        ),
    ] = None
    quantities: Annotated[
        Quantities,
        Meta(
            description="What else it used: other parts of the tokens, and what is billed beside them, such as "
            '{"input_audio_tokens": 900, "web_searches": 2}.'
        ),
    ] = Quantities()
    batch: Annotated[bool, Meta(description="True: the same as `service_tier` batch.")] = False
    latency_ms: Annotated[
        Annotated[int, Meta(ge=0, le=LATENCY_MS_MAX)] | None,
        Meta(description="How long the provider took, in milliseconds."),
    ] = None
    reported_cost_usd: Annotated[
        Annotated[str, Meta(max_length=USD_TEXT_LENGTH_MAX)] | None,
        Meta(description="What the provider says it cost, as a decimal string in USD; kept for comparison."),
    ] = None
    occurred_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(
            description="When the call was made (RFC 3339 with a zone), in the last 35 days. Left out: now."
        ),
    ] = None
    metadata: Annotated[
        Metadata | None, Meta(description="What else you know about the call: at most 16 flat pairs.")
    ] = None

    def used(self, cost_nano: int) -> Amounts:
        """What the call used, as a call that counts."""
        return Amounts(
            requests=1,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost_nano=cost_nano,
        )


class UsageReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded. `limit_state`: the limits the call was held against, after the charge."""

    request_id: Annotated[str, Meta(description="As sent.")]
    duplicate: Annotated[
        bool, Meta(description="True if the same report was recorded before; nothing was charged again.")
    ]
    cost_usd: Annotated[
        str | None,
        Meta(description="Decimal string in USD, of all that has a rate; null if the model has no price."),
    ]
    priced: Annotated[bool, Meta(description="Whether all that it used has a price.")]
    unpriced: Annotated[
        tuple[str, ...],
        Meta(
            description="What of it has no rate, by name, and is not in `cost_usd`: quantities, or service_tier. Empty "
            "also where the model has no price at all."
        ),
    ]
    limit_state: Annotated[
        tuple[LimitState, ...],
        Meta(
            description="The limits the call was held against, after the charge; empty without an open hold."
        ),
    ]
