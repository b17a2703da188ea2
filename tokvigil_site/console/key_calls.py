"""What became of the calls that were made with an API key: recorded ones by their status, blocked ones by their reason.

Nothing is counted while calls are made. The newest rows are looked at, so many at most; where that is not all of a
period, the numbers say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db import connection
from django.db.models import QuerySet
from django.urls import reverse
from django.utils.timezone import localtime

from policies.blocked import decision_listing
from policies.describing import reason_words
from policies.models import BlockedDecision
from tenants.console import environments
from tenants.models import ApiKey
from usage import wording
from usage.counting import in_flight
from usage.counting.in_flight import CallInFlight
from usage.ledger.models import Status, UsageEvent

# The ledger has no index by key: these are of the whole environment.
EVENTS_LOOKED_AT_MAX = 20_000
BLOCKED_LOOKED_AT_MAX = 10_000
PERIODS = {"Last 24 hours": timedelta(hours=24), "Last 30 days": timedelta(days=30)}
NONE = (0,) * len(PERIODS)

# Taken back are estimates; that is reckoned with below.
_STATUSES = [status.value for status in Status if status not in (Status.REVERSAL, Status.ADJUSTMENT)]


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of calls, and the list that has them; "": there is none, or nothing to list."""

    number: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Of an outcome, a cell for each period. `parts`: by status or reason."""

    title: str
    cells: tuple[Cell, ...]
    parts: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """How many there are, by what and by period. `since`: older ones were not looked at; None: there are no older."""

    by_part: dict[str, tuple[int, ...]]
    since: datetime | None

    def cells(self, counts: Iterable[int], starts: list[datetime], urls: Iterable[str]) -> tuple[Cell, ...]:
        return tuple(
            Cell(self._number(count, start), url if count else "")
            for count, start, url in zip(counts, starts, urls, strict=True)
        )

    def _number(self, count: int, start: datetime) -> str:
        more = self.since is not None and self.since > start
        return f"{wording.count(count)} or more" if more else wording.count(count)

    def of(self, part: str) -> tuple[int, ...]:
        return self.by_part.get(part, NONE)

    @property
    def totals(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(NONE, *self.by_part.values(), strict=True)))


@dataclass(frozen=True, slots=True)
class KeyCalls:
    """`in_flight`: among the latest of the environment."""

    in_flight: Sequence[CallInFlight]
    recorded: Row
    blocked: Row
    recorded_since: datetime | None
    blocked_since: datetime | None


def of(key: ApiKey, now: datetime) -> KeyCalls:
    """Two queries, whatever there is; what the counter store has of blocked calls is stored first."""
    decision_listing.store_newest(key.environment_id)
    starts = [now - length for length in PERIODS.values()]
    recorded, blocked = _recorded(key, starts), _blocked(key, starts)
    nowhere = [""] * len(starts)
    return KeyCalls(
        in_flight=[
            call for call in in_flight.latest(key.environment_id) if call.evaluated.api_key_id == key.pk
        ],
        recorded=Row(
            "Recorded",
            recorded.cells(recorded.totals, starts, nowhere),
            tuple(
                Row(wording.status(status), recorded.cells(counts, starts, nowhere))
                for status, counts in recorded.by_part.items()
            ),
        ),
        blocked=Row(
            "Blocked",
            blocked.cells(blocked.totals, starts, _lists(key, starts)),
            tuple(
                Row(
                    reason_words.of_code(code),
                    blocked.cells(counts, starts, _lists(key, starts, reason=code)),
                )
                for code, counts in blocked.by_part.items()
            ),
        ),
        recorded_since=recorded.since,
        blocked_since=blocked.since,
    )


def _recorded(key: ApiKey, starts: list[datetime]) -> Tally:
    """An estimate that a late report replaced is in the ledger three times: it, its reversal and the report."""
    rows = UsageEvent.objects.filter(environment_id=key.environment_id, charged_at__gte=min(starts))
    newest = rows.order_by("-charged_at", "-id")[:EVENTS_LOOKED_AT_MAX]
    found = _tally(newest, "status", "charged_at", key, starts)
    charged, taken_back = found.of(Status.UNSETTLED), found.of(Status.REVERSAL)
    found.by_part[Status.UNSETTLED] = tuple(
        max(0, number - back) for number, back in zip(charged, taken_back, strict=True)
    )
    return Tally({status: counts for status in _STATUSES if any(counts := found.of(status))}, found.since)


def _blocked(key: ApiKey, starts: list[datetime]) -> Tally:
    rows = BlockedDecision.objects.filter(
        environment_id=key.environment_id, api_key_id=key.pk, decided_at__gte=min(starts)
    )
    return _tally(rows.order_by("-id")[:BLOCKED_LOOKED_AT_MAX], "reason_code", "decided_at", key, starts)


def _tally(newest: QuerySet[Any], part: str, at: str, key: ApiKey, starts: list[datetime]) -> Tally:
    """Of the key's rows among the newest, the most frequent part first. `part`, `at`: columns."""
    sql, values = newest.values(part, at, "api_key_id").query.sql_with_params()
    counts = ", ".join([f"count(*) FILTER (WHERE api_key_id = %s AND {at} >= %s)"] * len(starts))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {part}, count(*), min({at}), {counts} FROM ({sql}) AS newest"  # noqa: S608 (our own names)
            f" GROUP BY {part} ORDER BY count(*) DESC, {part}",
            [*(each for start in starts for each in (key.pk, start)), *values],
        )
        found = cursor.fetchall()
    looked_at = sum(row[1] for row in found)
    is_cut = looked_at == newest.query.high_mark
    by_part = {row[0]: row[3:] for row in found if any(row[3:])}
    return Tally(by_part, min(row[2] for row in found) if is_cut else None)


def _lists(key: ApiKey, starts: list[datetime], **filters: str) -> list[str]:
    """Of the blocked calls of each period, in the zone of the page."""
    return [
        _list(
            environment=key.environment,
            key=key.pk,
            since=localtime(start).isoformat(timespec="minutes"),
            **filters,
        )
        for start in starts
    ]


def _list(*, environment: object, **filters: Any) -> str:
    query = urlencode({environments.PARAMETER: str(environment), **filters})
    return f"{reverse('admin:policies_blockeddecision_changelist')}?{query}"
