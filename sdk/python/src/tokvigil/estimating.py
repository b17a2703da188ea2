"""What a call will use and cost, before it is made and without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from tokvigil import checked, prices, tokens
from tokvigil.frozen_mapping import FrozenMapping
from tokvigil.message_reading import read_messages
from tokvigil.models import Usage, checked_quantities, checked_tier

# As the server holds for a call that names no cap and whose feature has no history.
OUTPUT_TOKENS_WITHOUT_CAP = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call is expected to use: input as counted here, output up to its cap.

    `method` is "exact" if the input was counted with the encoding that OpenAI names for the model, and "estimated" for
    anything else: other models, tools, pictures, very long text. `cost_usd` is the list price without any cached input;
    None: the model has no price, or what the call is said to use beside text has none here: `quantities`, a service
    tier, a region. `price_version` names the prices.
    """

    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    method: Literal["exact", "estimated"]
    price_version: str
    quantities: Mapping[str, int] = field(default_factory=FrozenMapping)


def estimate(
    model: str,
    messages: Iterable[Any] | str,
    *,
    tools: Sequence[Any] | None = None,
    max_output_tokens: int | None = None,
    provider: str | None = None,
    at: datetime | None = None,
    exact: bool = False,
    service_tier: str | None = None,
    region: str | None = None,
    quantities: Mapping[str, int] | None = None,
) -> Estimate:
    """The tokens and USD of a chat call at an instant, now by default. `exact`: see `count_tokens`.

    Any model name will do. Messages are dicts, or the objects that the providers' SDKs answer with; a text is the one
    message of a user. `quantities` are what it will use beside text, by the names of `Usage.quantities`, `service_tier`
    and `region` those that will serve it. Raises `ConfigurationError` for what are no messages or no quantities, for
    max_output_tokens below 0 or above checked.TOKENS_MAX and, with `exact`, where tiktoken is not installed.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    reading = read_messages(messages)
    reading.add_json(tools)
    usage = Usage(
        input_tokens=tokens.count_reading(reading, model, exact=exact),
        output_tokens=OUTPUT_TOKENS_WITHOUT_CAP if max_output_tokens is None else max_output_tokens,
        quantities=checked_quantities(quantities or {}),
        service_tier=checked_tier(service_tier),
        region=checked.name("region", region),
        source="estimated",
    )
    return Estimate(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=prices.cost(model, usage, at or datetime.now(UTC), provider=provider),
        method="exact" if exact and tokens.is_counted_exactly(reading, model) else "estimated",
        price_version=prices.version(),
        quantities=usage.quantities,
    )
