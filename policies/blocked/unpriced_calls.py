"""Calls that were blocked for want of a price: the ledger knows nothing of them."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Count, Min

from policies.blocked.decision_listing import store_newest
from policies.models import BlockedDecision
from policies.reasons import Reason
from tenants.models import Environment
from usage.ledger.unpriced import ROWS_MAX, UnpricedUse

# The newest; of a flood of blocked calls no more are counted.
DECISIONS_MAX = 10_000


def blocked_unpriced(environment: Environment, since: datetime, now: datetime) -> list[UnpricedUse]:
    store_newest(environment.pk)
    newest = BlockedDecision.objects.filter(
        environment=environment, reason_code=Reason.PRICE_UNKNOWN.value, decided_at__gte=since
    ).order_by("-id")[:DECISIONS_MAX]
    found = (
        BlockedDecision.objects.filter(pk__in=newest.values("pk"), decided_at__gte=since)
        .order_by()
        .values_list("model", "feature")
        .annotate(calls=Count("pk"), first_at=Min("decided_at"))
        .order_by("-calls", "model", "feature")[:ROWS_MAX]
    )
    return [
        UnpricedUse(model=model, feature=feature, calls=calls, first_at=first_at, blocked=True)
        for model, feature, calls, first_at in found
    ]
