"""Since when a change that was just published binds every call."""

from __future__ import annotations

from datetime import UTC, datetime

from django.utils import timezone

from tenants import revisions
from tenants.models import Environment


def said(environment: Environment) -> str:
    """A sentence. Call once the change is committed: from then on the counter store refuses what was in force before.

    The moment is that of this call, which is a little later than the change took effect.
    """
    standing, now = revisions.standing(environment), datetime.now(UTC)
    if not standing.in_force:
        return f"Published, but {standing}."
    delay = max(0.0, (now - standing.revised_at).total_seconds())
    return (
        f"In force everywhere since {timezone.localtime(now):%H:%M:%S}, {delay:.1f} s after it was published."
    )
