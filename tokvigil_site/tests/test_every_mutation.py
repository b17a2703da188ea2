"""Whatever changes something leaves exactly one audit entry.

What can be changed is found, not listed (mutations.py): a page, an action, a call or a command that is new makes
`test_every_mutation_is_known` fail until it is in one of the two tables below.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit import chain, wording
from audit.models import Entry
from policies import boosts, end_users
from policies.alerting import endpoints
from policies.changing import drafts, publishing
from policies.models import (
    Alert,
    AlertEndpoint,
    AlertRule,
    Boost,
    Deployment,
    Draft,
    EndUser,
    Plan,
    Policy,
    PolicyReplay,
)
from policies.replaying import jobs
from policies.replaying.jobs import Candidate
from tenants import freezing, members
from tenants.console.display import user_url
from tenants.models import Environment, Membership
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from tokvigil_site.tests import mutations
from tokvigil_site.tests.filled_forms import submit
from usage.analytics import saved_views
from usage.models import SavedView

PASSWORD = "a long enough one 4711"
PASSWORDS = {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
NEW_LIMIT = {
    "limits-TOTAL_FORMS": "1",
    "limits-0-metric": "requests",
    "limits-0-window": "day",
    "limits-0-amount": "9",
    "limits-0-per": "user",
}
NEW_PRICE = {
    "provider": "openai",
    "model": "new",
    "effective_from_0": "2026-01-01",
    "effective_from_1": "00:00:00",
    "input_per_million": "1",
    "output_per_million": "2",
}
IN_A_MONTH = datetime.now(UTC) + timedelta(days=30)
BOOST = "/v1/boosts/6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f"
ONE_LIMIT = "{metric: requests, window: day, amount: 5, per: user}"


class World:
    """`acme/prod`, with one of everything, and a superuser at the console."""

    def __init__(self, prod: Environment, folder: Path) -> None:
        self.prod, self.folder = prod, folder
        self.root = User.objects.create_superuser("root", password=PASSWORD)
        self.ann = User.objects.create_user("ann", password=PASSWORD, is_staff=True)
        self.group = Group.objects.create(name="group")
        self.api = Api(prod)
        apply_policies(prod, "plans: [free, unused]\n" + limits(ONE_LIMIT, name="Free plan"))
        end_users.set_end_user(prod, "bob", plan_name="free", blocked=False, actor="test")
        self.price = set_price("gpt-test")
        self.client = Client()
        self.client.force_login(self.root)

    @property
    def membership(self) -> Membership:
        return Membership.objects.get_or_create(tenant=self.prod.tenant, user=self.ann)[0]

    @property
    def invited(self) -> Membership:
        found = Membership.objects.filter(user__email="new@example.com").first()
        return found or members.invite(self.prod.tenant, "new@example.com", "viewer")[0]

    @property
    def draft(self) -> Draft:
        return Draft.objects.first() or drafts.begin(self.prod, "Draft", actor="test")

    @property
    def view(self) -> SavedView:
        found = SavedView.objects.first()
        return found or saved_views.save(
            self.prod.tenant, "View", "show=calls", shared=True, actor="admin:root"
        )

    @property
    def boost(self) -> Boost:
        found = Boost.objects.first()
        if found is not None:
            return found
        boost = Boost(
            environment=self.prod, per="user", subject="bob", metric="requests", window="day", extra=20,
            reason="A pilot.", ends_at=IN_A_MONTH,
        )  # fmt: skip
        return boosts.give(boost, actor="test")

    @property
    def rule(self) -> AlertRule:
        fields = {"event": "limit.threshold", "thresholds": [80]}
        return AlertRule.objects.get_or_create(environment=self.prod, name="Budgets", defaults=fields)[0]

    @property
    def endpoint(self) -> AlertEndpoint:
        found = AlertEndpoint.objects.first()
        if found is None:
            # No test calls anybody.
            found = AlertEndpoint(
                environment=self.prod, name="Hook", address="https://127.0.0.1/", events=["limit.threshold"]
            )
            endpoints.add(found, actor="test")
        return found

    @property
    def alert(self) -> Alert:
        """Its delivery was given up."""
        found = Alert.objects.first()
        if found is None:
            now = timezone.now()
            found = Alert.objects.create(
                environment=self.prod, rule_name="Budgets", event="limit.threshold", about="a", threshold=80,
                window_start=now, fired_at=now, title="80 % of a limit", text="It is near.", data={},
            )  # fmt: skip
            found.deliveries.create(endpoint=self.endpoint, state="dead", attempts=9)
        return found

    @property
    def replay(self) -> PolicyReplay:
        """It waits."""
        found = PolicyReplay.objects.first()
        now = timezone.now()
        candidate = Candidate.in_force(self.prod)
        return found or jobs.ask(self.prod, candidate, now - timedelta(days=1), now, actor="test")

    @property
    def policy(self) -> Policy:
        return Policy.objects.get(environment=self.prod)

    @property
    def published(self) -> Any:
        """As a policy file has them."""
        return self.api.get("/v1/policy-file").json["policies"]

    @property
    def plan(self) -> Plan:
        return Plan.objects.get(name="unused")

    @property
    def deployment(self) -> Deployment:
        found = Deployment.objects.first()
        return found or publishing.put_deployment(self.prod, "team-chat", "gpt-test", actor="test")

    @property
    def end_user(self) -> EndUser:
        return EndUser.objects.get()

    def rotate(self) -> None:
        """Its key has two secrets."""
        self.api.text = self.api.key.rotate(old_ends_at=timezone.now() + timedelta(hours=1))

    def boost_body(self) -> dict[str, Any]:
        """For the whole environment."""
        ends_at = f"{timezone.now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
        what = {"per": "environment", "metric": "requests", "window": "day", "extra": 5}
        return {**what, "ends_at": ends_at, "reason": "Demo day"}

    def add(self, model: type[Model], /, **values: Any) -> None:
        submit(self.client, reverse(f"admin:{_name(model)}_add"), **values)

    def change(self, row: Model, /, **values: Any) -> None:
        submit(self.client, _page(row, "change"), **values)

    def delete(self, row: Model) -> None:
        assert self.client.post(_page(row, "delete"), {"post": "yes"}).status_code == 302

    def act(self, action: str, row: Model) -> None:
        body = {"action": action, "_selected_action": [row.pk], "post": "yes"}
        assert self.client.post(reverse(f"admin:{_name(type(row))}_changelist"), body).status_code == 302

    def post(self, name: str, body: dict[str, Any], *, client: Client | None = None) -> None:
        assert (client or self.client).post(reverse(f"admin:{name}"), body).status_code in (200, 302)

    def to(self, url: str, body: dict[str, Any]) -> None:
        assert self.client.post(url, body).status_code in (200, 302)

    def call(self, method: str, path: str, body: Any = None) -> None:
        assert self.api.request(method, path, body).status in (200, 201, 204)

    def command(self, *arguments: str, **options: Any) -> None:
        call_command(*arguments, **options)

    def price_late(self) -> None:
        """A call whose model gets its price afterwards."""
        assert self.api.report("r-1", "bob", model="late-model").status == 201
        set_price("late-model", input_usd="1")

    def policy_file(self) -> str:
        file = self.folder / "policies.yaml"
        other = limits(ONE_LIMIT.replace("5", "6"), name="Free plan")
        file.write_text("version: 1\nplans: [free, unused]\n" + other)
        return str(file)


def _name(model: type[Model]) -> str:
    return model._meta.label_lower.replace(".", "_")


def _page(row: Model, what: str) -> str:
    return reverse(f"admin:{_name(type(row))}_{what}", args=[row.pk])


# What to do for each, to a world that is made anew.
MUTATIONS: dict[str, Callable[[World], object]] = {
    "auth.group add": lambda world: world.add(Group, name="new"),
    "auth.group change": lambda world: world.change(world.group, name="renamed"),
    "auth.group delete": lambda world: world.delete(world.group),
    "auth.group action delete_selected": lambda world: world.act("delete_selected", world.group),
    "auth.user add": lambda world: world.add(User, username="new", **PASSWORDS),
    "auth.user change": lambda world: world.change(world.ann, first_name="Ann"),
    "auth.user delete": lambda world: world.delete(world.ann),
    "auth.user action delete_selected": lambda world: world.act("delete_selected", world.ann),
    "page auth_user_password_change": lambda world: world.client.post(
        reverse("admin:auth_user_password_change", args=[world.ann.pk]), PASSWORDS | {"set-password": "x"}
    ),
    "page login": lambda world: world.post(
        "login", {"username": "ann", "password": PASSWORD}, client=Client()
    ),
    "page logout": lambda world: world.post("logout", {}),
    "page password_change": lambda world: world.post(
        "password_change",
        {"old_password": PASSWORD, "new_password1": f"{PASSWORD}x", "new_password2": f"{PASSWORD}x"},
    ),
    "page audit_entry_export": lambda world: world.client.post(
        reverse("admin:audit_entry_export") + f"?chain={world.prod.tenant_id}", {"format": "csv"}
    ),
    "page month_file": lambda world: world.to(
        f"{reverse('admin:month_file')}?environment={world.prod}", {"file": "focus-csv"}
    ),
    "tenants.tenant add": lambda world: world.add(
        type(world.prod.tenant), slug="new", name="New", timezone="UTC"
    ),
    "tenants.tenant change": lambda world: world.change(world.prod.tenant, name="Renamed"),
    "tenants.environment add": lambda world: world.add(
        Environment, tenant=world.prod.tenant_id, slug="new", default_action="allow"
    ),
    "tenants.environment change": lambda world: world.change(world.prod, default_action="block"),
    "page reprice": lambda world: world.post("reprice", {"environment": world.prod.pk}),
    "manage.py reprice": lambda world: world.command("reprice", str(world.prod), stdout=io.StringIO()),
    "page health_rebuild": lambda world: world.post("health_rebuild", {"environment": world.prod.pk}),
    "page freeze": lambda world: world.to(
        f"{reverse('admin:freeze')}?environment={world.prod}",
        {"whole": "environment", "feature": "", "all_calls": "on", "reason": "It runs away."},
    ),
    "page unfreeze": lambda world: world.to(
        f"{reverse('admin:unfreeze')}?environment={world.prod}",
        {"seen": freezing.in_force(Environment.objects.get(pk=world.prod.pk))[0].seen},
    ),
    "tenants.membership add": lambda world: world.add(
        Membership, tenant=world.prod.tenant_id, person="ann", role="viewer"
    ),
    "page tenants_membership_renew": lambda world: world.to(
        reverse("admin:tenants_membership_renew", args=[world.invited.pk]), {}
    ),
    "tenants.membership change": lambda world: world.change(world.membership, role="owner"),
    "tenants.membership delete": lambda world: world.delete(world.membership),
    "tenants.membership action delete_selected": lambda world: world.act("delete_selected", world.membership),
    "tenants.apikey add": lambda world: world.post(
        "tenants_apikey_add", {"name": "new", "preset": "server", "environment": world.prod.pk}
    ),
    "page tenants_apikey_rotate": lambda world: world.to(
        reverse("admin:tenants_apikey_rotate", args=[world.api.key.pk]), {"when": "day"}
    ),
    "page tenants_apikey_revoke": lambda world: world.to(
        reverse("admin:tenants_apikey_revoke", args=[world.api.key.pk]), {}
    ),
    "page tenants_apikey_end_old_secret": lambda world: world.to(
        reverse("admin:tenants_apikey_end_old_secret", args=[world.api.key.pk]), {}
    ),
    "tenants.apikey change": lambda world: world.change(world.api.key, name="renamed"),
    "tenants.apikey action revoke": lambda world: world.act("revoke", world.api.key),
    "policies.policy add": lambda world: world.add(Policy, name="new", _publish="yes", **NEW_LIMIT),
    "policies.policy change": lambda world: submit(
        world.client,
        _page(world.policy, "change"),
        form_at=_page(world.policy, "edit"),
        priority="7",
        _publish="yes",
    ),
    "page policies_policy_edit": lambda world: submit(
        world.client, _page(world.policy, "edit"), priority="7", _publish="yes"
    ),
    "page policies_policy_mode": lambda world: world.to(_page(world.policy, "mode"), {"mode": "monitor"}),
    "page policies_copy": lambda world: submit(
        world.client, f"{reverse('admin:policies_copy')}?policy={world.policy.pk}&to=dev"
    ),
    "page policy_roll_back": lambda world: world.to(
        reverse("admin:policy_roll_back", args=[world.policy.pk, 1]), {"opened_version": "2"}
    ),
    "page policy_drafts": lambda world: world.post("policy_drafts", {"name": "Tighter"}),
    "page policy_draft": lambda world: world.to(
        reverse("admin:policy_draft", args=[world.draft.pk]),
        {"action": "leave_out", "name": "Free plan", "edits": "0"},
    ),
    "page policy_draft_discard": lambda world: world.to(
        reverse("admin:policy_draft_discard", args=[world.draft.pk]), {"seen": "0"}
    ),
    "page policy_of_draft": lambda world: submit(
        world.client, reverse("admin:policy_of_draft", args=[world.draft.pk]), name="New"
    ),
    "page suggested_limits": lambda world: world.to(
        f"{reverse('admin:suggested_limits')}?environment={world.prod}", {"amount": "7"}
    ),
    "page policy_replays": lambda world: world.post(
        "policy_replays", {"what": "in_force", "period": "7", "environment": world.prod.pk}
    ),
    "page policy_replay": lambda world: world.to(
        reverse("admin:policy_replay", args=[world.replay.pk]), {"action": "cancel"}
    ),
    "page try_it": lambda world: world.post(
        "try_it", {"name": "Ann asks", "user_id": "ann", "model": "gpt-test"}
    ),
    "policies.alertrule add": lambda world: world.add(AlertRule, name="new", event="limit.threshold"),
    "policies.alertrule change": lambda world: world.change(world.rule, thresholds="70, 90"),
    "policies.alertrule delete": lambda world: world.delete(world.rule),
    "policies.alertendpoint add": lambda world: world.post(
        "policies_alertendpoint_add",
        {
            "environment": world.prod.pk,
            "name": "new",
            "kind": "email",
            "address": "ops@example.com",
            "events": ["model.unpriced"],
            "active": "on",
        },
    ),
    "policies.alertendpoint change": lambda world: world.change(world.endpoint, name="renamed"),
    "policies.alertendpoint delete": lambda world: world.delete(world.endpoint),
    "page policies_alertendpoint_test": lambda world: world.to(
        reverse("admin:policies_alertendpoint_test", args=[world.endpoint.pk]), {}
    ),
    "page policies_alertendpoint_rotate": lambda world: world.to(
        reverse("admin:policies_alertendpoint_rotate", args=[world.endpoint.pk]), {}
    ),
    "page policies_alert_redeliver": lambda world: world.to(
        reverse("admin:policies_alert_redeliver", args=[world.alert.pk]),
        {"delivery": world.alert.deliveries.get().pk},
    ),
    "policies.boost add": lambda world: submit(
        world.client,
        reverse("admin:policies_boost_add"),
        raises=boosts.raisable(world.prod.pk)[0].key,
        subject="bob",
        anyway="on",
        extra="20",
        ends_at_0=f"{IN_A_MONTH:%Y-%m-%d}",
        ends_at_1="00:00:00",
        reason="A pilot.",
    ),
    "policies.boost action end_now": lambda world: world.act("end_now", world.boost),
    "page policies_boost_end": lambda world: world.to(_page(world.boost, "end"), {"post": "yes"}),
    "page saved_views": lambda world: world.post("saved_views", {"name": "Spend of the free plan"}),
    "page saved_view": lambda world: world.to(
        reverse("admin:saved_view", args=[world.view.pk]), {"name": "Renamed", "shared": "on"}
    ),
    "page end_user": lambda world: world.to(
        user_url(world.prod, "bob"), {"do": "block", "block-reason": "A stolen card."}
    ),
    "policies.policy delete": lambda world: world.delete(world.policy),
    "policies.policy action delete_selected": lambda world: world.act("delete_selected", world.policy),
    "policies.plan add": lambda world: world.add(Plan, name="gold"),
    "policies.plan delete": lambda world: world.delete(world.plan),
    "policies.plan action delete_selected": lambda world: world.act("delete_selected", world.plan),
    "policies.deployment add": lambda world: world.add(Deployment, name="new", model="gpt-test"),
    "policies.deployment change": lambda world: world.change(world.deployment, model="gpt-other"),
    "policies.deployment delete": lambda world: world.delete(world.deployment),
    "policies.deployment action delete_selected": lambda world: world.act(
        "delete_selected", world.deployment
    ),
    "policies.enduser add": lambda world: world.add(EndUser, user_id="new"),
    "policies.enduser change": lambda world: world.change(world.end_user, blocked="on"),
    "policies.enduser delete": lambda world: world.delete(world.end_user),
    "policies.enduser action block": lambda world: world.act("block", world.end_user),
    "policies.enduser action delete_selected": lambda world: world.act("delete_selected", world.end_user),
    "policies.enduser action unblock": lambda world: world.act("unblock", world.end_user),
    "usage.modelprice add": lambda world: world.add(type(world.price), **NEW_PRICE, reason="Our contract"),
    "usage.modelprice change": lambda world: world.change(world.price, input_per_million="7"),
    "PUT v1/end-users/<any:user_id>": lambda world: world.call(
        "PUT", "/v1/end-users/new", {"plan": None, "blocked": True}
    ),
    "DELETE v1/end-users/<any:user_id>": lambda world: world.call("DELETE", "/v1/end-users/bob"),
    "PUT v1/plans/<any:name>": lambda world: world.call("PUT", "/v1/plans/gold"),
    "DELETE v1/plans/<any:name>": lambda world: world.call("DELETE", "/v1/plans/unused"),
    "PUT v1/deployments": lambda world: world.call(
        "PUT", "/v1/deployments", {"deployments": {"team-chat": "gpt-test"}}
    ),
    "PUT v1/policy-file": lambda world: world.call(
        "PUT", "/v1/policy-file", {"plans": ["free", "unused", "gold"], "policies": world.published}
    ),
    "PUT v1/boosts/<str:boost_id>": lambda world: world.call("PUT", BOOST, world.boost_body()),
    "DELETE v1/boosts/<str:boost_id>": lambda world: world.call("DELETE", BOOST),
    "POST v1/api-keys": lambda world: world.call("POST", "/v1/api-keys", {"name": "new", "preset": "server"}),
    "POST v1/api-keys/<str:key_id>/rotate": lambda world: world.call(
        "POST", f"/v1/api-keys/{world.api.key.key_id}/rotate", {"old_ends_in_s": 60}
    ),
    "DELETE v1/api-keys/<str:key_id>/old-secret": lambda world: world.call(
        "DELETE", f"/v1/api-keys/{world.api.key.key_id}/old-secret"
    ),
    "DELETE v1/api-keys/<str:key_id>": lambda world: world.call(
        "DELETE", f"/v1/api-keys/{world.api.key.key_id}"
    ),
    "PUT v1/prices/<str:provider>/<any:model>": lambda world: world.call(
        "PUT",
        "/v1/prices/openai/gpt-test",
        {"input_per_million": "1", "output_per_million": "2", "reason": "Our contract"},
    ),
    "PUT v1/freeze": lambda world: world.call(
        "PUT", "/v1/freeze", {"environment": True, "features": [], "reason": "An incident"}
    ),
    "manage.py apply_policies": lambda world: world.command(
        "apply_policies", str(world.prod), world.policy_file()
    ),
    "manage.py create_tenant": lambda world: world.command("create_tenant", "new"),
    "manage.py issue_key": lambda world: world.command("issue_key", str(world.prod), "--name", "new"),
    "manage.py load_prices": lambda world: world.command("load_prices"),
    "manage.py export_focus": lambda world: world.command(
        "export_focus", "acme", "--month", "2026-10", stdout=io.StringIO(), stderr=io.StringIO()
    ),
    "manage.py month_report": lambda world: world.command(
        "month_report", "acme", "--month", "2026-10", stdout=io.StringIO()
    ),
    "manage.py createsuperuser": lambda world: world.command(
        "createsuperuser", interactive=False, username="new", email=""
    ),
}
# Done in the world first, so that there is something to do.
FIRST: dict[str, Callable[[World], object]] = {
    "page reprice": lambda world: world.price_late(),
    "manage.py reprice": lambda world: world.price_late(),
    "page tenants_membership_renew": lambda world: world.invited,
    "page unfreeze": lambda world: freezing.freeze(world.prod, actor="test"),
    "page tenants_apikey_end_old_secret": lambda world: world.rotate(),
    "DELETE v1/api-keys/<str:key_id>/old-secret": lambda world: world.rotate(),
    "page policy_roll_back": lambda world: apply_policies(
        world.prod, "plans: [free, unused]\n" + limits(ONE_LIMIT.replace("5", "6"), name="Free plan")
    ),
    "page saved_view": lambda world: world.view,
    "page policy_replay": lambda world: world.replay,
    "page policy_draft": lambda world: world.draft,
    "page policy_draft_discard": lambda world: world.draft,
    "page policy_of_draft": lambda world: world.draft,
    "policies.alertrule change": lambda world: world.rule,
    "policies.deployment change": lambda world: world.deployment,
    "policies.deployment delete": lambda world: world.deployment,
    "policies.deployment action delete_selected": lambda world: world.deployment,
    "policies.alertendpoint change": lambda world: world.endpoint,
    "policies.alertendpoint delete": lambda world: world.endpoint,
    "page policies_alertendpoint_test": lambda world: world.endpoint,
    "page policies_alertendpoint_rotate": lambda world: world.endpoint,
    "page policies_alert_redeliver": lambda world: world.alert,
    "policies.boost action end_now": lambda world: world.boost,
    "page policies_boost_end": lambda world: world.boost,
    "DELETE v1/boosts/<str:boost_id>": lambda world: world.call("PUT", BOOST, world.boost_body()),
    "tenants.membership change": lambda world: world.membership,
    "policies.enduser action unblock": lambda world: end_users.set_end_user(
        world.prod, "bob", plan_name="free", blocked=True, actor="test"
    ),
}
# What changes nothing that the audit log is about, and why.
NO_ENTRY = {
    "page audit_entry_check": "reads",
    "page policies_policy_preview": "says what the form says",
    "page policies_policy_preview_new": "says what the form says",
    "page policy_of_draft_preview": "says what the form says",
    "page policy_versions": "reads",
    "page policy_replay_progress": "reads",
    "page policy_replay_export": "reads",
    "page tenants_apikey_waiting": "reads",
    "policies.boost change": "reads: a boost is given and ended, and never changed",
    "manage.py simulate_policies": "reads",
    "manage.py suggest_limits": "reads",
    "manage.py price": "reads",
    "page search": "reads",
    "page blocked": "reads",
    "page budgets": "reads",
    "page health": "reads, and keeps when it compared the counters",
    "page health_export": "reads",
    "page explorer": "reads",
    "page explorer_export": "reads",
    "page limits": "reads",
    "page limit_subjects": "reads",
    "POST v1/policies/simulate": "reads; what is stored of a long period: test_simulations_over_the_api.py",
    "page month_report": "reads",
    "POST v1/evaluate": "traffic: the ledger has it",
    "POST v1/usage": "traffic: the ledger has it",
    "POST v1/usage/batch": "traffic: the ledger has it",
    "POST v1/reservations/<any:request_id>/extend": "traffic",
    "DELETE v1/reservations/<any:request_id>": "traffic",
    "DELETE v1/reservations/<any:request_id>/extend": "traffic",
    "manage.py changepassword": "asks at the terminal: tenants/tests/test_accounts.py",
    "manage.py check_counters": "reads",
    "manage.py close_month": "an entry a month that is over: policies/tests/test_budgets.py",
    "manage.py demo": "makes what it needs by the functions that the others call",
    "manage.py export_policies": "reads",
    "manage.py migrate": "the tables",
    "manage.py partition_usage": "the tables; an entry a month that is detached: tokvigil_site/tests/test_retention.py",
    "manage.py rebuild_counters": "the counters, from the ledger",
    "manage.py reconcile": "reads",
    "manage.py replay_trace": "makes what it needs by the functions that the others call",
    "manage.py rollup_usage": "the sums, from the ledger",
    "manage.py synthesize_usage": "traffic that is made up: the ledger has it",
    "manage.py up": "makes what it needs by the functions that the others call",
    "manage.py verify_audit": "reads",
}


@pytest.fixture
def world(environment: Environment, tmp_path: Path) -> World:
    return World(environment, tmp_path)


def test_every_mutation_is_known(world: World) -> None:
    known = {*MUTATIONS, *NO_ENTRY}
    assert mutations.found(world.root) == known
    assert not MUTATIONS.keys() & NO_ENTRY.keys()


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_leaves_exactly_one_entry(world: World, name: str) -> None:
    if name in FIRST:
        FIRST[name](world)
    before = Entry.objects.count()
    MUTATIONS[name](world)
    assert Entry.objects.count() == before + 1, name
    entry = Entry.objects.latest("pk")
    assert chain.is_altered(entry) is False
    assert bool(entry.request_id) == (not name.startswith("manage.py")), "commands come from no request"
    assert entry.actor not in ("system", ""), "it says who"
    assert not re.search(r"\dT\d\d:|[{}_]", wording.sentence(entry).what), "it is said in words"
