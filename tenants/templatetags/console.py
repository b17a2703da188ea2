"""`{% load console %}`: the parts of tenants/console/parts.py, times and people, in templates."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit import wording
from tenants.console import display
from tenants.console.parts import Bar, State
from tenants.models import Environment

register = template.Library()

# Drawn in a square of 12.
_SHAPES = {
    State.FINE: '<circle cx="6" cy="6" r="4"/>',
    State.NEAR: '<path d="M6 1l5.5 10H.5z"/>',
    State.FULL: '<path d="M1 1h10v10H1z"/>',
    State.OVER: '<path d="M1 1h10v10H1z"/>',
    State.WATCHED: (
        '<path d="M6 2.5c3 0 5 2.3 5.6 3.5C11 7.2 9 9.5 6 9.5S1 7.2.4 6C1 4.8 3 2.5 6 2.5z'
        'm0 1.6a1.9 1.9 0 100 3.8 1.9 1.9 0 000-3.8z"/>'
    ),
    State.FROZEN: (
        '<path d="M5.3 0h1.4v4.8L10.8 2.4l.7 1.2L7.4 6l4.1 2.4-.7 1.2-4.1-2.4V12H5.3V7.2L1.2 9.6.5 8.4 4.6 6'
        ' .5 3.6l.7-1.2 4.1 2.4z"/>'
    ),
    State.BOOSTED: '<path d="M6 1l5 5H8v5H4V6H1z"/>',
    State.ALLOWED: '<path d="M4.6 10.5L.8 6.6l1.3-1.3 2.5 2.5 5.3-6 1.4 1.3z"/>',
    State.BLOCKED: '<path d="M6 .5a5.5 5.5 0 100 11 5.5 5.5 0 000-11zM3 5h6v2H3z"/>',
    State.QUIET: '<path d="M1 5h10v2H1z"/>',
}  # fmt: skip


@register.simple_tag
def state(kind: str, word: object) -> SafeString:
    """`{% state "near" "Near 84 %" %}`"""
    found = State(kind)
    return format_html(
        '<span class="tv-state tv-state-{}">{}<bdi>{}</bdi></span>', found.value, shape(found), word
    )


@register.simple_tag
def shape(kind: str) -> SafeString:
    """The sign of a state alone; a word must stand beside it."""
    return SafeString(f'<svg viewBox="0 0 12 12" aria-hidden="true">{_SHAPES[State(kind)]}</svg>')


@register.inclusion_tag("console/parts/limit_bar.html")
def limit_bar(bar: Bar, says: str) -> dict[str, Any]:
    """`says`: the same in words, for who cannot see it."""
    return {"bar": bar, "says": says}


@register.inclusion_tag("console/parts/bar_key.html")
def bar_key() -> dict[str, Any]:
    """What the parts of a bar mean; once above a table of bars."""
    return {}


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """In the zone of the page, ISO on hover."""
    return "" if at is None else display.moment(at)


@register.filter
def who(actor: str) -> str:
    """Of an actor as it is stored, `admin:mia`."""
    return wording.who(actor)


@register.simple_tag
def time_of_day(at: datetime) -> SafeString:
    """Under a heading that says the day; the whole on hover."""
    return display.time_of_day(at)


@register.simple_tag
def user_link(environment: Environment, user_id: str) -> SafeString:
    """To the page of an end user."""
    return display.user_link(environment, user_id)
