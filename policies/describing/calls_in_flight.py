"""Calls in flight in words: how many there are, what they hold and until when. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from usage import wording
from usage.metrics import Metric

if TYPE_CHECKING:
    from usage.counting.in_flight import CallInFlight


def holds(call: CallInFlight) -> str:
    """`374 tokens in, 44 out, $0.02`"""
    return wording.call(call.holds, call.holds.cost_nano if call.evaluated.priced else None)


def says(calls: Sequence[CallInFlight], zone: ZoneInfo) -> str:
    """`1 call in flight, holds $0.02 until 12:34:56`; of several what they hold together; "" of none."""
    if not calls:
        return ""
    is_one = len(calls) == 1
    ends_at = max(call.until for call in calls).astimezone(zone)
    hold = f"{'holds' if is_one else 'hold'} {_together(calls)}"
    until = f"until {ends_at:%H:%M:%S}{'' if is_one else ' at the latest'}"
    return f"{wording.counted(len(calls), 'call')} in flight, {hold} {until}"


def _together(calls: Sequence[CallInFlight]) -> str:
    """Tokens, if not all of them have a price."""
    if all(call.evaluated.priced for call in calls):
        return wording.money(sum(call.holds.cost_nano for call in calls))
    return wording.counted(sum(call.holds.of(Metric.TOKENS) for call in calls), "token")
