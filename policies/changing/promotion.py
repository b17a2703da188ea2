"""Copying policies to another environment of the tenant, as from dev to staging to prod."""

from __future__ import annotations

from django.db import transaction

from policies import policy_rows
from policies.changing import publishing
from policies.changing.publishing import Change
from policies.files.documents import DEPLOYMENTS_MAX
from policies.files.file_errors import refused
from policies.rules import PolicySet
from tenants.models import Environment


def wanted(
    source: Environment,
    target: Environment,
    *,
    name: str | None = None,
    archive: bool = False,
    deployments: bool = False,
) -> PolicySet:
    """What the target has after copying all policies and plans, or the one policy of this name with its plan.

    What only the target has stays; with `archive` it goes, if all are copied. `deployments`: these are copied too.
    Raises PolicyFileError for too many of them.
    """
    theirs, present = policy_rows.policy_set(source), policy_rows.policy_set(target)
    copied = {rule.name: rule for rule in theirs.policies if name in (None, rule.name)}
    named = tuple(rule.scope.plan for rule in copied.values() if rule.scope.plan)
    plans = theirs.plans if name is None else named
    named_models = _deployments(theirs, present, archive=archive) if deployments and name is None else None
    if archive and name is None:
        return PolicySet(plans=plans, deployments=named_models, policies=tuple(copied.values()))
    # In the order of the target, so that the older policy still wins there.
    kept = [copied.pop(rule.name, rule) for rule in present.policies]
    return PolicySet(
        plans=tuple(dict.fromkeys((*present.plans, *plans))),
        deployments=named_models,
        policies=(*kept, *copied.values()),
    )


def _deployments(theirs: PolicySet, present: PolicySet, *, archive: bool) -> tuple[tuple[str, str], ...]:
    """A name in another case is the same name, and is written as in the source."""
    copied = theirs.deployments or ()
    names = {name.lower() for name, _ in copied}
    kept = () if archive else (each for each in present.deployments or () if each[0].lower() not in names)
    found = tuple(sorted((*copied, *kept)))
    if len(found) > DEPLOYMENTS_MAX:
        raise refused("deployments", f"there would be {len(found)}; at most {DEPLOYMENTS_MAX} are allowed")
    return found


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
    deployments: bool = False,
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
        chosen = wanted(ours, theirs, name=name, archive=archive, deployments=deployments)
        return publishing.publish(theirs, chosen, actor=actor, note=said)
