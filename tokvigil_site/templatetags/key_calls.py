"""`{% load key_calls %}`: what became of a key's calls, for its page, which an app below draws."""

from __future__ import annotations

from typing import Any

from django import template
from django.utils import timezone

from tenants.models import ApiKey
from tokvigil_site.console import key_calls as calls

register = template.Library()


@register.inclusion_tag("console/key_calls.html")
def key_calls(key: ApiKey) -> dict[str, Any]:
    found = calls.of(key, timezone.now())
    return {"key": key, "calls": found, "rows": [found.recorded, found.blocked], "periods": calls.PERIODS}
