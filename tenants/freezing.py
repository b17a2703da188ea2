"""The emergency brake: blocks every call of an environment, or of some features, from the next one on."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction

from audit import log as audit_log
from tenants import revisions
from tenants.models import Environment

# So that an audit entry can hold the names before and after, even if every character is escaped.
AUDITED_NAMES_LENGTH_MAX = 10_000


# Whether all is frozen, and which features are.
_State = tuple[bool, set[str]]


def freeze(environment: Environment, *, features: Iterable[str] | None = None, actor: str) -> Environment:
    """Blocks these features, or without features the whole environment. Returns it as it is then.

    Raises ValidationError for a name that no feature can have, and for too many features.
    """
    with audit_log.acting_as(actor), transaction.atomic():
        current = Environment.lock(environment.pk)
        if features is None:
            return _put(current, frozen=True, features=current.frozen_features)
        return _put(current, frozen=current.frozen, features=[*current.frozen_features, *features])


def unfreeze(environment: Environment, *, features: Iterable[str] | None = None, actor: str) -> Environment:
    """Undoes `freeze` with the same arguments. Unfreezing the environment leaves its frozen features frozen."""
    with audit_log.acting_as(actor), transaction.atomic():
        current = Environment.lock(environment.pk)
        if features is None:
            return _put(current, frozen=False, features=current.frozen_features)
        return _put(current, frozen=current.frozen, features={*current.frozen_features} - {*features})


def set_frozen(
    environment: Environment,
    *,
    frozen: bool | None = None,
    features: Iterable[str] | None = None,
    actor: str,
) -> Environment:
    """Sets exactly this state; None leaves a part as it is. Raises as `freeze` does."""
    with audit_log.acting_as(actor), transaction.atomic():
        current = Environment.lock(environment.pk)
        return _put(
            current,
            frozen=current.frozen if frozen is None else frozen,
            features=current.frozen_features if features is None else features,
        )


def _put(current: Environment, *, frozen: bool, features: Iterable[str]) -> Environment:
    before = current.frozen, set(current.frozen_features)
    current.frozen, current.frozen_features = frozen, sorted(set(features))
    now = current.frozen, set(current.frozen_features)
    if now == before:
        return current
    blocks_more = now[0] > before[0] or bool(now[1] - before[1])
    if blocks_more:
        current.clean_fields()
    current.save(update_fields=["frozen", "frozen_features"])
    revisions.bump(current.pk, policies=False)
    audit_log.log(
        "environment.frozen" if blocks_more else "environment.unfrozen",
        current,
        tenant_id=current.tenant_id,
        changes=_audited(before, now),
    )
    return current


def _audited(before: _State, now: _State) -> dict[str, dict[str, object]]:
    """Many names are cut."""
    length = AUDITED_NAMES_LENGTH_MAX // max(1, len(before[1]) + len(now[1]))
    both = [
        {"frozen": frozen, "frozen_features": sorted(name[:length] for name in features)}
        for frozen, features in (before, now)
    ]
    return audit_log.changes(*both)
