"""`{% load explaining %}`: an explanation (policies/describing/trace.py) in templates."""

from __future__ import annotations

from django import template

from policies.describing.considering import Part
from policies.describing.trace import Stood
from tenants.console.parts import Bar, State
from usage import wording
from usage.metrics import Metric

register = template.Library()

_STATES = {
    Part.DECIDES: State.ALLOWED,
    Part.ALWAYS: State.FINE,
    Part.MONITORS: State.WATCHED,
    Part.STANDS_BACK: State.QUIET,
    Part.NO_MATCH: State.QUIET,
    Part.OFF: State.QUIET,
}


@register.filter
def bar(limit: Stood) -> Bar:
    return Bar(limit.used, limit.held, limit.limit, watched=not limit.enforced)


@register.filter
def bar_says(limit: Stood) -> str:
    """For who cannot see the bar."""
    used, held, left = (amount(each, limit) for each in (limit.used, limit.held, limit.left))
    return f"{limit.says}: {used} used, {held} held, {left} left"


@register.filter
def amount(value: int | None, limit: Stood) -> str:
    """Of the limit's metric, without its noun. A cost is written in full, however small."""
    if value is None:
        return "not known"
    return wording.money(value) if limit.metric is Metric.COST_USD else wording.count(value)


@register.filter
def state_of(part: Part) -> str:
    return _STATES[part].value
