"""Stored replays for lists: without their reports, with the counts of these."""

from __future__ import annotations

from typing import Any

from django.db.models import F, QuerySet

from policies.models import Draft, PolicyReplay, ReplayState
from tenants.models import Environment


def newest(environment: Environment) -> QuerySet[PolicyReplay]:
    """The newest first. Each has `counts`, the `calls` of its report; None without one."""
    return _in_short(environment.replays.all())


def newest_of(draft: Draft) -> Any:
    """Of those of this draft that are done, wait or run."""
    failed = (ReplayState.FAILED, ReplayState.CANCELLED)
    return _in_short(PolicyReplay.objects.filter(draft=draft)).exclude(state__in=failed).first()


def _in_short(replays: QuerySet[PolicyReplay]) -> QuerySet[PolicyReplay]:
    with_counts: Any = replays.defer("report", "document").annotate(counts=F("report__calls"))
    found: QuerySet[PolicyReplay] = with_counts.order_by("-asked_at", "-id")
    return found
