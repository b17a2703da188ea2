"""Names that a policy may mean: what exists in an environment, and what was seen in its calls lately."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from django.db import DatabaseError, connection
from django.utils import timezone

from policies.models import EndUser
from tenants.models import Environment
from usage.ledger import sums
from usage.ledger.leading import at_most
from usage.prices import stored_book

logger = logging.getLogger("tokvigil.policies")

SEEN_SINCE = timedelta(days=7)
# Of each kind, the most frequent.
SEEN_MAX = 200
USERS_MAX = 100
LEDGER_MS_MAX = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNames:
    """In the order of the alphabet. `seen`: whether the ledger could be asked in time."""

    users: tuple[str, ...]
    plans: tuple[str, ...]
    features: tuple[str, ...]
    # Priced or called, and those that were called.
    models: tuple[str, ...]
    models_called: tuple[str, ...]
    # Plans that somebody has or named.
    plans_used: frozenset[str]
    seen: bool


def known_names(environment: Environment) -> KnownNames:
    """A bounded number of rows and of queries."""
    sold = list(environment.plans.values_list("name", flat=True))
    held = set(environment.plans.filter(end_users__isnull=False).values_list("name", flat=True).distinct())
    users = EndUser.objects.filter(environment=environment).order_by("user_id")
    prices = [match.price for match in stored_book.load(environment.tenant_id).in_force(timezone.now())]
    priced = {name for price in prices for name in (price.model, *price.aliases)}
    seen = _seen(environment.pk)
    features, plans, models = seen or (set(), set(), set())
    return KnownNames(
        users=tuple(users.values_list("user_id", flat=True)[:USERS_MAX]),
        plans=tuple(sorted({*sold, *plans})),
        features=tuple(sorted(features)),
        models=tuple(sorted({*priced, *models})),
        models_called=tuple(sorted(models)),
        plans_used=frozenset(held | plans),
        seen=seen is not None,
    )


def _seen(environment_id: int) -> tuple[set[str], set[str], set[str]] | None:
    """Features, plans and models of calls. None: it takes too long to find out."""
    now = timezone.now()
    try:
        with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
            used = sums.used(
                environment_id, [now - SEEN_SINCE, now + timedelta(days=1)], ("feature", "plan", "model")
            )
            cursor.execute(
                f"""
                SELECT feature, plan, model FROM ({used.sql}) AS used GROUP BY feature, plan, model
                ORDER BY sum(events) DESC LIMIT %s
                """,  # noqa: S608 (our own names)
                [*used.values, SEEN_MAX],
            )
            rows = cursor.fetchall() or [("", "", "")]
    except DatabaseError as error:
        logger.warning("names seen in environment %s: %s", environment_id, error)
        return None
    features, plans, models = ({name for name in names if name} for names in zip(*rows, strict=True))
    return features, plans, models
