"""What a period used against the one before it: spent, calls, tokens, blocked; and answers about it for its course."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from policies.blocked import counts
from usage import wording
from usage.admin.explorer_form import ExplorerAsked
from usage.admin.explorer_rows import Shown
from usage.analytics import measures
from usage.analytics.answers import Line, answer, answers
from usage.analytics.questions import Measure, Question
from usage.analytics.shown_period import ShownPeriod
from usage.ledger.buckets import Range
from usage.windows import Window

LEADING_MAX = 5
_MEASURES = (("Spent", Measure.COST), ("Calls", Measure.CALLS), ("Tokens", Measure.TOKENS))
# Longer periods are drawn by days.
_BY_HOURS = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Figure:
    """`change`: against the period before, in words; None: there was nothing before."""

    title: str
    value: str
    change: str | None
    before: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """Calls, in the period and in the one before it."""

    now: int
    before: int


def step(period: ShownPeriod) -> Window:
    """Of its course."""
    return Window.HOUR if period.end - period.start < _BY_HOURS else Window.DAY


def shown(asked: ExplorerAsked, period: ShownPeriod, group: str) -> Shown:
    """The answer by these names, under the filters."""
    question = _question(asked, period, group, None)
    return Shown(asked, question, answer(asked.environment.pk, question, asked.zone), period)


def course_and_groups(
    asked: ExplorerAsked, period: ShownPeriod, course_by: str | None, groups: Sequence[str]
) -> tuple[Shown, list[Shown]]:
    """The course of the period, by names or of all together, and the answers by each group, all read at once."""
    questions = [
        _question(asked, period, course_by, step(period)),
        *(_question(asked, period, group, None) for group in groups),
    ]
    found = answers(asked.environment.pk, questions, asked.zone)
    course, *by_group = (
        Shown(asked, question, answer, period) for question, answer in zip(questions, found, strict=True)
    )
    return course, by_group


def _question(asked: ExplorerAsked, period: ShownPeriod, group: str | None, steps: Window | None) -> Question:
    return Question(
        period=period.days.range,
        before=period.before.range,
        filters=asked.filters,
        top=LEADING_MAX,
        group=group,
        step=steps,
    )


def blocked(asked: ExplorerAsked, period: ShownPeriod) -> Blocked:
    return Blocked(_blocked(asked, period.days.range), _blocked(asked, period.before.range))


def _blocked(asked: ExplorerAsked, period: Range) -> int:
    return counts.count(counts.Question(asked.environment.pk, period, asked.filters))


def figures(total: Line, blocked: Blocked, *, compares: bool) -> list[Figure]:
    """Not `compares`: there is nothing before, and nothing is said of it."""
    found = []
    for title, measure in _MEASURES:
        now, before = measure.of(total.now), measure.of(total.before)
        found.append(
            Figure(
                title,
                measures.amount(measure, now),
                wording.change(now, before) if compares else None,
                f"{measures.amount(measure, before)} before" if compares else "",
            )
        )
    rate = wording.share(blocked.now, blocked.now + total.now["requests"])
    rate_before = wording.share(blocked.before, blocked.before + total.before["requests"])
    value = f"{wording.count(blocked.now)} · {rate}"
    return [*found, Figure("Blocked", value, None, f"{rate_before} before" if compares else "")]
