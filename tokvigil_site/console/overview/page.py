"""What the overview shows to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from audit import wording as audit_wording
from audit.models import Entry
from audit.wording import Sentence
from policies import boosts
from policies.standing import standing_wording
from policies.standing.standings import Standing, standings
from tenants.console import environments
from tenants.console.access import may
from tenants.console.parts import Bar, State
from tenants.models import Environment
from tenants.roles import May
from tokvigil_site.console.overview import checklist, figures
from usage import wording
from usage.ledger import totals
from usage.ledger.totals import SummaryQuery
from usage.metrics import Metric

LIMITS_SHOWN = 8
CHANGES_SHOWN = 6
# The latest of the tenant, of all its environments.
CHANGES_READ = 100
CHANGED_SINCE = timedelta(days=1)
UNPRICED_SINCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Chip:
    """What needs a look, and where to look."""

    state: State
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class LimitRow:
    """`says` of the fullest subject; `left` is empty where it is not known."""

    words: str
    policy: str
    url: str
    bar: Bar | None
    says: str
    left: str
    crowd: str
    resets_at: datetime | None
    resets: str
    watched: bool


@dataclass(frozen=True, slots=True)
class Change:
    at: datetime
    sentence: Sentence
    url: str


def context(request: HttpRequest) -> dict[str, Any]:
    """For the template; of a person who may see no environment, nothing."""
    environment = environments.shown(request)
    if environment is None:
        return {"environment": None}
    if checklist.is_new(environment):
        base = request.build_absolute_uri("/").rstrip("/")
        return {"environment": environment, "steps": checklist.steps(environment, base)}
    now = timezone.now()
    found = standings(environment)
    return {
        "environment": environment,
        "now": now,
        "figures": figures.figures(environment, now),
        "chips": _chips(environment, found, now),
        "limits": [_limit(each, now) for each in _tightest_first(found)[:LIMITS_SHOWN]],
        "limit_count": len(found),
        "changes": _changes(request, environment, now),
        "leaders": [
            (title, figures.leaders(environment, now, dimension))
            for title, dimension in (("Users", "user"), ("Features", "feature"), ("Models", "model"))
        ],
    }


def _tightest_first(found: list[Standing]) -> list[Standing]:
    return sorted(found, key=lambda standing: standing.urgency, reverse=True)


def _limit(standing: Standing, now: datetime) -> LimitRow:
    limit, bar = standing.limit, standing.bar
    return LimitRow(
        words=wording.limit_of(limit.metric, limit.window, limit.per, limit.amount),
        policy=standing.policy.name,
        url=reverse("admin:policies_policy_change", args=[standing.policy.pk]),
        bar=bar,
        says=standing_wording.says(standing),
        left="" if bar is None else wording.number(limit.metric, bar.left),
        crowd=standing_wording.crowd(standing),
        resets_at=standing.resets_at,
        resets=_resets(standing, now),
        watched=standing.watched,
    )


def _resets(standing: Standing, now: datetime) -> str:
    """`in 9 h 28 min`"""
    if standing.resets_at is None:
        return "as calls end" if standing.limit.metric is Metric.CONCURRENCY else "never"
    return f"in {wording.duration(max(0, int((standing.resets_at - now).total_seconds())))}"


def _chips(environment: Environment, found: list[Standing], now: datetime) -> list[Chip]:
    policies = reverse("admin:policies_policy_changelist")
    enforced = [standing for standing in found if not standing.watched]
    full, near = sum(standing.full for standing in enforced), sum(standing.near for standing in enforced)
    unpriced = _unpriced(environment, now)
    frozen = len(environment.frozen_features)
    boosted = boosts.current(environment.pk).exclude(starts_at__gt=now).count()
    chips = [
        (environment.frozen, State.FROZEN, "Everything is frozen", reverse("admin:freeze")),
        (
            frozen,
            State.FROZEN,
            _counted(frozen, "feature frozen", "features frozen"),
            reverse("admin:freeze"),
        ),
        (full, State.FULL, _counted(full, "at a limit", "at a limit"), policies),
        (near, State.NEAR, _counted(near, "near a limit", "near a limit"), policies),
        (
            boosted,
            State.BOOSTED,
            _counted(boosted, "boost running", "boosts running"),
            reverse("admin:policies_boost_changelist"),
        ),
        (
            unpriced,
            State.NEAR,
            f"Without a price: {', '.join(unpriced[:3])}",
            f"{reverse('admin:usage_modelprice_add')}?model={quote(unpriced[0])}" if unpriced else "",
        ),
    ]
    return [Chip(state, text, url) for shown, state, text, url in chips if shown]


def _counted(number: int, one: str, many: str) -> str:
    return f"{wording.count(number)} {one if number == 1 else many}"


def _unpriced(environment: Environment, now: datetime) -> list[str]:
    """Models that were used lately and have no price, by their names."""
    query = SummaryQuery(from_=now - UNPRICED_SINCE, to=now, group_by="model")
    found = totals.summarize(environment.pk, query, now, ZoneInfo(environment.tenant.timezone))
    return [group.model for group in found.groups if group.unpriced and group.model]


def _changes(request: HttpRequest, environment: Environment, now: datetime) -> list[Change] | None:
    """The latest of the last day, of this environment or the whole tenant. None: the person may not see the log."""
    if not may(request, May.SEE_AUDIT, environment.tenant_id):
        return None
    latest = Entry.objects.filter(tenant_id=environment.tenant_id).order_by("-seq")[:CHANGES_READ]
    here = [
        entry
        for entry in latest
        if entry.at >= now - CHANGED_SINCE and entry.data.get("environment") in (None, environment.slug)
    ]
    return [
        Change(entry.at, audit_wording.sentence(entry), reverse("admin:audit_entry_change", args=[entry.pk]))
        for entry in here[:CHANGES_SHOWN]
    ]
