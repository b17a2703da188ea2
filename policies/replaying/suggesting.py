"""Amounts for a limit, from the past: those that would have blocked a chosen share of the subjects or the money.

A subject (a user, a feature) is blocked if it asked for more than the amount in any window of the period: its peak
decides. Of requests it asked for what it used and for the calls that a limit of a window blocked, each time that they
were asked for: who was held at a limit would else seem to want no more. What blocked calls would have cost, and their
tokens, nobody knows: of these a peak is what was used. So the amount that blocks the k subjects with the highest peaks
is the next peak below theirs. A limit on cost of A would have saved, in each window of each subject, what was used
above A; the amount for a share of the money is where that adds up to it.

Of the window that the period cuts at its beginning, what was used before counts too, as the limit would have counted
it: but only subjects with calls in the period could be blocked, and only what they used in it could be saved.

Of tokens and costs, "blocked" means blocked or cut short: a call that names no cap on its output is given what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.db import connection

from policies.blocked import counts
from policies.blocked.counts import Question
from policies.reasons import WINDOW_CODES
from tenants.models import Environment
from usage.amounts import Per
from usage.assessment import LimitKind
from usage.instants import from_ms
from usage.ledger import sums
from usage.ledger.buckets import Range
from usage.ledger.periods import Period
from usage.metrics import METRICS, Metric
from usage.windows import Window

# A minute's windows of a month are too many to read at once.
WINDOWS = (Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH)
# Amounts are rounded up to so many digits, or to more where fewer would block others.
DIGITS = 3
SHARES = (Fraction(1, 100), Fraction(5, 100), Fraction(10, 100), Fraction(25, 100), Fraction(50, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The limit that an amount is wanted for. `plan`, `feature`: of their calls alone; "": of all."""

    metric: Metric
    window: Window
    per: Per
    plan: str = ""
    feature: str = ""

    @property
    def kind(self) -> LimitKind:
        return self.metric, self.window, self.per, ()


class Suggested(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` is in whole units, nano-USD for costs. `blocked` of all `subjects` would have been, at least once.

    `saved_nano`: what would not have been spent, of a limit on cost; else null. `blocked_calls`: how many calls were
    asked for beyond the amount, of a limit on requests; else null.
    """

    share_percent: int
    amount: int
    blocked: int
    subjects: int
    saved_nano: int | None
    spent_nano: int
    blocked_calls: int | None = None


def counts_blocked(asked: Asked) -> bool:
    """Whether calls that were blocked in the period are among those that were asked for."""
    return asked.metric is Metric.REQUESTS


def counts_more(asked: Asked) -> bool:
    """Whether such a limit also counts calls of other plans or features, which the amounts leave out.

    A user is on one plan at a time, so limits of users count those of the plan but for users who changed it.
    """
    apart = {"user_id": {"plan"}, "run_id": {"plan"}}
    told = set(sums.COLUMNS[asked.per]).union(*(apart.get(name, set()) for name in sums.COLUMNS[asked.per]))
    return bool((asked.plan and "plan" not in told) or (asked.feature and "feature" not in told))


def of_subjects(
    environment: Environment, asked: Asked, period: Period, shares: Iterable[Fraction] = SHARES
) -> list[Suggested]:
    """For shares of the subjects, each rounded down to whole ones. Raises DatabaseError."""
    usage = _Usage(environment, asked, period)
    peaks, spent_nano = usage.peaks()
    wanted = {share: int(len(peaks) * share) for share in shares}
    amounts = {
        share: _rounded(peaks[place] if place < len(peaks) else 0, peaks) for share, place in wanted.items()
    }
    above = usage.above(amounts.values()) if asked.metric in (Metric.COST_USD, Metric.REQUESTS) else {}
    return _suggested(asked, amounts, peaks, spent_nano, above)


@dataclass(frozen=True, slots=True)
class Peak:
    """A subject by its names, as the limit tells them apart, and the most that it asked for in a window."""

    names: tuple[str, ...]
    amount: int


def blocked_by(environment: Environment, asked: Asked, period: Period, amount: int, count: int) -> list[Peak]:
    """The first of those whom the amount would have blocked, the highest peak first. Raises DatabaseError."""
    return _Usage(environment, asked, period).peaks_above(amount, count)


def of_money(
    environment: Environment, asked: Asked, period: Period, shares: Iterable[Fraction] = SHARES
) -> list[Suggested]:
    """For shares of the money that was spent; of limits on cost. Raises DatabaseError."""
    usage = _Usage(environment, asked, period)
    (peaks, spent_nano), edges = usage.peaks(), usage.edges()
    amounts = {share: _rounded(_leaving(edges, spent_nano * share), peaks) for share in shares}
    return _suggested(asked, amounts, peaks, spent_nano, usage.above(amounts.values()))


def _suggested(
    asked: Asked,
    amounts: Mapping[Fraction, int],
    peaks: Sequence[int],
    spent_nano: int,
    above: Mapping[int, int],
) -> list[Suggested]:
    """Of the amount for each share. `above`: what subjects asked for above each amount, where that is known."""
    return [
        Suggested(
            share_percent=int(share * 100),
            amount=amount,
            blocked=sum(1 for peak in peaks if peak > amount),
            subjects=len(peaks),
            saved_nano=above.get(amount) if asked.metric is Metric.COST_USD else None,
            spent_nano=spent_nano,
            blocked_calls=above.get(amount) if asked.metric is Metric.REQUESTS else None,
        )
        for share, amount in amounts.items()
    ]


def _rounded(amount: int, peaks: Sequence[int]) -> int:
    """Up, to an amount that blocks the same subjects. `peaks`: of all, the highest first."""
    least = min((peak for peak in peaks if peak > amount), default=None)
    for zeros in range(len(str(amount)) - DIGITS, 0, -1):
        step: int = 10**zeros
        rounded = -(-amount // step) * step
        if least is None or rounded < least:
            return rounded
    return amount


def _leaving(edges: Sequence[tuple[int, int]], excess: Fraction) -> int:
    """The least amount above which there is no more than `excess` in all windows together.

    `edges`: the highest first, the amounts where a window begins (1) or ends (-1) to have something above.
    """
    above, slope, at = 0, 0, 0
    for edge, step in edges:
        more = slope * (at - edge)
        if above + more > excess:
            return math.ceil(at - (excess - above) / slope)
        above, slope, at = above + more, slope + step, edge
    return math.ceil(max(Fraction(0), at - (excess - above) / slope)) if slope else 0


class _Usage:
    """What subjects asked for in each window of the period."""

    def __init__(self, environment: Environment, asked: Asked, period: Period) -> None:
        zone = ZoneInfo(environment.tenant.timezone)
        spans = period.spans(asked.window, zone)
        windows = [from_ms(span.start) for span in spans]
        begun = windows[0] < period.start
        bounds = [windows[0], *([period.start] if begun else []), *windows[1:], period.end]
        columns = sums.COLUMNS[asked.per]
        filters = {"plan": asked.plan, "feature": asked.feature}
        given = {column: value for column, value in filters.items() if value}
        used = sums.used(environment.pk, bounds, columns, given)
        nobody = "".join(f" AND {column} <> ''" for column in columns)
        amount = " + ".join(METRICS[asked.metric].columns)
        names = "".join(f", {column}" for column in columns)
        calls = f"SELECT at{names}, {amount} AS amount, cost_nano, events FROM ({used.sql}) AS used"  # noqa: S608 (our own names)
        self._asked = asked
        self._values = [windows, period.start, period.start, *used.values]
        if counts_blocked(asked):
            blocked, values = counts.calls(
                Question(environment.pk, Range(period.start, period.end), given), columns
            )
            calls += f"""
                UNION ALL SELECT at{names}, calls, 0, calls FROM ({blocked}) AS blocked WHERE reason_code = ANY(%s)
            """  # noqa: S608
            self._values += [*values, [*WINDOW_CODES.values()]]
        self._values.append(period.start)
        self._sql = f"""
            SELECT {", ".join(columns) or "1"}, width_bucket(at, %s::timestamptz[]) AS span,
                   sum(amount)::bigint AS total,
                   coalesce(sum(amount) FILTER (WHERE at < %s), 0)::bigint AS before,
                   coalesce(sum(cost_nano) FILTER (WHERE at >= %s), 0)::bigint AS cost
            FROM ({calls}) AS calls WHERE true{nobody} GROUP BY {"1, 2" if len(columns) < 2 else "1, 2, 3"}
            HAVING sum(events) FILTER (WHERE at >= %s) > 0
        """  # noqa: S608 (our own names)
        self._subject = ", ".join(columns) or "true"

    def peaks(self) -> tuple[list[int], int]:
        """Of each subject that asked for anything the most of it in a window, the highest first; what all spent."""
        grouped = f"GROUP BY {self._subject}" if self._subject != "true" else ""
        rows = self._read(
            f"SELECT max(total) AS peak, sum(cost) FROM windows {grouped} ORDER BY peak DESC"  # noqa: S608
        )
        return [int(peak) for peak, _ in rows if peak and peak > 0], sum(int(cost or 0) for _, cost in rows)

    def peaks_above(self, amount: int, count: int) -> list[Peak]:
        columns = sums.COLUMNS[self._asked.per]
        names = "".join(f", {column}" for column in columns)
        grouped = f"GROUP BY {', '.join(columns)}" if columns else ""
        rows = self._read(
            f"""
            SELECT max(total) AS peak{names} FROM windows {grouped} HAVING max(total) > %s
            ORDER BY peak DESC{names} LIMIT %s
            """,  # noqa: S608 (our own names)
            amount,
            count,
        )
        return [Peak(tuple(named), int(peak)) for peak, *named in rows]

    def edges(self) -> list[tuple[int, int]]:
        """What each subject asked for in each window (1), and of it before the period (-1); the highest first."""
        return [
            (int(edge), step)
            for edge, step in self._read(
                """
                SELECT total AS edge, 1 FROM windows WHERE total > 0
                UNION ALL SELECT before, -1 FROM windows WHERE before > 0 ORDER BY edge DESC
                """
            )
        ]

    def above(self, amounts: Iterable[int]) -> dict[int, int]:
        """What subjects asked for above each amount in the period. One statement, whatever their number."""
        rows = self._read(
            """
            SELECT amount, coalesce(sum(greatest(0, total - amount) - greatest(0, before - amount)), 0)
            FROM unnest(%s::bigint[]) AS asked (amount) LEFT JOIN windows ON true GROUP BY amount
            """,
            sorted(set(amounts)),
        )
        return {amount: int(above) for amount, above in rows}

    def _read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(f"WITH windows AS MATERIALIZED ({self._sql}) {sql}", [*self._values, *values])
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found
