"""Users and features that were seen, in calls or in policies. A name that was not is often misspelt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches

from django.db.models import Model
from django.utils import timezone

from policies.blocked.decision_listing import store_newest
from policies.changing.known_names import known_names
from policies.models import BlockedDecision, EndUser, Policy
from tenants.models import Environment
from usage.amounts import Per
from usage.counting import in_flight
from usage.ledger.models import UsageEvent

# Calls that are looked through for who called lately, recorded and blocked ones each.
LATEST_MAX = 500
LATELY = timedelta(days=40)
# Names that are looked up one by one.
LOOKED_UP_MAX = 20
ALIKE_MAX = 3

# Who knows a name, by an index that begins with the environment.
_KNOWN_BY: dict[Per, tuple[tuple[type[Model], str], ...]] = {
    Per.USER: (
        (EndUser, "user_id"),
        (UsageEvent, "user_id"),
        (BlockedDecision, "user_id"),
        (Policy, "scope_user"),
    ),
    Per.FEATURE: ((UsageEvent, "feature"), (BlockedDecision, "feature"), (Policy, "scope_feature")),
}


@dataclass(frozen=True, slots=True)
class Unseen:
    """A name that no call and no policy has. `alike`: those that were seen and look like it."""

    per: Per
    name: str
    alike: tuple[str, ...]

    @property
    def says(self) -> str:
        of = "of the user" if self.per is Per.USER else "of the feature"
        meant = " or ".join(f"“{name}”" for name in self.alike)
        question = f" Did you mean {meant}?" if self.alike else ""
        return f"No call {of} “{self.name}” was seen here, and no policy names it.{question}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called lately. `plan` is that of the latest call."""

    user_id: str
    plan: str
    at: datetime


def unseen(environment: Environment, per: Per, names: Iterable[str]) -> list[Unseen]:
    """Those of these users or features that were never seen, as far as calls are kept; LOOKED_UP_MAX at most."""
    asked = [name for name in dict.fromkeys(names) if name and "\x00" not in name][:LOOKED_UP_MAX]
    if not asked or per not in _KNOWN_BY:
        return []
    store_newest(environment.pk)
    missing = [name for name in asked if not _is_known(environment, per, name)]
    if missing:
        flying = _in_flight(environment, per)
        missing = [name for name in missing if name not in flying]
    if not missing:
        return []
    known = _names(environment, per)
    return [Unseen(per, name, tuple(_alike(name, known))) for name in missing]


def alike(environment: Environment, text: str) -> list[str]:
    """Names of policies, plans, and of users, features and models seen lately that look like it; ALIKE_MAX at most."""
    known = known_names(environment)
    policies = environment.policies.filter(archived_at=None).values_list("name", flat=True)
    names = {*policies, *known.features, *known.models_called, *known.plans}
    return _alike(text, names | {each.user_id for each in callers(environment.pk)})


def callers(environment_id: int) -> list[Caller]:
    """Of the latest LATEST_MAX recorded and as many blocked calls, the latest first; two queries."""
    store_newest(environment_id)
    since = timezone.now() - LATELY
    calls = UsageEvent.objects.filter(environment_id=environment_id, charged_at__gte=since)
    blocks = BlockedDecision.objects.filter(environment_id=environment_id, decided_at__gte=since)
    found = [
        Caller(*row)
        for row in (
            *calls.order_by("-charged_at", "-id").values_list("user_id", "plan", "charged_at")[:LATEST_MAX],
            *blocks.order_by("-id").values_list("user_id", "plan", "decided_at")[:LATEST_MAX],
        )
    ]
    latest: dict[str, Caller] = {}
    for each in sorted(found, key=lambda each: each.at, reverse=True):
        latest.setdefault(each.user_id, each)
    return list(latest.values())


def _is_known(environment: Environment, per: Per, name: str) -> bool:
    return any(
        model._base_manager.filter(environment=environment, **{column: name}).exists()
        for model, column in _KNOWN_BY[per]
    )


def _in_flight(environment: Environment, per: Per) -> set[str | None]:
    return {call.evaluated.subjects.name(per) for call in in_flight.latest(environment.pk)}


def _names(environment: Environment, per: Per) -> set[str]:
    """Those to compare with: a bounded number."""
    of_policies = set(
        environment.policies.in_force(environment.pk).values_list(f"scope_{per.value}", flat=True)
    ) - {""}
    if per is Per.FEATURE:
        return of_policies | {*known_names(environment).features}
    return of_policies | {each.user_id for each in callers(environment.pk)}


def _alike(name: str, known: set[str]) -> list[str]:
    """First what differs in capitals and spaces alone."""
    bare = {each: each.strip().casefold() for each in sorted(known)}
    same = [each for each, text in bare.items() if text == name.strip().casefold()]
    return (same or get_close_matches(name, sorted(known), n=ALIKE_MAX))[:ALIKE_MAX]
