"""`{% load replays %}`: figures of replays in templates."""

from __future__ import annotations

from typing import Any

from django import template

from usage import wording
from usage.money import parse_usd

register = template.Library()


@register.filter
def counted(number: int) -> str:
    return wording.count(number)


@register.filter
def usd(text: str) -> str:
    """Of a report's decimal string."""
    return wording.money_rounded(parse_usd(text))


@register.filter
def counts(replay: Any, name: str) -> str:
    """Of a listed replay (replaying/listing.py): how many of its calls are `replayed`; a dash without a report."""
    found = replay.counts or {}
    return wording.count(found[name]) if name in found else "–"


@register.filter
def newly(replay: Any, kind: str) -> str:
    """The same of those that would be newly `blocked` or `allowed`."""
    return counts(replay, f"newly_{kind}")
