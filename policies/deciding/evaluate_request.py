"""`POST /v1/evaluate`: the body."""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated

import msgspec
from msgspec import Meta

from tenants.api.http import Metadata, Name, RequestId
from usage.amounts import Amounts, TokenCount
from usage.body_digests import said
from usage.prices.cost import Served
from usage.quantities import Quantities, ServiceTier

DIGEST_BYTES = 16


class EvaluateRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """`POST /v1/evaluate`. `input_text` is counted and not stored."""

    user_id: Annotated[Name, Meta(description="Your end user, by your own id: limits per user count for it.")]
    model: Annotated[Name, Meta(description="The model as the provider calls it, such as gpt-4o-mini.")]
    feature: Annotated[
        Name | None,
        Meta(
            description="The part of your product that calls, such as chat. Left out: rules for features do not apply."
        ),
    ] = None
    plan: Annotated[
        Name | None,
        Meta(description="The end user's plan, unless one is stored for the end user. Left out: none."),
    ] = None
    input_tokens: Annotated[
        TokenCount | None,
        Meta(
            description="Tokens of the prompt as you counted them. Left out together with `input_text`: 0 is held."
        ),
    ] = None
    input_text: Annotated[
        str | None,
        Meta(description="The prompt, to be counted here if `input_tokens` is left out. Not stored."),
    ] = None
    max_output_tokens: Annotated[
        TokenCount | None,
        Meta(
            description="The most tokens of the answer: held in full, or the call is blocked. Left out: the policy's "
            "cap, or what such calls used lately; of that, what the limits leave."
        ),
    ] = None
    provider: Annotated[
        Name | None,
        Meta(
            description="Who will be called, where several offer the model: the call is held at that price. Left out: "
            "at the dearest of those who sell a model under this name."
        ),
    ] = None
    service_tier: Annotated[
        ServiceTier | None,
        Meta(
            description="How the provider is asked to serve it: it is held at those rates. Left out: default."
        ),
    ] = None
    region: Annotated[
        Name | None,
        Meta(
            description="Where it is to be served, such as us, where that changes its price. Left out: anywhere."
        ),
    ] = None
    quantities: Annotated[
        Quantities | None,
        Meta(
            description='What else it will use at most, by name, such as {"input_audio_tokens": 900, '
            '"web_searches": 5}; What is not named it does not use; {} is text '
            "alone. Left out: tokens of any kind may come, and are held at the dearest rate of the model."
        ),
    ] = None
    request_id: Annotated[
        RequestId | None,
        Meta(
            description="Names the call; sent again while its hold is open, nothing more is held. Left out: made."
        ),
    ] = None
    run_id: Annotated[
        Name | None,
        Meta(description="The agent run or job the call is part of, for limits per run. Left out: none."),
    ] = None
    metadata: Annotated[
        Metadata | None,
        Meta(
            description="At most 16 flat pairs. Not stored and not decided by; only compared if `request_id` is sent "
            "again. To keep them, send them with the report."
        ),
    ] = None
    dry_run: Annotated[bool, Meta(description="Decide, but hold and record nothing.")] = False
    explain: Annotated[bool, Meta(description="Answer `trace`, too: how the decision came about.")] = False

    @property
    def served(self) -> Served:
        return Served.of(self.service_tier, self.region)

    def asked(self, input_tokens: int) -> Amounts:
        """What the call asks for beside its output, with the input as it was said or counted."""
        return Amounts(requests=1, input_tokens=input_tokens)


# What the first version's bodies said, whether sent or not, in its order. Never changes: holds carry the digest of it.
FIRST_FIELDS = {
    "user_id": None,
    "model": None,
    "feature": None,
    "plan": None,
    "input_tokens": None,
    "input_text": None,
    "max_output_tokens": None,
    "request_id": None,
    "run_id": None,
    "metadata": None,
    "dry_run": False,
    "explain": False,
}


def digest_of(body: msgspec.Struct) -> str:
    """The same for bodies that say the same, over a deploy too. Asking for an explanation makes no other call."""
    content = said(body, FIRST_FIELDS) | {"explain": False}
    return blake2b(msgspec.msgpack.encode(content), digest_size=DIGEST_BYTES).hexdigest()
