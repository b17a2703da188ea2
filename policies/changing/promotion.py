"""Copying policies to another environment of the tenant, as from dev to staging to prod."""

from __future__ import annotations

from django.db import transaction

from policies import policy_rows
from policies.changing import publishing
from policies.changing.publishing import Change
from policies.files.file_errors import refused
from policies.rules import PolicySet
from tenants.models import Environment


def wanted(
    source: Environment, target: Environment, *, name: str | None = None, archive: bool = False
) -> PolicySet:
    """What the target has after copying all policies and plans, or the one policy of this name with its plan.

    What only the target has stays; with `archive` it goes, if all are copied.
    """
    theirs, present = policy_rows.policy_set(source), policy_rows.policy_set(target)
    copied = {rule.name: rule for rule in theirs.policies if name in (None, rule.name)}
    named = tuple(rule.scope.plan for rule in copied.values() if rule.scope.plan)
    plans = theirs.plans if name is None else named
    if archive and name is None:
        return PolicySet(plans=plans, policies=tuple(copied.values()))
    # In the order of the target, so that the older policy still wins there.
    kept = [copied.pop(rule.name, rule) for rule in present.policies]
    return PolicySet(plans=tuple(dict.fromkeys((*present.plans, *plans))), policies=(*kept, *copied.values()))


def only_in_target(source: Environment, target: Environment) -> list[str]:
    """The policies that the source lacks."""
    names = {rule.name for rule in policy_rows.policy_set(source).policies}
    return [rule.name for rule in policy_rows.policy_set(target).policies if rule.name not in names]


def seen(source: Environment, target: Environment) -> str:
    """Names what both had when somebody looked."""
    return f"{source.policies_token} {target.policies_token}"


def promote(
    source: Environment,
    target: Environment,
    *,
    looked_at: str,
    actor: str,
    note: str = "",
    name: str | None = None,
    archive: bool = False,
) -> tuple[Change, ...]:
    """Publishes `wanted` in the target. `looked_at` is `seen` of when it was decided.

    Raises PolicyFileError, also if either was changed since.
    """
    if source.tenant_id != target.tenant_id:
        raise refused("", "the other environment belongs to another tenant")
    said = f"{note} (copied from {source.slug})" if note else f"Copied from {source.slug}"
    with transaction.atomic():
        first, second = (Environment.lock(pk) for pk in sorted((source.pk, target.pk)))
        ours, theirs = (first, second) if first.pk == source.pk else (second, first)
        if looked_at != seen(ours, theirs):
            raise refused("", "policies were changed meanwhile; look at what would change now")
        return publishing.publish(
            theirs, wanted(ours, theirs, name=name, archive=archive), actor=actor, note=said
        )
