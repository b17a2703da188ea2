"""What an end user did lately: calls of the ledger and blocked ones, in one list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from policies.blocked import decision_listing
from policies.describing import reason_words
from policies.models import BlockedDecision
from usage import wording
from usage.counting.in_flight import CallInFlight
from usage.ledger.models import Status, UsageEvent

LISTED_MAX = 20
# Older months of the ledger are not looked at.
LATELY = timedelta(days=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """`call` or `block`: where it comes from."""

    at: datetime
    call: UsageEvent | None = None
    block: BlockedDecision | None = None

    @property
    def row(self) -> UsageEvent | BlockedDecision:
        found = self.call or self.block
        assert found is not None
        return found

    @property
    def reason(self) -> str:
        """Of a block, in a few words."""
        return "" if self.block is None else reason_words.of_code(self.block.reason_code)

    @property
    def says(self) -> str:
        """Of a call what it took, of a block why."""
        if self.call is None:
            return "" if self.block is None else self.block.message
        return wording.call(self.call.amounts, self.call.cost_nano)


def of_user(environment_id: int, user_id: str) -> list[Activity]:
    """Newest first; two queries."""
    decision_listing.store_newest(environment_id)
    since = timezone.now() - LATELY
    rows = UsageEvent.objects.filter(environment_id=environment_id, user_id=user_id, charged_at__gte=since)
    calls = rows.exclude(status=Status.ADJUSTMENT)
    blocks = BlockedDecision.objects.filter(
        environment_id=environment_id, user_id=user_id, decided_at__gte=since
    )
    found = [
        *(
            Activity(at=call.charged_at, call=call)
            for call in calls.order_by("-charged_at", "-id")[:LISTED_MAX]
        ),
        *(Activity(at=block.decided_at, block=block) for block in blocks.order_by("-id")[:LISTED_MAX]),
    ]
    return sorted(found, key=lambda each: each.at, reverse=True)[:LISTED_MAX]


def said(recent: Iterable[Activity], flying: Iterable[CallInFlight]) -> tuple[str, list[str]]:
    """The plan that the calls named last (\"\": none did), and their features, the latest first."""
    found = [(each.at, each.row.plan, each.row.feature) for each in recent]
    found += [(call.at, call.evaluated.plan, call.evaluated.feature) for call in flying]
    found.sort(reverse=True)
    return next((plan for _, plan, _ in found if plan), ""), [feature for _, _, feature in found]
