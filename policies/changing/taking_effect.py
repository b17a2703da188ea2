"""Since when a change that was just published binds every call."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from django.utils import timezone

from tenants import revisions
from tenants.models import Environment


@dataclass(frozen=True, slots=True)
class Effect:
    """`since` is None while it is not known to bind every call. `says` is a sentence."""

    since: datetime | None
    says: str

    def __str__(self) -> str:
        return self.says


def of(environment: Environment) -> Effect:
    """Call once the change is committed: from then on the counter store refuses what was in force before.

    The moment is that of this call, which is a little later than the change took effect.
    """
    standing, now = revisions.standing(environment), datetime.now(UTC)
    if not standing.in_force:
        return Effect(None, f"Published, {standing.from_when}.")
    delay = max(0.0, (now - standing.revised_at).total_seconds())
    since = f"{timezone.localtime(now):%H:%M:%S}"
    return Effect(now, f"In force everywhere since {since}, {delay:.1f} s after it was published.")
