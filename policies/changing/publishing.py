"""Changing the policies of an environment. A file, the admin and the API all come through here.

One transaction under the environment's lock writes the rows, a version for each changed policy, the pairs to
count in, one new revision, and an audit entry for each change. What did not change is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Max, QuerySet
from django.utils import timezone

from audit import log as audit_log
from audit.models import ACTOR_LENGTH_MAX
from policies import policy_rows
from policies.describing import differences
from policies.files import documents, policy_file
from policies.files.documents import (
    DEPLOYMENTS_MAX,
    deployment_error,
    plan_name_error,
    unknown_plan,
)
from policies.files.file_errors import FileError, PolicyFileError
from policies.models import NOTE_LENGTH_MAX, Deployment, Draft, Limit, Plan, Policy, PolicyVersion
from policies.rules import (
    LIMITS_OF_A_CALL_MAX,
    Kind,
    Mode,
    PolicyRule,
    PolicySet,
    Scope,
    Weight,
    limits_of_a_call,
)
from tenants import revisions
from tenants.models import Environment
from usage.metrics import Metric
from usage.models import TrackedPair

# In the audit log, whose entries are bounded; the versions hold the whole.
AUDITED_DIFF_LENGTH_MAX = 10_000


class ChangeKind(StrEnum):
    ADDED = "added"
    CHANGED = "changed"
    ARCHIVED = "archived"
    REMOVED = "removed"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """A policy before and after; one of them may be missing. `policy_id` is None for one yet to be made.

    `restores`: the version whose content it takes up again.
    """

    before: PolicyRule | None
    after: PolicyRule | None
    version: int
    policy_id: UUID | None = None
    restores: int | None = None

    @property
    def kind(self) -> ChangeKind:
        if self.restores is not None:
            return ChangeKind.ROLLED_BACK
        if self.before is None:
            return ChangeKind.ADDED
        return ChangeKind.ARCHIVED if self.after is None else ChangeKind.CHANGED

    @property
    def name(self) -> str:
        rule = self.after or self.before
        return rule.name if rule else ""

    @property
    def diff(self) -> tuple[str, ...]:
        return policy_file.diff(self.before, self.after)

    def __str__(self) -> str:
        return f"policy {self.name!r}: {self.kind}, version {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    name: str
    kind: ChangeKind

    @property
    def diff(self) -> tuple[str, ...]:
        return ()

    def __str__(self) -> str:
        return f"plan {self.name!r}: {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentChange:
    """The model behind a name, before and after; None: the name is not there."""

    name: str
    before: str | None
    after: str | None

    @property
    def kind(self) -> ChangeKind:
        if self.before is None:
            return ChangeKind.ADDED
        return ChangeKind.REMOVED if self.after is None else ChangeKind.CHANGED

    @property
    def diff(self) -> tuple[str, ...]:
        return tuple(
            f"{sign}{self.name}: {model}" for sign, model in (("-", self.before), ("+", self.after)) if model
        )

    def __str__(self) -> str:
        return f"deployment {self.name!r}: {self.kind}"


Change = PolicyChange | PlanChange | DeploymentChange


NOUNS: dict[type[Change], str] = {PolicyChange: "policy", PlanChange: "plan", DeploymentChange: "deployment"}


def plan_changes(environment: Environment, wanted: PolicySet) -> tuple[Change, ...]:
    """What publishing this set would do, in the order in which it is done. Changes nothing.

    Raises PolicyFileError if a plan that end users have is not in it, and for more limits than a call can have.
    """
    present = {row.name: row for row in Policy.objects.in_force(environment.pk).prefetch_related("limits")}
    plans = set(environment.plans.values_list("name", flat=True))
    removed_plans = sorted(plans - set(wanted.plans))
    errors = (*_plan_users(environment, removed_plans), *_too_many_limits(map(Weight.of, wanted.policies)))
    if errors:
        raise PolicyFileError(*errors)
    names = {rule.name for rule in wanted.policies}
    return (
        *(PlanChange(name=name, kind=ChangeKind.ADDED) for name in wanted.plans if name not in plans),
        *_deployment_changes(environment, wanted.deployments),
        *(change for rule in wanted.policies if (change := _change(present.get(rule.name), rule))),
        *(_archiving(row) for name, row in present.items() if name not in names),
        *(PlanChange(name=name, kind=ChangeKind.REMOVED) for name in removed_plans),
    )


def _deployment_changes(
    environment: Environment, wanted: tuple[tuple[str, str], ...] | None
) -> list[DeploymentChange]:
    """None: they stay as they are."""
    if wanted is None:
        return []
    present = dict(environment.deployments.values_list("name", "model"))
    after = dict(wanted)
    # What goes comes first: a name may come again in another case.
    names = [*sorted(present.keys() - after.keys()), *sorted(after)]
    return [
        DeploymentChange(name=name, before=present.get(name), after=after.get(name))
        for name in names
        if present.get(name) != after.get(name)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Because:
    """Who publishes, why, and the draft that it was. Versions keep it, and the audit log."""

    actor: str
    note: str = ""
    draft: Draft | None = None


def publish(
    environment: Environment,
    wanted: PolicySet,
    *,
    actor: str,
    note: str = "",
    draft: Draft | None = None,
    dry_run: bool = False,
) -> tuple[Change, ...]:
    """Makes the set what is in force: matches policies by name, archives those it does not name.

    `note` says why. Raises PolicyFileError as `plan_changes` does.
    """
    if dry_run:
        return plan_changes(environment, wanted)
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        changes = plan_changes(environment, wanted)
        _apply(environment, changes, Because(actor=actor, note=note, draft=draft))
    return changes


def publish_one(
    environment: Environment,
    rule: PolicyRule,
    *,
    actor: str,
    note: str = "",
    policy_id: UUID | None = None,
    restores: int | None = None,
) -> Policy:
    """Adds a policy or, with its id, changes or renames one; the others stay. Returns its row. `note` says why.

    `restores` names the version whose content `rule` is; then the policy may be archived, and is in force again.
    Raises PolicyFileError, and Policy.DoesNotExist if no policy with this id is in force.
    """
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        rule = documents.rule_of(documents.document(rule))
        errors = objections(environment, rule, policy_id=policy_id)
        if errors:
            raise PolicyFileError(*errors)
        candidates = environment.policies.all() if restores else Policy.objects.in_force(environment.pk)
        row = None if policy_id is None else candidates.get(pk=policy_id)
        change = _change(row, rule, restores)
        _apply(environment, () if change is None else (change,), Because(actor=actor, note=note))
        return Policy.objects.in_force(environment.pk).get(name=rule.name)


def set_mode(policy: Policy, mode: Mode, *, actor: str) -> Policy:
    """Enforces, monitors or turns off a policy in force; nothing else of it changes. Its row.

    Raises Policy.DoesNotExist if it is archived.
    """
    environment = policy.environment
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        row = Policy.objects.in_force(environment.pk).get(pk=policy.pk)
        rule = replace(policy_rows.rule_of(row), mode=mode)
        return publish_one(environment, rule, actor=actor, policy_id=policy.pk)


def objections(
    environment: Environment, rule: PolicyRule, *, policy_id: UUID | None = None
) -> tuple[FileError, ...]:
    """What stands against putting this one policy beside, or with an id in the place of, those in force."""
    found = []
    namesake = Policy.objects.in_force(environment.pk).filter(name=rule.name).first()
    if namesake is not None and namesake.pk != policy_id:
        found.append(FileError("name", f"another policy is named {rule.name!r}; choose another name"))
    if rule.scope.plan and not environment.plans.filter(name=rule.scope.plan).exists():
        found.append(unknown_plan("scope.plan", rule.scope.plan))
    others = Policy.objects.in_force(environment.pk)
    if policy_id is not None:
        others = others.exclude(pk=policy_id)
    return (*found, *_too_many_limits([*_weights(others), Weight.of(rule)]))


def _weights(policies: QuerySet[Policy]) -> Iterator[Weight]:
    """One query, however many limits they have."""
    rows = policies.exclude(mode=Mode.OFF).order_by().annotate(size=Count("limits"))
    for user, feature, plan, kind, size in rows.values_list(
        "scope_user", "scope_feature", "scope_plan", "kind", "size"
    ):
        yield Weight(scope=Scope(user=user, feature=feature, plan=plan), kind=Kind(kind), limits=size)


def _too_many_limits(weights: Iterable[Weight]) -> tuple[FileError, ...]:
    count = limits_of_a_call(weights)
    if count <= LIMITS_OF_A_CALL_MAX:
        return ()
    message = (
        f"{count} limits could apply to one call, of one override and all guardrails that match it; at most "
        f"{LIMITS_OF_A_CALL_MAX} are allowed. Give guardrails narrower scopes, or fewer limits"
    )
    return (FileError("policies", message),)


def archive(policy: Policy, *, actor: str, note: str = "") -> None:
    """Puts a policy out of force; its versions stay. `note` says why. Again does nothing."""
    environment = policy.environment
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        row = Policy.objects.in_force(environment.pk).filter(pk=policy.pk).first()
        changes = () if row is None else (_archiving(row),)
        _apply(environment, changes, Because(actor=actor, note=note))


def add_plan(environment: Environment, name: str, *, actor: str) -> Plan:
    """The plan of this name, made if need be. Raises PolicyFileError."""
    message = plan_name_error(name)
    if message:
        raise PolicyFileError(FileError("name", message))
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        if not environment.plans.filter(name=name).exists():
            _apply(environment, (PlanChange(name=name, kind=ChangeKind.ADDED),), Because(actor=actor))
        return environment.plans.get(name=name)


def remove_plan(plan: Plan, *, actor: str) -> None:
    """Raises PolicyFileError if an end user has it or a policy names it."""
    environment = plan.environment
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        errors = plan_uses(plan)
        if errors:
            raise PolicyFileError(*errors)
        _apply(environment, (PlanChange(name=plan.name, kind=ChangeKind.REMOVED),), Because(actor=actor))


def put_deployment(environment: Environment, name: str, model: str, *, actor: str) -> Deployment:
    """The name with this model behind it, made or changed if need be. Raises PolicyFileError."""
    said = (("name", name), ("model", model))
    errors = [FileError(field, message) for field, text in said if (message := deployment_error(text))]
    if errors:
        raise PolicyFileError(*errors)
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        row = environment.deployments.filter(name__iexact=name).first()
        if row is None and environment.deployments.count() >= DEPLOYMENTS_MAX:
            raise PolicyFileError(FileError("name", f"there are {DEPLOYMENTS_MAX} deployments already"))
        before = None if row is None else row.model
        if before != model:
            change = DeploymentChange(name=name if row is None else row.name, before=before, after=model)
            _apply(environment, (change,), Because(actor=actor))
        return environment.deployments.get(name__iexact=name)


def publish_deployments(
    environment: Environment, wanted: tuple[tuple[str, str], ...], *, actor: str, dry_run: bool = False
) -> tuple[Change, ...]:
    """Makes these names, each with its model, all that there are. Policies and plans stay."""
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        changes = tuple(_deployment_changes(environment, wanted))
        if not dry_run:
            _apply(environment, changes, Because(actor=actor))
    return changes


def remove_deployment(deployment: Deployment, *, actor: str) -> None:
    """Again does nothing."""
    environment = deployment.environment
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        row = environment.deployments.filter(pk=deployment.pk).first()
        if row is not None:
            change = DeploymentChange(name=row.name, before=row.model, after=None)
            _apply(environment, (change,), Because(actor=actor))


def plan_uses(plan: Plan) -> tuple[FileError, ...]:
    """What stands against removing it."""
    users = _plan_users(plan.environment, [plan.name])
    policy = Policy.objects.in_force(plan.environment_id).filter(scope_plan=plan.name).first()
    if policy is None:
        return users
    message = f"the policy {policy.name!r} is for the plan {plan.name!r}; archive the policy first"
    return (*users, FileError("plans", message))


def _plan_users(environment: Environment, plans: list[str]) -> tuple[FileError, ...]:
    counted = environment.plans.filter(name__in=plans).annotate(users=Count("end_users")).filter(users__gt=0)
    return tuple(
        FileError(
            "plans",
            f"{plan.users} end users have the plan {plan.name!r}; move them to another one or keep it listed",
        )
        for plan in counted.order_by("name")
    )


def _change(row: Policy | None, rule: PolicyRule, restores: int | None = None) -> PolicyChange | None:
    """None if the row says so already."""
    if row is None:
        return PolicyChange(before=None, after=rule, version=1)
    before = None if row.archived_at else policy_rows.rule_of(row)
    if before == rule:
        return None
    return PolicyChange(
        before=before, after=rule, version=row.version + 1, policy_id=row.pk, restores=restores
    )


def _archiving(row: Policy) -> PolicyChange:
    return PolicyChange(
        before=policy_rows.rule_of(row), after=None, version=row.version + 1, policy_id=row.pk
    )


def _apply(environment: Environment, changes: Iterable[Change], because: Because) -> None:
    written = [(change, _write(environment, change, because)) for change in changes]
    if not written:
        return
    _track(environment)
    revisions.bump(environment.pk)
    # Last, for it locks the tenant's chain.
    for change, target in written:
        _log(environment, change, target, because)


def _write(environment: Environment, change: Change, because: Because) -> Policy | Plan | Deployment:
    if isinstance(change, PlanChange):
        return _write_plan(environment, change)
    if isinstance(change, DeploymentChange):
        return _write_deployment(environment, change)
    if change.policy_id is None:
        policy = Policy(environment=environment, ordinal=_next_ordinal(environment))
    else:
        policy = Policy.objects.get(pk=change.policy_id)
    policy.version = change.version
    if change.after is None:
        policy.archived_at = timezone.now()
        policy.save(update_fields=["version", "archived_at"])
    else:
        policy.archived_at = None
        policy_rows.write(policy, change.after)
    PolicyVersion.objects.create(
        policy=policy,
        version=change.version,
        document=None if change.after is None else documents.document(change.after),
        actor=because.actor[:ACTOR_LENGTH_MAX],
        note=because.note[:NOTE_LENGTH_MAX],
        draft=because.draft,
    )
    return policy


def _write_plan(environment: Environment, change: PlanChange) -> Plan:
    if change.kind is ChangeKind.ADDED:
        return Plan.objects.create(environment=environment, name=change.name)
    # An end user that is given the plan at this moment is waited for, and counts.
    plan = environment.plans.select_for_update().get(name=change.name)
    errors = _plan_users(environment, [plan.name])
    if errors:
        raise PolicyFileError(*errors)
    # By a query, so that the plan keeps its id for the log.
    environment.plans.filter(pk=plan.pk).delete()
    return plan


def _write_deployment(environment: Environment, change: DeploymentChange) -> Deployment:
    if change.before is None:
        return Deployment.objects.create(environment=environment, name=change.name, model=change.after or "")
    deployment = environment.deployments.get(name=change.name)
    if change.after is None:
        # By a query, so that it keeps its id for the log.
        environment.deployments.filter(pk=deployment.pk).delete()
    else:
        deployment.model = change.after
        deployment.save(update_fields=["model"])
    return deployment


def _next_ordinal(environment: Environment) -> int:
    latest = environment.policies.aggregate(latest=Max("ordinal"))["latest"]
    return int(latest or 0) + 1


def _track(environment: Environment) -> None:
    """Has calls counted in just the pairs that limits in force read."""
    limits = Limit.objects.filter(policy__environment=environment, policy__archived_at=None)
    counted = limits.exclude(policy__mode=Mode.OFF).exclude(metric=Metric.CONCURRENCY)
    rows = counted.order_by().values_list("per", "window", "models").distinct()
    wanted = {(per, window, tuple(models)) for per, window, models in rows}
    tracked = {
        (pair.per, pair.window, tuple(pair.models)): pair.pk for pair in environment.tracked_pairs.all()
    }
    idle = [pk for pair, pk in tracked.items() if pair not in wanted]
    environment.tracked_pairs.filter(pk__in=idle).delete()
    TrackedPair.objects.bulk_create(
        TrackedPair(environment=environment, per=per, window=window, models=list(models))
        for per, window, models in sorted(wanted - tracked.keys())
    )


def _log(
    environment: Environment, change: Change, target: Policy | Plan | Deployment, because: Because
) -> None:
    data: dict[str, object] = {"environment": environment.slug}
    if isinstance(change, PolicyChange):
        data |= {
            "version": change.version,
            "changes": audit_log.changes(*differences.named(change.before, change.after)),
            "diff": "\n".join(change.diff)[:AUDITED_DIFF_LENGTH_MAX],
        }
        if change.restores is not None:
            data["restores"] = change.restores
    if isinstance(change, DeploymentChange):
        data |= {"model": change.after or change.before, "before": change.before}
    if because.note:
        data["note"] = because.note
    if because.draft is not None:
        data["draft"] = because.draft.name
    audit_log.log(f"{NOUNS[type(change)]}.{change.kind}", target, tenant_id=environment.tenant_id, **data)
