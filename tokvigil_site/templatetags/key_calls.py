"""`{% load key_calls %}`: what became of a key's calls, for its page, which an app below draws."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from django import template
from django.utils import timezone

from policies.describing import calls_in_flight
from tenants.models import ApiKey
from tokvigil_site.console import key_calls as calls

register = template.Library()


@register.inclusion_tag("console/key_calls.html")
def key_calls(key: ApiKey) -> dict[str, Any]:
    found, zone = calls.of(key, timezone.now()), ZoneInfo(key.environment.tenant.timezone)
    return {
        "key": key,
        "calls": found,
        "in_flight_says": calls_in_flight.says(found.in_flight, zone),
        "rows": [found.recorded, found.blocked],
        "periods": calls.PERIODS,
    }
