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
from policies.admin.alerts import STANDING
from policies.standing import limit_rows
from policies.standing.limit_rows import LimitRow
from policies.standing.standings import Standing, standings
from tenants.console import environments
from tenants.console.access import may
from tenants.console.parts import State
from tenants.models import Environment
from tenants.roles import May
from tokvigil_site.console.overview import checklist, figures
from usage import wording
from usage.ledger.unpriced import models_without_price

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
    zone = ZoneInfo(environment.tenant.timezone)
    found = standings(environment)
    asked = figures.OverviewAsked(request, environment, now)
    return {
        "environment": environment,
        "now": now,
        "asked": asked,
        **figures.context(asked),
        **_whole(asked),
        "chips": _chips(environment, found, now),
        **_limits(found, zone),
        "limit_count": len(found),
        "changes": _changes(request, environment, now),
    }


def _whole(asked: figures.OverviewAsked) -> dict[str, Any]:
    """What is said of the cards that no filter changes; of a filter by user, where the user's own limits are."""
    if not (asked.is_valid() and asked.filters):
        return {}
    user = asked.cleaned_data["user"]
    return {
        "whole": f"of the whole of {asked.environment}, whatever the filters",
        "only_user": user,
        "only_user_url": asked.user_url(user) if user else "",
    }


def _limits(found: list[Standing], zone: ZoneInfo) -> dict[str, Any]:
    """The tightest, and which runs out first, and for whom."""
    tightest, first = limit_rows.tightest_first(found)[:LIMITS_SHOWN], limit_rows.next_to_run_out(found)
    shown = {"limits": [LimitRow(each, zone) for each in tightest]}
    if first is None:
        return shown
    standing, subject = first
    return {
        **shown,
        "next_limit": LimitRow(standing, zone),
        "next_out": limit_rows.next_out(standing, subject, zone),
    }


def _chips(environment: Environment, found: list[Standing], now: datetime) -> list[Chip]:
    limits = f"{reverse('admin:limits')}?state="
    enforced = [standing for standing in found if not standing.watched]
    full, near = sum(standing.full for standing in enforced), sum(standing.near for standing in enforced)
    models = models_without_price(environment.pk, now - UNPRICED_SINCE, now)
    frozen = len(environment.frozen_features)
    boosted = boosts.current(environment.pk).exclude(starts_at__gt=now).count()
    alerts = environment.alerts.filter(ended_at=None).count()
    chips = [
        (environment.frozen, State.FROZEN, "Everything is frozen", reverse("admin:freeze")),
        (
            frozen,
            State.FROZEN,
            _counted(frozen, "feature frozen", "features frozen"),
            reverse("admin:freeze"),
        ),
        (full, State.FULL, _counted(full, "at a limit", "at a limit"), limits + limit_rows.FULL),
        (near, State.NEAR, _counted(near, "near a limit", "near a limit"), limits + limit_rows.NEAR),
        (
            alerts,
            State.NEAR,
            _counted(alerts, "alert not over yet", "alerts not over yet"),
            f"{reverse('admin:policies_alert_changelist')}?state={STANDING}",
        ),
        (
            boosted,
            State.BOOSTED,
            _counted(boosted, "boost running", "boosts running"),
            reverse("admin:policies_boost_changelist"),
        ),
        (
            models,
            State.NEAR,
            f"Without a price: {', '.join(models[:3])}",
            f"{reverse('admin:usage_modelprice_add')}?model={quote(models[0])}" if models else "",
        ),
    ]
    return [Chip(state, text, url) for shown, state, text, url in chips if shown]


def _counted(number: int, one: str, many: str) -> str:
    return f"{wording.count(number)} {one if number == 1 else many}"


def _changes(request: HttpRequest, environment: Environment, now: datetime) -> list[Change] | None:
    """The latest of the last day, of this environment or the whole tenant. None: the person may not see the log."""
    if not may(request, May.SEE_AUDIT, environment.tenant_id):
        return None
    latest = Entry.objects.filter(tenant_id=environment.tenant_id).order_by("-seq")[:CHANGES_READ]
    here = [entry for entry in latest if entry.at >= now - CHANGED_SINCE and _is_of(entry, environment)]
    return [
        Change(entry.at, audit_wording.sentence(entry), reverse("admin:audit_entry_change", args=[entry.pk]))
        for entry in here[:CHANGES_SHOWN]
    ]


def _is_of(entry: Entry, environment: Environment) -> bool:
    if entry.target_type == environment._meta.label_lower:
        return entry.target_id == str(environment.pk)
    return entry.data.get("environment") in (None, environment.slug)
