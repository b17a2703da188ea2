"""What the page of a replay shows of its report: counts to scale, days as bars, differences side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from policies.describing import reason_words
from policies.describing.differences import Line
from policies.replaying.report import (
    SimulatedDay,
    SimulatedDecision,
    SimulatedDifference,
    SimulatedFirstHit,
    SimulationReport,
)
from usage import wording
from usage.money import parse_usd

# Of the drawing, in its own units.
WIDTH, HEIGHT = 1000, 160
# Of the width that a day has, its bar takes so much.
BAR_SHARE = 0.7
FIRST_HITS_SHOWN = 10
REASONS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Part:
    """One of the four that the calls of a replay fall into. `kind` names its colour."""

    kind: str
    title: str
    number: str
    calls: int
    says: str


@dataclass(frozen=True, slots=True)
class Bar:
    kind: str
    x: str
    y: str
    width: str
    height: str
    says: str


@dataclass(frozen=True, slots=True)
class Days:
    bars: tuple[Bar, ...]
    first: date
    last: date
    # The calls of the tallest bar.
    most: str
    rows: tuple[SimulatedDay, ...]


def headline(report: SimulationReport) -> str:
    """`Of 83,412 calls, 452 would have been newly blocked, 41 newly allowed, 3 cut short`"""
    calls = report.calls
    if not calls.replayed:
        return "No call was made or blocked in this period"
    of = wording.counted(calls.replayed, "call")
    if not calls.newly_blocked and not calls.newly_allowed and not report.cut_short:
        return f"None of {of} would have been decided otherwise"
    changed = [
        (calls.newly_blocked, "newly blocked"),
        (calls.newly_allowed, "newly allowed"),
        (report.cut_short, "cut short"),
    ]
    first, *others = [(wording.count(number), what) for number, what in changed if number]
    return ", ".join([f"Of {of}", f"{first[0]} would have been {first[1]}", *map(" ".join, others)])


def blocked(report: SimulationReport) -> str:
    """`620 blocked before, 1,628 after`, of the calls of which it can be said."""
    before = sum(day.blocked_before for day in report.days)
    calls = report.calls
    after = before - calls.newly_allowed + calls.newly_blocked
    unknown = f", and {wording.count(calls.undecidable)} cannot be said" if calls.undecidable else ""
    return f"{wording.count(before)} blocked before, {wording.count(after)} after{unknown}"


def parts(report: SimulationReport) -> tuple[Part, ...]:
    calls, users, cost = report.calls, report.users, report.cost_usd
    unchanged = f"{wording.share(calls.unchanged, calls.replayed)} of the calls"
    if report.other_reason:
        unchanged += f"; {wording.count(report.other_reason)} blocked for another reason"
    if report.cut_short:
        unchanged += f"; {wording.count(report.cut_short)} left less output than they produced"
    blocked, allowed, made = map(usd, (cost.newly_blocked, cost.newly_allowed_at_most, cost.made))
    unpriced = (
        f"; {wording.counted(cost.unpriced, 'call')} without a price of all or part" if cost.unpriced else ""
    )
    why = "; ".join(f"{wording.count(count)}: {said}" for said, count in report.undecidable.items())
    return (
        _part("unchanged", "Unchanged", calls.unchanged, unchanged),
        _part(
            "blocked",
            "Newly blocked",
            calls.newly_blocked,
            f"{wording.counted(users.newly_blocked, 'user')} · {blocked} of {made} not spent{unpriced}",
        ),
        _part(
            "allowed",
            "Newly allowed",
            calls.newly_allowed,
            f"{wording.counted(users.newly_allowed, 'user')} · {allowed} more at most",
        ),
        _part("unknown", "Cannot be said", calls.undecidable, why),
    )


def _part(kind: str, title: str, calls: int, says: str) -> Part:
    return Part(kind, title, wording.count(calls), calls, says)


def usd(text: str) -> str:
    """For a sum: `$4.02`."""
    return wording.money_rounded(parse_usd(text))


def reasons(report: SimulationReport) -> list[tuple[str, str | None, str]]:
    """Of the newly blocked: in words, the policy, how many."""
    return [
        (reason_words.of_code(each.reason_code), each.policy, wording.count(each.calls))
        for each in report.reasons[:REASONS_SHOWN]
    ]


def hits(
    report: SimulationReport, *, by_time: bool
) -> tuple[Sequence[SimulatedFirstHit], Sequence[SimulatedFirstHit], int]:
    """The first, those after them, and how many users more the report does not name.

    `by_time`: who is hit earliest first; else who is blocked most often.
    """
    found = report.first_hits if by_time else sorted(report.first_hits, key=lambda hit: -hit.calls)
    return (
        found[:FIRST_HITS_SHOWN],
        found[FIRST_HITS_SHOWN:],
        report.users.newly_blocked - len(found),
    )


def days(report: SimulationReport) -> Days | None:
    """Every day of the period, also those without calls. None: there is nothing to draw."""
    if not report.days or not (report.calls.newly_blocked or report.calls.newly_allowed):
        return None
    zone = ZoneInfo(report.period.timezone)
    first = report.period.from_.astimezone(zone).date()
    last = max(report.days[-1].date, (report.period.to - timedelta(microseconds=1)).astimezone(zone).date())
    found = {each.date: each for each in report.days}
    most = max(each.newly_blocked + each.newly_allowed for each in report.days)
    step = WIDTH / ((last - first).days + 1)
    bars = tuple(
        bar for when, each in found.items() for bar in _bars(each, (when - first).days * step, step, most)
    )
    changed = tuple(each for each in report.days if each.newly_blocked or each.newly_allowed)
    return Days(bars, first, last, wording.count(most), changed)


def _bars(day: SimulatedDay, x: float, step: float, most: int) -> Iterator[Bar]:
    """Newly blocked below, newly allowed on top of it."""
    top = float(HEIGHT)
    for kind, calls, words in (
        ("blocked", day.newly_blocked, "newly blocked"),
        ("allowed", day.newly_allowed, "newly allowed"),
    ):
        if calls:
            height = HEIGHT * calls / most
            top -= height
            says = f"{day.date:%Y-%m-%d}: {wording.count(calls)} {words}"
            left = x + step * (1 - BAR_SHARE) / 2
            yield Bar(kind, f"{left:.2f}", f"{top:.2f}", f"{step * BAR_SHARE:.2f}", f"{height:.2f}", says)


@dataclass(frozen=True, slots=True)
class Shown:
    """A difference: in short, and both explanations line by line."""

    call: SimulatedDifference
    lines: tuple[Line, ...]

    @property
    def newly_blocked(self) -> bool:
        return self.call.before.allowed

    @property
    def cost(self) -> str:
        return "not known" if self.call.cost_usd is None else wording.money(parse_usd(self.call.cost_usd))


def shown(call: SimulatedDifference) -> Shown:
    before, after = _lines(call.before), _lines(call.after)
    return Shown(call, tuple(Line(label, before[label], after[label]) for label in before))


def _lines(said: SimulatedDecision) -> dict[str, str | None]:
    version = "" if said.policy_version is None else f", version {said.policy_version}"
    return {
        "Answer": "Allowed" if said.allowed else f"Blocked: {reason_words.of_code(said.reason_code)}",
        "Decided by": None if said.policy is None else f"{said.policy}{version}",
        "In words": said.message,
    }


COLUMNS = (
    "at", "change", "request_id", "user_id", "feature", "model", "cost_usd",
    "before_reason", "before_policy", "before_version", "before_message",
    "after_reason", "after_policy", "after_version", "after_message",
)  # fmt: skip


def rows(differences: Sequence[SimulatedDifference], zone: ZoneInfo) -> Iterator[dict[str, object]]:
    """For a file."""
    for each in differences:
        values = (
            each.at.astimezone(zone).isoformat(timespec="milliseconds"),
            "newly blocked" if each.before.allowed else "newly allowed",
            each.request_id, each.user_id, each.feature, each.model,
            None if each.cost_usd is None else Decimal(each.cost_usd),
            each.before.reason_code, each.before.policy, each.before.policy_version, each.before.message,
            each.after.reason_code, each.after.policy, each.after.policy_version, each.after.message,
        )  # fmt: skip
        yield dict(zip(COLUMNS, values, strict=True))
