"""Finds what a person has in hand: the id of a user, a request or a key, the name of a policy, plan, feature or model.

What callers name is matched whole, capitals included, as its index has it; what the staff named, also by how it begins.
A constant number of queries, whatever is stored. Calls in flight are found by their user and by their request, in the
environment that is shown alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

from django.db import DatabaseError, connection
from django.db.models import Exists, Model, OuterRef, Q, QuerySet
from django.utils import timezone

from policies.blocked.decision_listing import store_newest
from policies.models import BlockedDecision, EndUser, Plan, Policy
from tenants.models import ApiKey, Environment
from usage.counting import in_flight
from usage.counting.in_flight import CallInFlight
from usage.ledger import sums
from usage.ledger.leading import at_most
from usage.ledger.models import UsageEvent
from usage.prices import stored_book
from usage.prices.cost import Price

logger = logging.getLogger("tokvigil.policies")

# Of each kind.
FOUND_MAX = 10
# Of a user, the newest.
BLOCKS_MAX = 200
# Shorter beginnings of a key's id are in too many.
KEY_BEGINNING_MIN = 4
MODEL_CALLED_SINCE = timedelta(days=30)
LEDGER_MS_MAX = 800
Row = TypeVar("Row", bound=Model)


class Kind(StrEnum):
    USER = "user"
    REQUEST = "request"
    KEY = "API key"
    POLICY = "policy"
    PLAN = "plan"
    FEATURE = "feature"
    MODEL = "model"


# Who knows an exact id or name: the model and its column. An index of each begins with the environment.
_KNOWN_BY: dict[Kind, tuple[tuple[type[Model], str], ...]] = {
    Kind.USER: ((EndUser, "user_id"), (UsageEvent, "user_id"), (BlockedDecision, "user_id")),
    Kind.REQUEST: ((UsageEvent, "request_id"), (BlockedDecision, "request_id")),
    Kind.KEY: ((ApiKey, "key_id"),),
    Kind.POLICY: ((Policy, "name"),),
    Kind.PLAN: ((Plan, "name"),),
    Kind.FEATURE: ((UsageEvent, "feature"), (BlockedDecision, "feature")),
    # The ledger has no index by model: `_model_was_called` asks its sums.
    Kind.MODEL: ((BlockedDecision, "model"),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Which kinds of things have exactly this id or name in an environment, and of which of them calls were blocked."""

    environment: Environment
    kinds: tuple[Kind, ...]
    blocked: frozenset[Kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Of a user for one reason: the latest, and how many there are; `or_more`: among the newest BLOCKS_MAX alone."""

    latest: BlockedDecision
    count: int
    or_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """In one environment. `text` is what was looked for, `price` what a model of this name costs there."""

    text: str
    known: Known
    decisions: Sequence[BlockedDecision]
    events: Sequence[UsageEvent]
    keys: Sequence[ApiKey]
    policies: Sequence[Policy]
    plans: Sequence[Plan]
    price: Price | None
    model_was_called: bool
    # Of the user of this id, the latest first; each reason once.
    blocks: Sequence[Blocks]
    # Calls in flight of the user of this id, and that of the request of this id.
    in_flight: Sequence[CallInFlight]
    request_in_flight: Sequence[CallInFlight]

    @property
    def is_user(self) -> bool:
        return bool(self.in_flight) or Kind.USER in self.known.kinds

    @property
    def is_feature(self) -> bool:
        """A feature can be frozen before it is ever called."""
        return Kind.FEATURE in self.known.kinds or self.text in self.known.environment.frozen_features

    @property
    def is_model(self) -> bool:
        return self.price is not None or self.model_was_called or Kind.MODEL in self.known.kinds

    @property
    def is_empty(self) -> bool:
        stored = (
            self.known.kinds or self.keys or self.policies or self.plans or self.is_feature or self.is_model
        )
        return not (stored or self.in_flight or self.request_in_flight)


def find(environment: Environment, text: str) -> Found:
    """As it was typed; if there is no such thing, without the spaces around it, which come along when it is copied."""
    store_newest(environment.pk)
    found = _find(environment, text)
    bare = text.strip()
    return _find(environment, bare) if found.is_empty and bare and bare != text else found


def elsewhere(environments: Iterable[Environment], text: str) -> list[Known]:
    """Those of the environments in which something has exactly this id or name."""
    return [known for known in _known(environments, text.strip()) if known.kinds]


def _find(environment: Environment, text: str) -> Found:
    (known,) = _known([environment], text)
    match = stored_book.of_environment(environment).find(text, timezone.now())
    return Found(
        text=text,
        known=known,
        decisions=_first(_of_request(BlockedDecision, environment, text).order_by("-id")),
        events=_first(_of_request(UsageEvent, environment, text)),
        keys=_first(environment.api_keys.filter(_of_key(text) | _begins(text))),
        policies=_first(environment.policies.filter(_begins(text)).order_by("archived_at", "name")),
        plans=_first(environment.plans.filter(_begins(text))),
        price=None if match is None else match.price,
        model_was_called=_model_was_called(environment, text),
        blocks=_blocks(environment, text),
        in_flight=in_flight.of_user(environment.pk, text),
        request_in_flight=in_flight.of_request(environment.pk, text),
    )


def _blocks(environment: Environment, user_id: str) -> list[Blocks]:
    of_user = BlockedDecision.objects.filter(environment=environment, user_id=user_id)
    newest = list(of_user.order_by("-id")[:BLOCKS_MAX])
    of_reasons: dict[str, list[BlockedDecision]] = {}
    for decision in newest:
        of_reasons.setdefault(decision.reason_code, []).append(decision)
    or_more = len(newest) == BLOCKS_MAX
    return [
        # A request that was asked for again is one call.
        Blocks(latest=found[0], count=len({each.request_id for each in found}), or_more=or_more)
        for found in of_reasons.values()
    ]


def _known(environments: Iterable[Environment], text: str) -> list[Known]:
    """One query."""
    ways = [(kind, model, column) for kind, pairs in _KNOWN_BY.items() for model, column in pairs]
    values = {**dict.fromkeys(column for _, _, column in ways), "key_id": _key_id(text)}
    exists = {
        f"way_{number}": Exists(
            model._base_manager.filter(environment=OuterRef("pk"), **{column: values[column] or text})
        )
        for number, (_, model, column) in enumerate(ways)
    }
    asked = Environment.objects.filter(pk__in=[each.pk for each in environments])
    found = []
    for environment in asked.select_related("tenant").annotate(**exists):
        true = [way for number, way in enumerate(ways) if getattr(environment, f"way_{number}")]
        found.append(
            Known(
                environment=environment,
                kinds=tuple(dict.fromkeys(kind for kind, _, _ in true)),
                blocked=frozenset(kind for kind, model, _ in true if model is BlockedDecision),
            )
        )
    return found


def _key_id(text: str) -> str:
    """Also of the beginning of a key, as lists show it: `tv_prod_aB3dE5…`."""
    parts = text.removesuffix("…").split("_")
    return parts[2] if len(parts) > 2 and parts[0] == "tv" and parts[2] else text


def _of_key(text: str) -> Q:
    key_id = _key_id(text)
    return Q(key_id__startswith=key_id) if len(key_id) >= KEY_BEGINNING_MIN else Q(key_id=key_id)


def _model_was_called(environment: Environment, model: str) -> bool:
    """Lately. False too if it takes too long to find out."""
    now = timezone.now()
    used = sums.used(environment.pk, [now - MODEL_CALLED_SINCE, now + timedelta(days=1)], ["model"])
    try:
        with at_most(LEDGER_MS_MAX), connection.cursor() as cursor:
            cursor.execute(
                f"SELECT EXISTS (SELECT FROM ({used.sql}) AS used WHERE model = %s)",  # noqa: S608 (our own names)
                [*used.values, model],
            )
            return bool(cursor.fetchone()[0])
    except DatabaseError as error:
        logger.warning("calls of a model in environment %s: %s", environment.pk, error)
        return False


def _of_request(model: type[Row], environment: Environment, text: str) -> QuerySet[Row]:
    return model._base_manager.filter(environment=environment, request_id=text)


def _begins(text: str) -> Q:
    return Q(name__istartswith=text)


def _first(rows: QuerySet[Row]) -> list[Row]:
    return list(rows[:FOUND_MAX])
