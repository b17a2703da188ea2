"""How many calls were blocked in a period, by what and by when.

A trigger counts decisions by quarter hour as they are stored (migration 0014), with their users and without; another
counts them no more as they are replaced (0019, asked_again.py), so a quarter hour may have none left of a kind. Where a
period cuts a quarter hour the decisions themselves are counted, so that a count is always that of the rows. Runs are
not told apart by the counts: of one run the decisions of the period are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from policies.models import BlockedDecision
from usage.ledger import sums
from usage.ledger.buckets import Range, parts
from usage.ledger.reading import recorded

KEY = ("feature", "plan", "model", "reason_code", "policy")
USER_KEY = ("user_id", *KEY)
# The column of the table of decisions, where it has another name or form.
_OF_A_ROW = {"policy": "coalesce(policy_id::text, '')"}
# Of these, the newest, it is looked up whether they passed later.
LOOKED_UP_MAX = 1_000
ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Question:
    """A period, and what the calls have in common: names by column, of USER_KEY and `run_id`; empty: none."""

    environment_id: int
    period: Range
    filters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Share:
    """Blocked calls beside those that are in the ledger, of the same users, features, plans and models."""

    blocked: int
    recorded: int


@dataclass(frozen=True, slots=True)
class LookedUp:
    """Of the newest `looked_up`, `passed` were allowed later, under the same request_id.

    The `priced` of them would have cost `cost_nano` at most: what would have been held, had they been allowed.
    """

    looked_up: int
    passed: int
    priced: int
    cost_nano: int


def count(question: Question) -> int:
    """Raises DatabaseError."""
    source, values = _source(question, ())
    ((found,),) = _read(f"SELECT coalesce(sum(calls), 0)::bigint FROM ({source}) AS blocked", values)  # noqa: S608
    return int(found)


def over_time(question: Question, bounds: Sequence[datetime]) -> list[tuple[int, str, int]]:
    """Of each part between the bounds, by its place, and each reason: how many. Raises DatabaseError."""
    source, values = _source(question, ())
    return _read(
        f"""
        SELECT width_bucket(at, %s::timestamptz[]) - 1, reason_code, sum(calls)::bigint FROM ({source}) AS blocked
        GROUP BY 1, 2 ORDER BY 1, 2
        """,  # noqa: S608 (our own names)
        [list(bounds), *values],
    )


def most(question: Question, column: str, count: int) -> list[tuple[str, int]]:
    """The names of the column that were blocked most often. Raises DatabaseError."""
    source, values = _source(question, (column,))
    return _read(
        f"""
        SELECT {column}, sum(calls)::bigint FROM ({source}) AS blocked GROUP BY {column}
        ORDER BY sum(calls) DESC, {column} COLLATE "C" LIMIT %s
        """,  # noqa: S608 (our own names)
        [*values, count],
    )


def most_of_each(question: Question, column: str, of: Sequence[str], what: Sequence[str]) -> dict[str, Any]:
    """Of each of these names of the column the most frequent `what`, columns too. Raises DatabaseError."""
    source, values = _source(question, (column, *what))
    rows = _read(
        f"""
        SELECT DISTINCT ON ({column}) {column}, {", ".join(what)} FROM ({source}) AS blocked
        WHERE {column} = ANY(%s) GROUP BY {column}, {", ".join(what)}
        ORDER BY {column}, sum(calls) DESC, {", ".join(what)}
        """,  # noqa: S608 (our own names)
        [*values, list(of)],
    )
    return {name: tuple(found) for name, *found in rows}


def names(question: Question, column: str) -> int:
    """How many different names of the column there are. Raises DatabaseError."""
    source, values = _source(question, (column,))
    ((found,),) = _read(f"SELECT count(DISTINCT {column}) FROM ({source}) AS blocked", values)  # noqa: S608
    return int(found)


def all_of(question: Question, column: str) -> Iterator[tuple[str, int]]:
    """All of them, as many as there are, read in steps."""
    source, values = _source(question, (column,))
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {column}, sum(calls)::bigint FROM ({source}) AS blocked GROUP BY {column}
            ORDER BY sum(calls) DESC, {column} COLLATE "C"
            """,  # noqa: S608 (our own names)
            values,
        )
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield from rows


def share(question: Question, blocked: int) -> Share:
    """Raises DatabaseError."""
    period = question.period
    filters = {
        name: value for name, value in question.filters.items() if name not in ("reason_code", "policy")
    }
    used = sums.used(question.environment_id, [period.start, period.end], (), filters)
    ((requests,),) = _read(
        f"SELECT coalesce(sum(requests), 0)::bigint FROM ({used.sql}) AS used",  # noqa: S608
        used.values,
    )
    return Share(blocked, requests)


def look_up(question: Question) -> LookedUp:
    """Raises DatabaseError."""
    period = question.period
    names = dict(question.filters)
    wanted: dict[str, Any] = {}
    if "policy" in names:
        wanted["policy_id"] = names.pop("policy") or None
    found = BlockedDecision.objects.filter(
        environment_id=question.environment_id,
        decided_at__gte=period.start,
        decided_at__lt=period.end,
        **wanted,
        **names,
    )
    newest = found.order_by("-decided_at").values_list("request_id", "estimated_cost_nano")[:LOOKED_UP_MAX]
    costs = [(request_id, cost) for request_id, cost in newest]
    passed = (
        recorded(question.environment_id, list({request_id for request_id, _ in costs})) if costs else set()
    )
    known = [cost for _, cost in costs if cost is not None]
    return LookedUp(
        looked_up=len(costs),
        passed=sum(request_id in passed for request_id, _ in costs),
        priced=len(known),
        cost_nano=sum(known),
    )


def calls(question: Question, columns: Collection[str]) -> tuple[str, list[Any]]:
    """A statement, and its values: rows with `at`, `reason_code`, the columns and how many `calls`."""
    source, values = _source(question, {*columns, "reason_code"})
    names = ", ".join(("at", "reason_code", *columns))
    return f"SELECT {names}, calls FROM ({source}) AS blocked", values  # noqa: S608 (our own names)


def forget_before(at: datetime) -> None:
    """What was counted of decisions that are gone."""
    with connection.cursor() as cursor:
        for table in ("blocked_quarter", "blocked_user_quarter"):
            cursor.execute(f"DELETE FROM {table} WHERE start < %s", [at])  # noqa: S608 (our own names)


def _source(question: Question, columns: Collection[str]) -> tuple[str, list[Any]]:
    """Rows with `at`, what they are told apart by, and `calls`; those that the filters let through."""
    cut = parts([question.period.start, question.period.end])
    needs = {*columns, *question.filters}
    table, key = ("blocked_quarter", KEY) if needs <= set(KEY) else ("blocked_user_quarter", USER_KEY)
    rows = cut.rows if needs <= set(USER_KEY) else (question.period,)
    key = (*key, "run_id") if "run_id" in columns else key
    buckets = () if rows == (question.period,) else (*cut.days, *cut.quarters)
    where, values = _where(question.filters)
    branches = [_of_table(table, key, where)] * bool(buckets) + [_of_rows(key, where)] * bool(rows)
    all_values: list[Any] = []
    for ranges in (buckets, rows):
        if ranges:
            starts, ends = [each.start for each in ranges], [each.end for each in ranges]
            all_values += [starts, ends, question.environment_id, *values]
    return " UNION ALL ".join(branches), all_values


def _of_table(table: str, key: Sequence[str], where: str) -> str:
    return f"""
        SELECT start AS at, {", ".join(key)}, calls
        FROM unnest(%s::timestamptz[], %s::timestamptz[]) AS part (first, past)
        JOIN {table} ON start >= part.first AND start < part.past WHERE environment_id = %s AND calls > 0 AND {where}
    """  # noqa: S608 (our own names)


def _of_rows(key: Sequence[str], where: str) -> str:
    """Each range by the index. Without OFFSET 0 the planner joins, and believes that they hold much of the table."""
    names = ", ".join(f"{_OF_A_ROW.get(name, name)} AS {name}" for name in key)
    return f"""
        SELECT at, {", ".join(key)}, 1 AS calls
        FROM unnest(%s::timestamptz[], %s::timestamptz[]) AS part (first, past)
        CROSS JOIN LATERAL (
            SELECT decided_at AS at, {names}{"" if "run_id" in key else ", run_id"} FROM blocked_decision
            WHERE decided_at >= part.first AND decided_at < part.past AND environment_id = %s OFFSET 0
        ) AS decided
        WHERE {where}
    """  # noqa: S608 (our own names)


def _where(filters: Mapping[str, str]) -> tuple[str, list[str]]:
    return " AND ".join(["true", *(f"{name} = %s" for name in filters)]), list(filters.values())


def _read(sql: str, values: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())
