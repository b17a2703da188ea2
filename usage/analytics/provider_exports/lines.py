"""What an export says, whoever wrote it, and how its cells are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation

DAY = timedelta(days=1)
DAYS_MAX = 100
COUNT_MAX = 10**15
USD_MAX = Decimal(10) ** 9
TEXT_SHOWN_MAX = 60

_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,5})?")


class Refused(Exception):
    """A file that cannot be compared; says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What was billed on a UTC day. `names`: those the model may go by, the likeliest first; none: it is not said.

    `tier` is "" where the file does not say it. `used`: quantities by our names, `requests` among them.
    """

    day: date
    provider: str
    names: tuple[str, ...]
    tier: str = ""
    cost: Decimal | None = None
    used: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A file that was read. `days`: all that it covers, also those on which nothing was used. `providers`: whose bill.

    `unknown`: columns that were not read, by name. `notes`: what else is not compared, in words.
    """

    kind: str
    lines: tuple[Line, ...]
    days: frozenset[date]
    providers: frozenset[str]
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def decimal(value: object, where: str) -> Decimal:
    """Raises Refused."""
    try:
        found = value if isinstance(value, Decimal) else Decimal(_number(value))
    except (InvalidOperation, ValueError):
        raise Refused(f"{where}: {shown(value)} is no amount; expected a decimal such as 12.34.") from None
    if abs(found) > USD_MAX:
        raise Refused(f"{where}: {shown(value)} is out of range; expected at most {USD_MAX:f}.")
    # OpenAI writes nothing as `0E-6176`.
    return found or Decimal(0)


def count(value: object, where: str) -> int:
    """Nothing counts as 0; the dashboard writes `59200.0`. Raises Refused."""
    if value is None or value == "":
        return 0
    try:
        found = value if isinstance(value, Decimal) else Decimal(_number(value))
    except (InvalidOperation, ValueError):
        found = Decimal(-1)
    if not 0 <= found <= COUNT_MAX or found != found.to_integral_value():
        raise Refused(f"{where}: {shown(value)} is no count; expected a whole number such as 1200.")
    return int(found)


def _number(value: object) -> str:
    text = str(value).strip()
    if isinstance(value, bool) or not _NUMBER.fullmatch(text):
        raise ValueError
    return text


def instant(value: object, where: str) -> datetime:
    """ISO 8601, in UTC unless it says its offset, or seconds since 1970. Raises Refused."""
    try:
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            at = datetime.fromisoformat(value)
            return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return datetime.fromtimestamp(int(Decimal(_number(value))), UTC)
    except (ValueError, OverflowError, OSError):
        raise Refused(f"{where}: {shown(value)} is no time; expected such as 2026-11-01T00:00:00Z.") from None


def day_of(start: datetime, end: datetime | None, where: str) -> date:
    """Of a period that lies in one UTC day. Raises Refused."""
    if end is not None and (end <= start or end > _midnight(start) + DAY):
        raise Refused(
            f"{where}: the period from {start:%Y-%m-%dT%H:%MZ} to {end:%Y-%m-%dT%H:%MZ} is not inside one UTC day; "
            "export it by day or by hour."
        )
    return start.date()


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def usd_only(currency: object, where: str) -> None:
    """Raises Refused for any other currency."""
    if str(currency).upper() != "USD":
        raise Refused(f"{where}: {shown(currency)} cannot be compared; expected USD.")


def export(
    kind: str,
    lines: Iterable[Line],
    days: Iterable[date],
    *,
    providers: Iterable[str],
    unknown: Iterable[str] = (),
    notes: Iterable[str] = (),
) -> Export:
    """Raises Refused if there are no days in it, or too many."""
    covered = frozenset(days)
    if not covered:
        raise Refused(f"It is {kind} without a single day.")
    span = (max(covered) - min(covered)).days + 1
    if span > DAYS_MAX:
        raise Refused(f"It covers {span} days; at most {DAYS_MAX} are compared. Export a shorter time.")
    return Export(
        kind=kind,
        lines=tuple(lines),
        days=covered,
        providers=frozenset(providers),
        unknown=tuple(sorted(set(unknown))),
        notes=tuple(notes),
    )


def shown(value: object) -> str:
    return repr(str(value)[:TEXT_SHOWN_MAX])
