"""A question of the Explorer, as its address has it, in words: `Spend by feature, last 7 days, day by day`."""

from __future__ import annotations

from collections.abc import Iterator

from django.http import QueryDict

from usage.admin.asked import PERIODS
from usage.admin.explorer_form import DEFAULTS, NONE
from usage.analytics import measures
from usage.analytics.questions import DIMENSIONS, Rank
from usage.analytics.shown_period import DEFAULT, Named

_TITLES = {measure.value: title for measure, title in measures.TITLES.items()}
_RANKS = {rank.value: title.lower() for rank, title in measures.RANKS.items()}
_PERIODS = dict(PERIODS)


def says(query: str) -> str:
    """What it leaves out is as the Explorer takes it; what the Explorer does not know is said as it stands."""
    given = QueryDict(query)
    asked = DEFAULTS | {name: str(given[name]) for name in given if given[name]}
    return ", ".join(_parts(asked, given))


def _parts(asked: dict[str, str], given: QueryDict) -> Iterator[str]:
    by = "" if asked["by"] == NONE else f" by {asked['by']}"
    then = f" and {asked['then']}" if by and asked.get("then") else ""
    yield f"{_TITLES.get(asked['show'], asked['show'])}{by}{then}"
    yield _period(asked)
    if asked["step"] != NONE:
        yield f"{asked['step']} by {asked['step']}"
    if asked.get("cumulative"):
        yield "added up"
    for name in DIMENSIONS:
        if asked.get(name):
            yield f"only {name} {asked[name]}"
    for name in given.getlist("without"):
        yield f"only without a {name}"
    if asked["rank"] != Rank.AMOUNT:
        yield _RANKS.get(asked["rank"], asked["rank"])
    if by:
        yield f"the first {asked['top']}"


def _period(asked: dict[str, str]) -> str:
    period = asked.get("period", DEFAULT.value)
    if period != Named.CUSTOM:
        words = _PERIODS.get(period, period)
        return words[0].lower() + words[1:]
    return f"{asked.get('from', '')} to {asked.get('to') or asked.get('from', '')}"
