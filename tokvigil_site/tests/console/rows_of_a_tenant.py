"""One row of each model that the console has pages of, all of one tenant. A new model is added here."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import yaml
from django.contrib.auth.models import Group, User
from django.db.models import Model

from audit.models import Entry
from policies.changing import publishing
from policies.models import (
    Alert,
    AlertEndpoint,
    AlertRule,
    BlockedDecision,
    Boost,
    ClosedMonth,
    Deployment,
    Draft,
    EndUser,
    MonthlyBudget,
    NamedCaller,
    Policy,
    PolicyReplay,
)
from tenants.models import ApiKey, Environment, Membership, Role, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.testing import apply_policies, limits
from usage.models import ModelPrice, SavedView, UsageEvent

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def made(slug: str, *, called: str = "") -> dict[type[Model], Model]:
    """Rows by their model. The slug is in every name of them and nowhere else.

    What may be called anything begins with `called` instead; policies and plans without its control characters.
    """
    mark = called or slug
    plain = re.sub(r"[\x00-\x1f\x7f]", "", mark)
    tenant = Tenant.create_with_environments(slug, name=mark)
    environment = tenant.environments.get(slug="prod")
    user = User.objects.create_user(f"{slug}-owner", is_staff=True)
    policy_set = limits(
        "{metric: requests, window: day, amount: 5, per: user}",
        name=_quoted(f"{plain}-policy"),
        scope=f"{{user: {_quoted(f'{plain}-user')}}}",
    )
    apply_policies(environment, policy_set)
    policy = Policy.objects.get(environment=environment)
    plan = publishing.add_plan(environment, f"{plain}-plan", actor="test")
    rows: list[Model] = [
        tenant,
        environment,
        user,
        plan,
        policy,
        Membership.objects.create(tenant=tenant, user=user, role=Role.OWNER),
        Group.objects.create(name=f"{slug}-group"),
        ApiKey.issue(environment, f"{mark}-key", (EVALUATE,))[0],
        Deployment.objects.create(
            environment=environment, name=f"{plain}-deployment", model=f"{plain}-model"
        ),
        EndUser.objects.create(environment=environment, user_id=f"{mark}-user", plan=plan),
        _price(tenant, f"{mark}-model"),
        _event(environment, mark),
        _decision(environment, mark),
        _budget(environment, policy, mark),
        _boost(environment, mark),
        *_alerts(environment, mark),
        Draft.objects.create(
            environment=environment, name=f"{mark}-draft", author="test", base=[], policies=[]
        ),
        NamedCaller.objects.create(
            environment=environment, name=f"{mark}-caller", user_id=f"{mark}-user", model=f"{mark}-model"
        ),
        _replay(environment, mark),
        SavedView.objects.create(
            tenant=tenant, name=f"{mark}-view", query="show=calls", author="admin:test", shared=True
        ),
        Entry.objects.filter(tenant_id=tenant.pk).latest("id"),
    ]
    return {type(row): row for row in rows}


def _quoted(name: str) -> str:
    """As YAML."""
    return yaml.dump(name, default_style='"', width=10_000).strip()


def _price(tenant: Tenant, model: str) -> ModelPrice:
    return ModelPrice.objects.create(
        tenant=tenant, provider="openai", model=model, effective_from=NOW, input_per_million=1, output_per_million=2
    )  # fmt: skip


def _call(mark: str) -> dict[str, Any]:
    return {
        "request_id": f"{mark}-request", "user_id": f"{mark}-user", "feature": f"{mark}-feature",
        "plan": f"{mark}-plan", "run_id": f"{mark}-run", "model": f"{mark}-model",
    }  # fmt: skip


def _event(environment: Environment, mark: str) -> UsageEvent:
    return UsageEvent.objects.create(
        environment=environment, charged_at=NOW, recorded_at=NOW, xid=1, provider="openai", status="succeeded",
        requests=1, input_tokens=7, output_tokens=8, cached_input_tokens=0, cache_write_tokens=0, reasoning_tokens=0,
        cost_nano=198_000, **_call(mark),
    )  # fmt: skip


def _decision(environment: Environment, mark: str) -> BlockedDecision:
    return BlockedDecision.objects.create(
        environment=environment, stream_id="1-1", decided_at=NOW, reason_code="USER_BLOCKED", reason_class="forbidden",
        message=f"Blocked {mark}.", policy_name=f"{mark}-policy", limit_state=[], **_call(mark),
    )  # fmt: skip


def _boost(environment: Environment, mark: str) -> Boost:
    return Boost.objects.create(
        environment=environment, per="user", subject=f"{mark}-user", metric="requests", window="day", extra=5,
        reason=f"{mark}-reason", ends_at=datetime(2100, 1, 1, tzinfo=UTC), given_by="test",
    )  # fmt: skip


def _alerts(environment: Environment, mark: str) -> list[Model]:
    """A rule, an endpoint, and an alert that was sent to it."""
    rule = AlertRule.objects.create(
        environment=environment, name=f"{mark}-rule", event="limit.threshold", thresholds=[80]
    )
    endpoint = AlertEndpoint.objects.create(
        environment=environment, name=f"{mark}-endpoint", address="https://hooks.example.com/",
        events=["limit.threshold"], salt=b"salt", pepper_id="1",
    )  # fmt: skip
    alert = Alert.objects.create(
        environment=environment, rule=rule, rule_name=rule.name, event="limit.threshold", about="a", threshold=80,
        window_start=NOW, fired_at=NOW, title=f"80 % of {mark}-policy", text=f"Of {mark}.", data={"subject": mark},
    )  # fmt: skip
    alert.deliveries.create(endpoint=endpoint, last_error=f"{mark} did not answer.")
    return [rule, endpoint, alert]


def _budget(environment: Environment, policy: Policy, mark: str) -> MonthlyBudget:
    month = ClosedMonth.objects.create(environment=environment, month=date(2026, 10, 1))
    return MonthlyBudget.objects.create(
        closed_month=month, policy_id=policy.pk, policy_name=policy.name, policy_version=1, per="user",
        user_id=f"{mark}-user", feature="", plan="", run_id="", budget_usd=5, spent_usd=4, requests=3, unpriced=0,
    )  # fmt: skip


def _replay(environment: Environment, mark: str) -> PolicyReplay:
    """It waits, so that it can be cancelled."""
    return PolicyReplay.objects.create(
        environment=environment, asked_by="test", source=f"{mark}-file", start=NOW, end=NOW + timedelta(days=1),
        document={"version": 1, "plans": [], "policies": []}, calls_in_all=0,
    )  # fmt: skip
