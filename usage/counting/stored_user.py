"""What is stored of an end user, and the record of it that stands beside the counters.

The record is all that an evaluate needs: "-" for a user without a row, else "0" or "1" for blocked and then the plan,
which may be any text.
"""

from __future__ import annotations

import msgspec

UNKNOWN = "-"


class StoredUser(msgspec.Struct, frozen=True):
    """`plan` is "" for none."""

    known: bool
    plan: str
    blocked: bool


def record(plan_name: str | None, blocked: bool) -> str:
    return f"{1 if blocked else 0}{plan_name or ''}"


def parse_record(text: str) -> StoredUser:
    if text == UNKNOWN:
        return StoredUser(known=False, plan="", blocked=False)
    return StoredUser(known=True, plan=text[1:], blocked=text[:1] == "1")
