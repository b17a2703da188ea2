"""The emergency brake: blocks every call of an environment, or of some features, from the next one on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from audit import log as audit_log
from tenants import revisions
from tenants.lengths import REASON_LENGTH_MAX
from tenants.models import Environment

# So that an audit entry can hold the names before and after, even if every character is escaped.
AUDITED_NAMES_LENGTH_MAX = 10_000


# Whether all is frozen, and which features are.
_State = tuple[bool, set[str]]


@dataclass(frozen=True, slots=True)
class Freeze:
    """Of a feature; "": of the environment. What is not known of it is empty."""

    feature: str
    reason: str
    by: str
    since: datetime | None

    @property
    def seen(self) -> str:
        """Tells this freeze from a later one of the same."""
        return "" if self.since is None else self.since.isoformat()


def in_force(environment: Environment) -> list[Freeze]:
    """That of the whole environment first."""
    frozen = [*([""] if environment.frozen else []), *environment.frozen_features]
    return [_freeze(feature, environment.frozen_because.get(feature, {})) for feature in frozen]


def _freeze(feature: str, because: dict[str, str]) -> Freeze:
    since = because.get("since")
    return Freeze(
        feature=feature,
        reason=because.get("reason", ""),
        by=because.get("by", ""),
        since=None if since is None else datetime.fromisoformat(since),
    )


def freeze(
    environment: Environment, *, features: Iterable[str] | None = None, reason: str = "", actor: str
) -> Environment:
    """Blocks these features, or without features the whole environment. Returns it as it is then.

    What is frozen already keeps its reason. Raises ValidationError for a name that no feature can have, for too many
    features and for too long a reason.
    """
    because = _new_because(reason, actor)
    with audit_log.acting_as(actor), transaction.atomic():
        current = Environment.lock(environment.pk)
        if features is None:
            return _put(current, frozen=True, features=current.frozen_features, because=because)
        frozen = [*current.frozen_features, *features]
        return _put(current, frozen=current.frozen, features=frozen, because=because)


def unfreeze(environment: Environment, *, features: Iterable[str] | None = None, actor: str) -> Environment:
    """Undoes `freeze` with the same arguments. Unfreezing the environment leaves its frozen features frozen."""
    with audit_log.acting_as(actor), transaction.atomic():
        current = Environment.lock(environment.pk)
        if features is None:
            return _put(current, frozen=False, features=current.frozen_features)
        return _put(current, frozen=current.frozen, features={*current.frozen_features} - {*features})


def unfreeze_seen(environment: Environment, feature: str, seen: str, *, actor: str) -> bool:
    """Undoes one freeze, "" that of the environment, if it is still the one that was `seen`. Whether it did."""
    with transaction.atomic():
        current = Environment.lock(environment.pk)
        if not any(each.feature == feature and each.seen == seen for each in in_force(current)):
            return False
        unfreeze(current, features=[feature] if feature else None, actor=actor)
    return True


def set_frozen(
    environment: Environment,
    *,
    frozen: bool | None = None,
    features: Iterable[str] | None = None,
    reason: str = "",
    actor: str,
) -> Environment:
    """Sets exactly this state; None leaves a part as it is. The reason is that of what was not frozen before.

    Raises as `freeze` does.
    """
    because = _new_because(reason, actor)
    with audit_log.acting_as(actor), transaction.atomic():
        current = Environment.lock(environment.pk)
        return _put(
            current,
            frozen=current.frozen if frozen is None else frozen,
            features=current.frozen_features if features is None else features,
            because=because,
        )


def _new_because(reason: str, actor: str) -> dict[str, str]:
    if len(reason) > REASON_LENGTH_MAX:
        raise ValidationError({"reason": f"Give {REASON_LENGTH_MAX} characters at most."})
    return {"reason": reason, "by": actor, "since": timezone.now().isoformat()}


def _put(
    current: Environment, *, frozen: bool, features: Iterable[str], because: dict[str, str] | None = None
) -> Environment:
    before = current.frozen, set(current.frozen_features)
    current.frozen, current.frozen_features = frozen, sorted(set(features))
    now = current.frozen, set(current.frozen_features)
    if now == before:
        return current
    blocks_more = now[0] > before[0] or bool(now[1] - before[1])
    if blocks_more:
        current.clean_fields()
    current.frozen_because = _because(current, before, because)
    current.save(update_fields=["frozen", "frozen_features", "frozen_because"])
    revisions.bump(current.pk, policies=False)
    audit_log.log(
        "environment.frozen" if blocks_more else "environment.unfrozen",
        current,
        tenant_id=current.tenant_id,
        changes=_audited(before, now),
        **({"reason": because["reason"]} if blocks_more and because and because["reason"] else {}),
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


def _because(
    current: Environment, before: tuple[bool, set[str]], because: dict[str, str] | None
) -> dict[str, dict[str, str]]:
    """What was frozen before keeps what is known of it."""
    was_frozen = {*([""] if before[0] else []), *before[1]}
    found = {}
    for each in in_force(current):
        known = current.frozen_because.get(each.feature) if each.feature in was_frozen else because
        if known:
            found[each.feature] = known
    return found
