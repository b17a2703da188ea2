"""What is stored of an end user, and the record of it that stands beside the counters.

The record is all that an evaluate needs: "-" for a user without a row, else "0" or "1" for blocked and then the plan,
which may be any text. With boosts it is a JSON list of that and of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from usage.boosts import BoostRef

UNKNOWN = "-"
_WITH_BOOSTS = "["


class StoredUser(msgspec.Struct, frozen=True):
    """`plan` is "" for none. Of `boosts` some may not have begun, and others be over."""

    known: bool
    plan: str
    blocked: bool
    boosts: tuple[BoostRef, ...] = ()


_decoder = msgspec.json.Decoder(tuple[str, tuple[BoostRef, ...]])


def record(plan_name: str | None, blocked: bool) -> str:
    return f"{1 if blocked else 0}{plan_name or ''}"


def with_boosts(record: str, boosts: Sequence[BoostRef]) -> str:
    return msgspec.json.encode((record, boosts)).decode() if boosts else record


def parse_record(text: str) -> StoredUser:
    if text == UNKNOWN:
        return StoredUser(known=False, plan="", blocked=False)
    if text[0] == _WITH_BOOSTS:
        user, boosts = _decoder.decode(text)
        return msgspec.structs.replace(parse_record(user), boosts=boosts)
    return StoredUser(known=True, plan=text[1:], blocked=text[:1] == "1")
