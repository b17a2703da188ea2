"""How models and providers are spelled: who makes what, who resells it, and what a name may stand for."""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum

# Who makes models, in the order in which a bare name is looked for. All others only host them at prices of
# their own.
MAKERS = (
    "openai",
    "anthropic",
    "google",
    "mistral",
    "deepseek",
    "x-ai",
    "cohere",
    "meta",
    "moonshotai",
    "minimax",
    "zai",
    "voyageai",
    "arcee",
    "perplexity",
)

# Whose list price applies to what a reseller does not list itself (`fallback_model_providers` of
# genai-prices).
RESOLD = {
    "azure": ("openai", "anthropic", "deepseek", "x-ai", "moonshotai"),
    "google": ("anthropic",),
}
PROVIDER_ALIASES = {
    "amazon-bedrock": "aws",
    "azure-openai": "azure",
    "azure_ai": "azure",
    "azure_openai": "azure",
    "bedrock": "aws",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "google-vertex": "google",
    "grok": "x-ai",
    "mistralai": "mistral",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "vertex": "google",
    "vertex_ai": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
    "z-ai": "zai",
}

_DATED_NAME = re.compile(r"(?P<base>.+)[-@](?:(\d{4})-(\d{2})-(\d{2})|(20\d{2})(\d{2})(\d{2}))", re.ASCII)


class MatchKind(StrEnum):
    EXACT = "exact"
    ALIAS = "alias"
    SNAPSHOT_SUFFIX = "snapshot_suffix"
    OVERRIDE = "override"


def canonical_provider(provider: str) -> str:
    name = provider.strip().lower()
    return PROVIDER_ALIASES.get(name, name)


def spellings(name: str) -> list[tuple[str, MatchKind, date | None]]:
    """The listed names that a name may stand for, the most certain first."""
    spellings: list[tuple[str, MatchKind, date | None]] = [(name, MatchKind.EXACT, None)]
    if name.startswith("ft:") and name.count(":") > 1:
        # ft:<base model>:<organisation>:<name>:<id>; the price is the one listed for fine-tunes of the base
        # model.
        name = ":".join(name.split(":", 2)[:2])
        spellings.append((name, MatchKind.ALIAS, None))
    dated = _split_date(name)
    if dated is not None and _split_date(dated[0]) is None:
        spellings.append((dated[0], MatchKind.SNAPSHOT_SUFFIX, dated[1]))
    return spellings


def _split_date(name: str) -> tuple[str, date] | None:
    """A name without the date it ends in, and that date; None if it ends in none that the calendar has."""
    match = _DATED_NAME.fullmatch(name)
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups()[1:] if part is not None)
    try:
        return match["base"], date(year, month, day)
    except ValueError:
        return None
