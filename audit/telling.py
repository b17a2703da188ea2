"""What an action says of its entries in words of its own, and the words that several actions share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.timezone import localtime

from audit.models import Entry


@dataclass(frozen=True, slots=True)
class Told:
    """A sentence but for who: what was done, the name that leads to the object, the rest, and what was changed."""

    did: str
    name: str = ""
    rest: str = ""
    details: tuple[str, ...] = ()


# Raises KeyError, TypeError, ValueError or AttributeError for an entry of another shape, such as an older one.
Tell = Callable[[Entry], Told]


def when(at: datetime, told_at: datetime) -> str:
    """`Fri 27 Nov 23:59 UTC`, in the zone of the page; with its year if it is another than when it is told."""
    here = localtime(at)
    year = "" if here.year == localtime(told_at).year else f" {here.year}"
    return f"{here:%a} {here.day} {here:%b}{year} {here:%H:%M} {here:%Z}"


def when_of(entry: Entry, name: str) -> str:
    """The same of a moment in the data of an entry."""
    return when(datetime.fromisoformat(entry.data[name]), entry.at)


def place(entry: Entry) -> str:
    """`in prod`; nothing of an entry that names no environment."""
    name = entry.data.get("environment")
    return f"in {name}" if isinstance(name, str) and name else ""


def phrase(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def why(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The reason that was given, as it was typed."""
    return tuple(text for name in ("reason", "note") if isinstance(text := data.get(name), str) and text)
