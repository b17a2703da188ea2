"""What a call can use and be billed for. The one table that wire fields, the ledger, rates, pages and docs follow.

The common ones have a column of their own in the ledger and a field of their own on the wire; all others stand in one
map, `quantities`, of which a name that is not here is refused. docs/quantities.md shows the table to callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import lcm
from typing import Annotated

import msgspec
from msgspec import Meta

from usage.amounts import TOKENS_MAX

MILLION, THOUSAND, HOUR = 1_000_000, 1_000, 3_600
# What one call can use at most: with RATE_MAX_NANO no call costs more than the largest limit.
EACH_MAX, SECONDS_MAX = 10_000, 100_000


class ServiceTier(StrEnum):
    """How the provider served a call: each has rates of its own."""

    DEFAULT = "default"
    BATCH = "batch"
    FLEX = "flex"
    PRIORITY = "priority"
    FAST = "fast"


# Never dearer than the default: where the book has no rates of such a tier, those of the default are the most it costs.
DISCOUNTS = frozenset({ServiceTier.BATCH, ServiceTier.FLEX})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """`per`: how many of it a rate is for. `most`: of one call. `parts_of`: the quantities that contain it."""

    name: str
    unit: str
    per: int
    most: int
    what: str
    parts_of: tuple[str, ...] = ()
    # In the shared book's source, if it has a rate for it.
    genai: tuple[str, ...] = ()


def _tokens(name: str, what: str, *parts_of: str, genai: tuple[str, ...] = ()) -> Quantity:
    return Quantity(
        name=name, unit="tokens", per=MILLION, most=TOKENS_MAX, what=what, parts_of=parts_of, genai=genai
    )


def _each(name: str, what: str, *genai: str) -> Quantity:
    return Quantity(name=name, unit="each", per=THOUSAND, most=EACH_MAX, what=what, genai=genai)


def _seconds(name: str, what: str, *genai: str) -> Quantity:
    return Quantity(name=name, unit="seconds", per=HOUR, most=SECONDS_MAX, what=what, genai=genai)


INPUT, OUTPUT = "input_tokens", "output_tokens"
CACHED, CACHE_WRITE, REASONING = "cached_input_tokens", "cache_write_tokens", "reasoning_tokens"
# Of a model with a fee for each request a call is one, unless it says how many it was.
REQUESTS = "provider_requests"

QUANTITIES: dict[str, Quantity] = {
    row.name: row
    for row in (
        _tokens(INPUT, "all tokens of the prompt", genai=("input_mtok",)),
        _tokens(OUTPUT, "all tokens of the answer", genai=("output_mtok",)),
        _tokens(CACHED, "read from the cache", INPUT, genai=("cache_read_mtok",)),
        _tokens(CACHE_WRITE, "written to the cache for five minutes", INPUT, genai=("cache_write_mtok",)),
        _tokens(REASONING, "spent on reasoning", OUTPUT, genai=("output_reasoning_mtok",)),
        _tokens(
            "cache_write_1h_tokens", "written to the cache for an hour", INPUT, genai=("cache_write_1h_mtok",)
        ),
        _tokens("input_audio_tokens", "audio in the prompt", INPUT, genai=("input_audio_mtok",)),
        _tokens("input_image_tokens", "images in the prompt", INPUT, genai=("input_image_mtok",)),
        _tokens("input_video_tokens", "video in the prompt", INPUT, genai=("input_video_mtok",)),
        _tokens(
            "cached_audio_tokens",
            "audio that was read from the cache",
            CACHED,
            "input_audio_tokens",
            genai=("cache_audio_read_mtok",),
        ),
        _tokens(
            "cached_image_tokens",
            "images that were read from the cache",
            CACHED,
            "input_image_tokens",
            genai=("cache_image_read_mtok",),
        ),
        _tokens("output_audio_tokens", "audio in the answer", OUTPUT, genai=("output_audio_mtok",)),
        _tokens("output_image_tokens", "images in the answer", OUTPUT, genai=("output_image_mtok",)),
        _tokens("output_video_tokens", "video in the answer", OUTPUT, genai=("output_video_mtok",)),
        _tokens("citation_tokens", "cited sources", OUTPUT, genai=("output_citation_mtok",)),
        _seconds("input_audio_seconds", "length of a recording", "input_audio_hours", "audio_hours"),
        _seconds("output_audio_seconds", "length of the speech made", "output_audio_hours"),
        _seconds("output_video_seconds", "length of the video made"),
        Quantity(
            name="input_characters",
            unit="characters",
            per=MILLION,
            most=TOKENS_MAX,
            what="text to be spoken",
            genai=("input_mchars",),
        ),
        _each("input_messages", "text messages in a voice session", "input_text_messages_kcount"),
        _each("input_pages", "pages read", "input_document_kpages"),
        _each("input_annotated_pages", "pages read and annotated", "input_annotated_document_kpages"),
        _each("images", "images made, where each has a price"),
        _each("web_searches", "searches of the web by the provider", "web_searches_kcount"),
        _each("social_searches", "searches of social media by the provider", "social_searches_kcount"),
        _each("map_searches", "look-ups of maps by the provider"),
        _each("file_searches", "searches of stored files by the provider", "storage_searches_kcount"),
        _each("rerank_searches", "rankings of documents", "rerank_searches_kcount"),
        _each("code_executions", "sessions of the provider's code interpreter", "code_executions_kcount"),
        _each(REQUESTS, "requests that have a fee of their own", "requests_kcount"),
    )
}


def description(name: str) -> str:
    """For those who write programs: "Audio in the prompt; part of `input_tokens`." """
    row = QUANTITIES[name]
    said = row.what[0].upper() + row.what[1:]
    parts_of = " and of ".join(f"`{total}`" for total in row.parts_of)
    return f"{said}; part of {parts_of}." if parts_of else f"{said}, beside the tokens."


# Those with a column and a field of their own; TOKEN_PARTS of usage/metrics.py are the parts among them.
OWN_COLUMNS = (INPUT, OUTPUT, CACHED, CACHE_WRITE, REASONING)
# Those of the map.
MAPPED = tuple(name for name in QUANTITIES if name not in OWN_COLUMNS)
# Parts without a rate of their own cost what their total costs, as their providers bill them.
AS_THEIR_TOTAL = {CACHED: INPUT, CACHE_WRITE: INPUT, REASONING: OUTPUT}
# Costs are added up exactly in nano-USD over this.
DENOMINATOR = lcm(*(row.per for row in QUANTITIES.values()))


class Quantities(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The map on the wire: a field for each name, 0 where it is left out."""

    __annotations__ = {
        name: Annotated[int, Meta(ge=0, le=QUANTITIES[name].most, description=description(name))]
        for name in MAPPED
    }
    locals().update(dict.fromkeys(MAPPED, 0))

    @property
    def used(self) -> dict[str, int]:
        """Those that there are any of."""
        return {name: number for name in MAPPED if (number := getattr(self, name))}


def check_mapped(quantities: Mapping[str, int]) -> None:
    """Raises ValueError for a name that is none of the map's, saying which are, and for a number out of range."""
    for name, number in quantities.items():
        if name in OWN_COLUMNS:
            raise ValueError(f"quantities.{name} is a field of its own: send it beside `quantities`.")
        if name not in MAPPED:
            raise ValueError(f"quantities.{name} is not known. Known are {', '.join(MAPPED)}.")
        if not 0 <= number <= QUANTITIES[name].most:
            raise ValueError(f"quantities.{name} must be from 0 to {QUANTITIES[name].most}.")


def check_parts(use: Mapping[str, int]) -> None:
    """Raises ValueError, naming the parts, where they are larger than their total."""
    for name, number in disjoint(use).items():
        if number < 0:
            parts = [part for part in use if use[part] and name in QUANTITIES[part].parts_of]
            raise ValueError(
                f"{field(parts[-1])} is too much: the parts of {name} ({', '.join(parts)}) must not exceed it."
            )


def field(quantity: str) -> str:
    """Where a report says it."""
    return quantity if quantity in OWN_COLUMNS else f"quantities.{quantity}"


def disjoint(use: Mapping[str, int]) -> dict[str, int]:
    """The use in quantities that contain none of each other: each is billed at its own rate.

    A number below 0 says that the parts of that quantity are larger than it.
    """
    found = dict(use)
    for name, number in use.items():
        totals = QUANTITIES[name].parts_of
        for total in totals:
            found[total] = found.get(total, 0) - number
        if len(totals) > 1:
            # Each of them was taken off the total that they are parts of, and it lies in both.
            (outer,) = {whole for total in totals for whole in QUANTITIES[total].parts_of}
            found[outer] = found.get(outer, 0) + number
    return found


def root(quantity: str) -> str:
    """The total whose tokens it is made of; itself, if it is no part."""
    parts_of = QUANTITIES[quantity].parts_of
    return root(parts_of[0]) if parts_of else quantity


def noun(quantity: str) -> str:
    """For people: "cached input"; of the rest of a total where its parts stand beside it, the total's."""
    return quantity.removesuffix("_tokens").replace("_", " ")


def amount_of(quantity: str) -> str:
    """As the title of an amount, with its unit: "Input audio tokens", "Web searches"."""
    said = quantity.replace("_", " ").replace("1h tokens", "tokens of an hour")
    return said[0].upper() + said[1:]


def per_words(quantity: str) -> str:
    """What a rate is for: "a million tokens"."""
    row = QUANTITIES[quantity]
    return {MILLION: f"a million {row.unit}", HOUR: "an hour"}.get(row.per, "a thousand")
