"""What may stand before a model's name: who sells it, which gateway it goes through, where it runs. Pure.

The spellings, and where they are written down:

- `PROVIDER/MODEL`, as LiteLLM, Vercel's AI SDK and most gateways write (docs.litellm.ai/docs/providers), and
  `PROVIDER:MODEL`, as Pydantic AI and LangChain do (ai.pydantic.dev/models, init_chat_model of python.langchain.com).
- `GATEWAY/MAKER/MODEL`: openrouter.ai/docs/faq says that the provider's price is passed on without a mark-up.
- `bedrock/[converse/|invoke/][REGION/]ID` (docs.litellm.ai/docs/providers/bedrock), and the ARNs of inference profiles
  and of foundation models (docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html). An ARN of an
  application's own profile, of a custom or of an imported model does not tell the model: such a name has no price.
- `azure/global/MODEL` and `azure/global-standard/MODEL` cost what Azure lists for the model. Data zones and single
  regions (`azure/eu/MODEL`) cost more, by a share that differs between models
  (azure.microsoft.com/pricing/details/azure-openai): they have a price only where the book lists `eu/MODEL`.
- `models/MODEL` of the Gemini API (ai.google.dev/api/models), `publishers/MAKER/models/MODEL`, alone or after
  `projects/P/locations/L/`, of Vertex AI (cloud.google.com/vertex-ai/docs/reference/rest/v1/publishers.models).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from usage.prices.names import GATEWAYS, PASSED_ON, canonical_provider

ARN = r"arn:aws[a-z-]*:bedrock:[a-z0-9-]*:[0-9]*:(?:inference-profile|foundation-model)/"
PUBLISHED = r"(?:projects/[^/]+/locations/[^/]+/)?publishers/[^/]+/models/"
MODELS = "models/"
_REGION = r"[a-z]{2}(?:-[a-z]+)+-[0-9]"

# What is taken off, of whose names (None: of anybody's), and who then sells the model (None: as before).
TAKEN_OFF: tuple[tuple[re.Pattern[str], str | None, str | None], ...] = (
    (re.compile(rf"{ARN}(.+)"), None, "aws"),
    (re.compile(rf"{PUBLISHED}(.+)"), None, "google"),
    (re.compile(rf"{MODELS}(.+)"), None, None),
    (re.compile(rf"(?:converse|invoke|{_REGION})/(.+)"), "aws", None),
    (re.compile(r"(?:global|global-standard|responses)/(.+)"), "azure", None),
    (re.compile(r"responses/(.+)"), "openai", None),
)
# `bedrock/converse/us-east-1/arn:...`
TAKEN_OFF_MAX = 4

# A name and who sells it; None: not said.
Reading = tuple[str, str | None]


def readings(name: str, seller: str | None, providers: Container[str]) -> list[Reading]:
    """The names and sellers to look for, the most certain first: before a slash is a provider or part of the name."""
    found: list[Reading] = [(name, seller)]
    cut = cut_seller(name, providers)
    if cut is not None:
        prefix, rest = cut
        if seller is None:
            found.insert(0, (rest, canonical_provider(prefix)))
        else:
            found.append((rest, seller))
    return list(dict.fromkeys(each for reading in found for each in _without_prefixes(reading)))


def cut_seller(name: str, sellers: Container[str]) -> tuple[str, str] | None:
    """Who stands before a slash or a colon, and the rest."""
    for mark in "/:":
        prefix, found, rest = name.partition(mark)
        if found and rest and prefix in sellers:
            return prefix, rest
    return None


def _without_prefixes(reading: Reading) -> Iterator[Reading]:
    for _ in range(TAKEN_OFF_MAX):
        yield reading
        shorter = _through_gateway(*reading) or _without_prefix(*reading)
        if shorter is None:
            return
        reading = shorter
    yield reading


def _without_prefix(name: str, seller: str | None) -> Reading | None:
    for pattern, sold_by, now_sold_by in TAKEN_OFF:
        match = pattern.fullmatch(name) if sold_by in (None, seller) else None
        if match is not None:
            # Another provider's price is not that of the one who was named.
            if now_sold_by is not None and seller not in (None, now_sold_by):
                return None
            return match[1], now_sold_by or seller
    return None


def _through_gateway(name: str, seller: str | None) -> Reading | None:
    """The maker's model, whose price the gateway passes on."""
    cut = cut_seller(name, GATEWAYS)
    if cut is not None:
        name = cut[1]
    elif seller not in GATEWAYS:
        return None
    maker, _, model = name.partition("/")
    maker = canonical_provider(maker)
    is_asked = seller is None or seller in GATEWAYS or seller == maker
    return (model, maker) if model and is_asked and maker in PASSED_ON else None
