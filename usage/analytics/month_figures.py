"""What environments used in a month: the figures of a month-end report.

In all, and by plan, feature, model, feature with model, and user.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from django.db import connection

from tenants.models import Environment
from usage.analytics import used_quantities
from usage.ledger import sums
from usage.ledger.buckets import Range
from usage.ledger.periods import Period
from usage.ledger.sums import Filters
from usage.metrics import COUNTS
from usage.quantities import MAPPED

# Callers choose the names: so many of each kind, the dearest first, and the rest in one line.
LINES_MAX = 25
OTHERS = "All others"
_NAMES = (*COUNTS, "cost_nano", "unpriced")


class Kind(StrEnum):
    """What the lines of a table are told apart by."""

    ENVIRONMENT = "environment"
    PLAN = "plan"
    FEATURE = "feature"
    MODEL = "model"
    FEATURE_MODEL = "feature_model"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of calls together. What `unpriced` calls cost is in no sum."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    unpriced: int = 0

    def plus(self, other: Figures) -> Figures:
        return Figures(**{name: getattr(self, name) + getattr(other, name) for name in _NAMES})

    def less(self, other: Figures) -> Figures:
        return Figures(**{name: getattr(self, name) - getattr(other, name) for name in _NAMES})


@dataclass(frozen=True, slots=True)
class Key:
    """A name is empty where calls have none. Users of two environments are never the same."""

    name: str
    environment: str = ""
    # Of a feature with a model.
    model: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    key: Key
    now: Figures
    # The month before, or its same days.
    before: Figures


@dataclass(frozen=True, slots=True)
class Table:
    """The dearest first. `others`: all that are not among the lines, None if these are all; how many they are."""

    kind: Kind
    lines: tuple[Line, ...]
    others: Line | None
    others_count: int


@dataclass(frozen=True, slots=True)
class Month:
    """`unpriced`: the models without a price, those of most calls first, and how many calls these are.

    `quantities`: what was used beside text tokens, in the month and the one before, by name.
    """

    total: Line
    tables: tuple[Table, ...]
    unpriced: tuple[tuple[str, int], ...]
    quantities: Mapping[str, tuple[int, int]]


@dataclass(slots=True)
class _Used:
    """Of all users together, in a period."""

    total: Figures = Figures()
    of: dict[Kind, dict[Key, Figures]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Figures))
    )


# What usage_total is told apart by (usage/ledger/rollup_tables.py).
_SHARED = (Kind.PLAN, Kind.FEATURE, Kind.MODEL)
_SETS = (*((kind,) for kind in _SHARED), (Kind.FEATURE, Kind.MODEL))
_KINDS = (*_SHARED, Kind.FEATURE_MODEL)


def of_month(environments: Sequence[Environment], now: Period, before: Period) -> Month:
    """Seven statements an environment at most. Raises DatabaseError."""
    used, earlier = _used(environments, now), _used(environments, before)
    tables = [_table(kind, used, earlier) for kind in (Kind.ENVIRONMENT, *_KINDS)]
    return Month(
        Line(Key("Total"), used.total, earlier.total),
        (*tables, _users(environments, now, before, used, earlier)),
        _unpriced(used),
        _quantities(environments, now, before),
    )


def _quantities(
    environments: Iterable[Environment], now: Period, before: Period
) -> dict[str, tuple[int, int]]:
    # So that a report of calls of text alone reads nothing for them.
    using = [each.pk for each in environments if used_quantities.ever(each.pk)]
    used, earlier = (
        _added(used_quantities.in_period(each, Range(period.start, period.end)) for each in using)
        for period in (now, before)
    )
    return {name: (used[name], earlier[name]) for name in MAPPED if used[name] or earlier[name]}


def _added(each: Iterable[Mapping[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in each:
        found.update(one)
    return found


def _unpriced(used: _Used) -> tuple[tuple[str, int], ...]:
    models = [
        (key.name, figures.unpriced) for key, figures in used.of[Kind.MODEL].items() if figures.unpriced
    ]
    return tuple(sorted(models, key=lambda model: (-model[1], model[0]))[:LINES_MAX])


def _used(environments: Iterable[Environment], period: Period) -> _Used:
    found = _Used()
    columns = [kind.value for kind in _SHARED]
    given = ", ".join(columns)
    # A bit for each column that the row is not told apart by.
    places = {
        sum(1 << (len(_SHARED) - 1 - at) for at, kind in enumerate(_SHARED) if kind not in together): kind_of
        for together, kind_of in zip(_SETS, _KINDS, strict=True)
    }
    sets = ", ".join(f"({', '.join(together)})" for together in ((), *_SETS))
    for environment in environments:
        rows = _read(
            environment.pk,
            period,
            columns,
            f"grouping({given}), coalesce({given}, ''), coalesce(model, '')",
            f"GROUP BY GROUPING SETS ({sets})",
        )
        for bits, name, model, *figures in rows:
            read, kind = _figures(figures), places.get(bits)
            if kind is None:
                found.total = found.total.plus(read)
                if read != Figures():
                    found.of[Kind.ENVIRONMENT][Key(environment.slug)] = read
            else:
                lines = found.of[kind]
                key = Key(name, model=model if kind is Kind.FEATURE_MODEL else "")
                lines[key] = lines[key].plus(read)
    return found


def _table(kind: Kind, used: _Used, earlier: _Used) -> Table:
    now, before = used.of[kind], earlier.of[kind]
    lines = [Line(key, now.get(key, Figures()), before.get(key, Figures())) for key in {*now, *before}]
    lines.sort(key=_dearest_first)
    return _cut(kind, lines[:LINES_MAX], len(lines), used.total, earlier.total)


def _users(
    environments: Iterable[Environment], now: Period, before: Period, used: _Used, earlier: _Used
) -> Table:
    """Only those who used something in this month."""
    lines: list[Line] = []
    count = 0
    for environment in environments:
        rows = _read(
            environment.pk,
            now,
            ["user_id"],
            "user_id, count(*) OVER ()",
            "GROUP BY user_id HAVING sum(events) > 0 ORDER BY sum(cost_nano) DESC, user_id LIMIT %s",
            LINES_MAX,
        )
        count += rows[0][1] if rows else 0
        shown = [row[0] for row in rows]
        earlier_of = {
            user_id: _figures(figures)
            for user_id, *figures in _read(
                environment.pk, before, ["user_id"], "user_id", "GROUP BY user_id", filters={"user_id": shown}
            )
        }
        lines += [
            Line(Key(user_id, environment.slug), _figures(figures), earlier_of.get(user_id, Figures()))
            for user_id, _, *figures in rows
        ]
    lines.sort(key=_dearest_first)
    return _cut(Kind.USER, lines[:LINES_MAX], count, used.total, earlier.total)


def _dearest_first(line: Line) -> tuple[Any, ...]:
    key = line.key
    return (-line.now.cost_nano, -line.now.requests, key.name, key.model, key.environment)


def _cut(kind: Kind, lines: list[Line], count: int, total: Figures, before: Figures) -> Table:
    """The others are what is left of the total, so that each table sums up to it."""
    for line in lines:
        total, before = total.less(line.now), before.less(line.before)
    others_count = count - len(lines)
    is_all = others_count == 0 and total == before == Figures()
    return Table(kind, tuple(lines), None if is_all else Line(Key(OTHERS), total, before), others_count)


def _read(
    environment_id: int,
    period: Period,
    columns: list[str],
    selected: str,
    then: str,
    *values: Any,
    filters: Filters | None = None,
) -> list[tuple[Any, ...]]:
    used = sums.used(environment_id, [period.start, period.end], columns, filters)
    summed = ", ".join(f"coalesce(sum({name}), 0)" for name in _NAMES)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {selected}, {summed} FROM ({used.sql}) AS used {then}",  # noqa: S608 (our own names)
            [*used.values, *values],
        )
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def _figures(read: Iterable[Any]) -> Figures:
    return Figures(**{name: int(number) for name, number in zip(_NAMES, read, strict=True)})
