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

# Who hosts models of others, at prices of its own.
HOSTS = ("azure", "aws", "groq", "cerebras", "together", "fireworks")
# Who passes calls on to those who sell the model, and takes their price.
GATEWAYS = frozenset({"openrouter", "litellm_proxy", "vercel", "vercel_ai_gateway"})
# Makers of closed models: whoever passes on a call to one of these, it is charged the maker's price. Open models are
# hosted by many, at a price each.
PASSED_ON = frozenset({"openai", "anthropic", "google", "x-ai", "cohere", "perplexity", "voyageai"})

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
    "bedrock_converse": "aws",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "google-gla": "google",
    "google-vertex": "google",
    "google_genai": "google",
    "google_vertexai": "google",
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

# Endings that name the same model at the same price.
ENDINGS = (
    # The version that Vertex AI takes unless one is named (docs.claude.com/en/api/claude-on-vertex-ai).
    re.compile(r"(.+)@(?:default|latest)"),
    # Claude with its long context, as Claude Code writes it; the price goes by the length of the input.
    re.compile(r"(claude-.+)\[1m\]"),
    # "Points to the latest version" (docs.claude.com/en/docs/about-claude/models, docs.x.ai/docs/models,
    # ai.google.dev/gemini-api/docs/models).
    re.compile(r"((?:claude|gemini|grok)-.+)-latest"),
    # "Append the three-digit version number" (cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versioning).
    re.compile(r"(gemini-.+)-[0-9]{3}"),
)

# The ids of Amazon Bedrock: where it runs, the maker and the model, the version of the id. From Claude 4.5 and Nova 2
# on a call that stays in a region or a geography costs 10 % more than one that may run anywhere (`global.`); an id
# without a prefix stays in its region (docs.claude.com/en/api/claude-on-amazon-bedrock, "Global vs regional endpoints";
# docs.aws.amazon.com/bedrock/latest/userguide/global-cross-region-inference.html). The book lists the two prices as
# `regional.` and `global.`, and a model that has only one without either.
SCOPES = ("us-gov", "us", "eu", "apac", "au", "ca", "in", "jp", "global", "regional")
BEDROCK_ID = re.compile(rf"(?:(?P<scope>{'|'.join(SCOPES)})\.)?(?P<model>[a-z0-9]+\.[a-z].*?)(?:-v1(?::0)?)?")
# One version of an id: `anthropic.claude-opus-4-6-v1` is listed as `...-v1:0`, `anthropic.claude-opus-5` without.
ID_VERSIONS = ("", "-v1:0", "-v1")

Spelling = tuple[str, "MatchKind", date | None]


class MatchKind(StrEnum):
    EXACT = "exact"
    ALIAS = "alias"
    SNAPSHOT_SUFFIX = "snapshot_suffix"
    OVERRIDE = "override"


def canonical_provider(provider: str) -> str:
    name = provider.strip().lower()
    return PROVIDER_ALIASES.get(name, name)


def spellings(name: str) -> list[Spelling]:
    """The listed names that a name may stand for, the most certain first."""
    found: list[Spelling] = [(name, MatchKind.EXACT, None)]
    plain = name
    for ending in ENDINGS:
        match = ending.fullmatch(plain)
        if match is not None:
            plain = match[1]
            found.append((plain, MatchKind.ALIAS, None))
    tuned = fine_tuned(plain)
    if tuned is not None:
        plain = tuned
        found.append((plain, MatchKind.ALIAS, None))
    dated = without_date(plain)
    if dated is not None:
        found.append((dated[0], MatchKind.SNAPSHOT_SUFFIX, dated[1]))
    return found + _bedrock_spellings(plain)


def fine_tuned(name: str) -> str | None:
    """What the book lists fine-tunes of a model as: OpenAI's and Mistral's `ft:BASE:ORGANISATION:NAME:ID` as `ft:BASE`,
    Azure's `BASE.ft-ID` as `BASE.ft-`. Never the model's own name: a fine-tuned one is charged more.
    """
    if name.startswith("ft:") and name.count(":") > 1:
        return ":".join(name.split(":", 2)[:2])
    base, mark, _ = name.partition(".ft-")
    return f"{base}{mark}" if mark and base else None


def without_date(name: str) -> tuple[str, date] | None:
    """A name without the date it ends in, and that date; None if it ends in none, or in two."""
    dated = _split_date(name)
    return dated if dated is not None and _split_date(dated[0]) is None else None


def _bedrock_spellings(name: str) -> list[Spelling]:
    match = BEDROCK_ID.fullmatch(name)
    if match is None:
        return []
    scope = match["scope"]
    listed_as = (f"{scope}.",) if scope in ("global", "regional") else ("regional.", "")
    bases: list[Spelling] = [(match["model"], MatchKind.ALIAS, None)]
    dated = without_date(match["model"])
    if dated is not None:
        bases.append((dated[0], MatchKind.SNAPSHOT_SUFFIX, dated[1]))
    return [
        (f"{prefix}{base}{version}", kind, snapshot)
        for base, kind, snapshot in bases
        for prefix in listed_as
        for version in ID_VERSIONS
    ]


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
