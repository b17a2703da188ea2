"""Between a policy's rows and its rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from policies.files import documents
from policies.models import Limit, Policy, PolicyVersion
from policies.resolution import StoredPolicy
from policies.rules import (
    Kind,
    LimitRule,
    Mode,
    ModelRules,
    OnUnavailable,
    OnUnsettled,
    PerRequest,
    PolicyRule,
    PolicySet,
    Scope,
    UnknownPrice,
)
from tenants.models import Environment
from usage.amounts import Per
from usage.assessment import PolicyRef
from usage.metrics import Metric
from usage.money import NANO, to_nano
from usage.windows import Window


def rule_of(policy: Policy) -> PolicyRule:
    """Reads the limits, which is a query unless they are prefetched."""
    cost_usd = policy.per_request_cost_usd
    return PolicyRule(
        name=policy.name,
        scope=Scope(user=policy.scope_user, feature=policy.scope_feature, plan=policy.scope_plan),
        kind=Kind(policy.kind),
        mode=Mode(policy.mode),
        priority=policy.priority,
        models=ModelRules(allow=tuple(policy.models_allow), deny=tuple(policy.models_deny)),
        per_request=PerRequest(
            cost_nano=None if cost_usd is None else to_nano(cost_usd),
            input_tokens=policy.per_request_input_tokens,
            output_tokens=policy.per_request_output_tokens,
        ),
        limits=tuple(_limit_rule(limit) for limit in policy.limits.all()),
        on_unavailable=OnUnavailable(policy.on_unavailable),
        on_unsettled=OnUnsettled(policy.on_unsettled),
        unknown_price=UnknownPrice(policy.unknown_price),
    )


def stored(row: Policy, rule: PolicyRule) -> StoredPolicy:
    """`rule` is what the row says (`rule_of`)."""
    ref = PolicyRef(str(row.pk), row.name, row.version, rule.scope.label)
    return StoredPolicy(ref=ref, ordinal=row.ordinal, rule=rule)


def in_force(environment_id: int, *, without: UUID | str | None = None) -> list[StoredPolicy]:
    """The oldest policy first. Two queries."""
    rows = Policy.objects.in_force(environment_id).prefetch_related("limits")
    others = rows if without is None else rows.exclude(pk=without)
    return [stored(row, rule_of(row)) for row in others]


def supposed(environment_id: int, rules: Iterable[PolicyRule]) -> list[StoredPolicy]:
    """As if these were in force, the oldest first: matched by name with what is, and what is new is the youngest.

    What is new or changed has no id, for no version says it. Two queries.
    """
    rows = {row.name: row for row in Policy.objects.in_force(environment_id).prefetch_related("limits")}
    youngest = max((row.ordinal for row in rows.values()), default=0)
    found = []
    for place, rule in enumerate(rules, start=1):
        row = rows.get(rule.name)
        if row is not None and rule_of(row) == rule:
            found.append(stored(row, rule))
        else:
            ordinal, version = (youngest + place, 1) if row is None else (row.ordinal, row.version)
            found.append(StoredPolicy(ref=_no_id(rule, version), ordinal=ordinal, rule=rule))
    return found


def with_one(
    others: Sequence[StoredPolicy], rule: PolicyRule, *, ordinal: int | None, version: int
) -> list[StoredPolicy]:
    """The others, and this one as if in force too. `ordinal`: of one that is stored; else it is the youngest."""
    if ordinal is None:
        ordinal = max((other.ordinal for other in others), default=0) + 1
    return [*others, StoredPolicy(ref=_no_id(rule, version), ordinal=ordinal, rule=rule)]


def _no_id(rule: PolicyRule, version: int) -> PolicyRef:
    return PolicyRef("", rule.name, version, rule.scope.label)


def in_force_before(environment_id: int, instant: datetime) -> list[StoredPolicy]:
    """What was in force just before it, by the versions that are kept: the oldest policy first. One query."""
    versions = PolicyVersion.objects.filter(policy__environment_id=environment_id, created_at__lt=instant)
    latest = versions.order_by("policy_id", "-version").distinct("policy_id").select_related("policy")
    found = [
        stored_at(version, documents.rule_of(version.document))
        for version in latest
        if version.document is not None
    ]
    return sorted(found, key=lambda policy: policy.ordinal)


def stored_at(version: PolicyVersion, rule: PolicyRule) -> StoredPolicy:
    """`rule` is what the version says."""
    ref = PolicyRef(str(version.policy_id), rule.name, version.version, rule.scope.label)
    return StoredPolicy(ref=ref, ordinal=version.policy.ordinal, rule=rule)


def policy_set(environment: Environment) -> PolicySet:
    """What is in force, as a policy file would say it: the oldest policy first. Four queries."""
    deployments = tuple(environment.deployments.order_by("name").values_list("name", "model"))
    rows = Policy.objects.in_force(environment.pk).prefetch_related("limits")
    return PolicySet(
        plans=tuple(environment.plans.order_by("name").values_list("name", flat=True)),
        deployments=deployments or None,
        policies=tuple(rule_of(row) for row in rows),
    )


def write(policy: Policy, rule: PolicyRule) -> None:
    """Saves the policy with the rule and its limits. Call in a transaction."""
    cost_nano = rule.per_request.cost_nano
    policy.name = rule.name
    policy.scope_user, policy.scope_feature, policy.scope_plan = (
        rule.scope.user,
        rule.scope.feature,
        rule.scope.plan,
    )
    policy.kind, policy.mode, policy.priority = rule.kind, rule.mode, rule.priority
    policy.models_allow, policy.models_deny = list(rule.models.allow), list(rule.models.deny)
    policy.per_request_cost_usd = None if cost_nano is None else usd(cost_nano)
    policy.per_request_input_tokens = rule.per_request.input_tokens
    policy.per_request_output_tokens = rule.per_request.output_tokens
    policy.on_unavailable, policy.on_unsettled = rule.on_unavailable, rule.on_unsettled
    policy.unknown_price = rule.unknown_price
    if not policy._state.adding:
        policy.limits.all().delete()
    policy.save()
    Limit.objects.bulk_create(
        Limit(
            policy=policy,
            metric=limit.metric,
            window=limit.window,
            per=limit.per,
            models=list(limit.models),
            amount=amount(limit),
        )
        for limit in rule.limits
    )


def _limit_rule(limit: Limit) -> LimitRule:
    metric = Metric(limit.metric)
    amount = to_nano(limit.amount) if metric is Metric.COST_USD else int(limit.amount)
    return LimitRule(
        metric=metric,
        window=Window(limit.window),
        amount=amount,
        per=Per(limit.per),
        models=tuple(limit.models),
    )


def amount(limit: LimitRule) -> Decimal:
    return usd(limit.amount) if limit.metric is Metric.COST_USD else Decimal(limit.amount)


def usd(nano: int) -> Decimal:
    return Decimal(nano) / NANO
