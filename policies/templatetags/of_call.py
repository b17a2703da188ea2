"""`{% load of_call %}`: what allowed a call of the ledger, for its page, which an app below draws."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from django import template
from django.utils import timezone

from policies.standing import of_call
from usage.ledger.models import UsageEvent

register = template.Library()


@register.inclusion_tag("console/of_call.html")
def allowed_by(event: UsageEvent) -> dict[str, Any]:
    zone = ZoneInfo(event.environment.tenant.timezone)
    return {"event": event, "found": of_call.of_call(event, zone), "now": timezone.now()}


@register.filter
def policy_name(event: UsageEvent) -> str:
    return of_call.policy_name(event)
