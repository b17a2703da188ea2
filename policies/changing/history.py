"""The versions of a policy: what each changed, and going back to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q

from policies.changing import publishing
from policies.describing import differences
from policies.files import documents
from policies.files.file_errors import refused
from policies.models import Plan, Policy, PolicyVersion
from policies.rules import PolicyRule
from tenants.models import Environment

VERSIONS_MAX = 200
POLICIES_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A version, and what it changed. `until` is when the next one came; None: it is the latest.

    `as_in_force`: it says the same as what is in force.
    """

    version: PolicyVersion
    changed: str
    until: datetime | None
    as_in_force: bool

    @property
    def number(self) -> int:
        return self.version.version

    @property
    def title(self) -> str:
        return f"Version {self.number}"

    @property
    def archived(self) -> bool:
        return self.version.document is None


def rule_at(version: PolicyVersion | None) -> PolicyRule | None:
    """None: it archived the policy, or there is no such version."""
    if version is None or version.document is None:
        return None
    return documents.rule_of(version.document)


def latest(policies: Sequence[Policy]) -> dict[UUID, PolicyVersion]:
    """The version that each of them is at; one query."""
    found = PolicyVersion.objects.filter(policy__in=policies, version=F("policy__version"))
    return {version.policy_id: version for version in found}


def latest_of_plans(environment_id: int, plans: Sequence[str]) -> dict[str, PolicyVersion]:
    """Of each plan the last change of a policy that names it, in force or archived, with the policy; one query."""
    found = (
        PolicyVersion.objects.filter(policy__environment=environment_id, policy__scope_plan__in=plans)
        .order_by("policy__scope_plan", "-created_at", "-version")
        .distinct("policy__scope_plan")
    )
    return {version.policy.scope_plan: version for version in found.select_related("policy")}


def of_plan(plan: Plan) -> list[Policy]:
    """The policies that are for the plan, or were in an earlier version; the oldest POLICIES_MAX."""
    was_for_it = PolicyVersion.objects.filter(
        policy__environment=plan.environment_id, document__scope__plan=plan.name
    )
    policies = Policy.objects.filter(environment=plan.environment_id)
    named = policies.filter(Q(scope_plan=plan.name) | Q(pk__in=was_for_it.values("policy")))
    return list(named.order_by("ordinal")[:POLICIES_MAX])


def steps(policy: Policy) -> tuple[Step, ...]:
    """The latest VERSIONS_MAX, the newest first; one query."""
    newest_first = list(policy.versions.select_related("draft").order_by("-version")[: VERSIONS_MAX + 1])
    rules = [rule_at(version) for version in newest_first]
    in_force = rules[0] if rules else None
    # The first version of all has none before it.
    befores = [*rules[1:], None]
    untils = [None, *(version.created_at for version in newest_first)]
    found = [
        Step(
            version=version,
            changed=differences.summary(before, rule),
            until=until,
            as_in_force=in_force is not None and differences.same(in_force, rule),
        )
        for version, rule, before, until in zip(newest_first, rules, befores, untils, strict=False)
    ]
    return tuple(found[:VERSIONS_MAX])


def roll_back(policy: Policy, number: int, *, opened_version: int, actor: str, note: str = "") -> Policy:
    """Makes what version `number` said the newest version, also of an archived policy, which is then in force again.

    `opened_version` is the latest that whoever decided this had seen; `note` says why. Raises PolicyFileError, also if
    another one was published meanwhile or the version has no content, and PolicyVersion.DoesNotExist.
    """
    rule = rule_at(policy.versions.get(version=number))
    if rule is None:
        raise refused("", f"version {number} archived the policy, so there is nothing to go back to")
    with transaction.atomic():
        Environment.lock(policy.environment_id)
        policy.refresh_from_db()
        if policy.version != opened_version:
            raise refused(
                "", f"version {policy.version} was published meanwhile; look at what would change now"
            )
        return publishing.publish_one(
            policy.environment, rule, actor=actor, note=note, policy_id=policy.pk, restores=number
        )
