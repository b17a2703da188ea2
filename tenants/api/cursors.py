"""Cursors: the sort key of a page's last row, as an opaque text."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from django.db.models import Model, QuerySet

from tenants.api.problems import Problem, invalid_field

BIGINT_MAX = 2**63 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_KEY = re.compile(rb"(?P<first>-?[0-9]{1,18}):(?P<id>[0-9]{1,19})")


Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    rows: list[Row]
    # Where the next page begins; None: there is none.
    next_cursor: str | None


def page(found: QuerySet[Row], size: int, key: Callable[[Row], tuple[datetime, int]]) -> Page[Row]:
    """The first `size` rows in their order, and the key of the last; one query, for one row more: it tells whether
    there is a next page."""
    rows = list(found[: size + 1])
    shown = rows[:size]
    return Page(shown, write(*key(shown[-1])) if len(rows) > len(shown) else None)


def write(at: datetime, row_id: int) -> str:
    return urlsafe_b64encode(b"%d:%d" % ((at - _EPOCH) // _MICROSECOND, row_id)).decode()


def read(text: str) -> tuple[datetime, int]:
    """Raises Problem 422 for a text that `write` did not make."""
    try:
        found = _KEY.fullmatch(urlsafe_b64decode(text.encode("ascii")))
        at = _EPOCH + int(found["first"]) * _MICROSECOND if found else None
    except (ValueError, OverflowError) as error:
        raise _unreadable() from error
    if found is None or at is None or (row_id := int(found["id"])) > BIGINT_MAX:
        raise _unreadable()
    return at, row_id


def _unreadable() -> Problem:
    return invalid_field("cursor", "not a cursor of this list; leave it out to start with the first page")
