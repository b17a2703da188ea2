"""Three actors: a superuser, a member of the tenant, and a member of another tenant."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from policies import policy_rows
from policies.changing.publishing import publish
from policies.end_users import load_record, set_end_user
from policies.files.policy_file import parse
from policies.models import EndUser, Plan, Policy
from policies.rules import LimitRule
from tenants.models import Environment, Membership, Role, Tenant
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

pytestmark = pytest.mark.django_db

FILE = """
version: 1
plans: [free, gold]
policies:
  - {name: Default, limits: [{metric: requests, window: day, amount: 50}]}
  - name: Free
    scope: {plan: free}
    models: {allow: ["gpt-4o-mini", "claude-*"]}
    per_request: {cost_usd: "0.05"}
    limits: [{metric: cost_usd, window: month, amount: "5.00"}]
"""


@pytest.fixture
def environment() -> Environment:
    environment = Tenant.create_with_environments("acme").environments.get(slug="prod")
    publish(environment, parse(FILE), actor="cli:test")
    return environment


def signed_in(username: str, tenant: Tenant | None, role: str = Role.ADMIN) -> Client:
    user = User.objects.create_user(username, is_staff=True, is_superuser=tenant is None)
    if tenant is not None:
        Membership.objects.create(tenant=tenant, user=user, role=role)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def superuser() -> Client:
    return signed_in("root", None)


@pytest.fixture
def member(environment: Environment) -> Client:
    return signed_in("mia", environment.tenant)


@pytest.fixture
def viewer(environment: Environment) -> Client:
    return signed_in("vic", environment.tenant, Role.VIEWER)


@pytest.fixture
def stranger() -> Client:
    return signed_in("sam", Tenant.create_with_environments("other"))


def page(model: str, what: str, *arguments: Any) -> str:
    return reverse(f"admin:policies_{model}_{what}", args=arguments)


def policy(environment: Environment, name: str) -> Policy:
    return environment.policies.get(name=name, archived_at=None)


def form(limits: list[dict[str, Any]] | None = None, kept: int = 0, **fields: Any) -> dict[str, Any]:
    """A filled-in policy form, as a browser sends it; `kept` limits were there when the page was made."""
    limits = limits or []
    found = {
        "name": "VIP", "kind": "override", "mode": "enforce", "priority": 0,
        "scope_user": "", "scope_feature": "", "scope_plan": "", "models_allow": "", "models_deny": "",
        "per_request_cost_usd": "", "per_request_input_tokens": "", "per_request_output_tokens": "",
        "on_unavailable": "block", "on_unsettled": "release", "unknown_price": "block",
        "limits-TOTAL_FORMS": len(limits), "limits-INITIAL_FORMS": kept, "_publish": "yes",
    }  # fmt: skip
    for number, limit in enumerate(limits):
        found |= {f"limits-{number}-{name}": value for name, value in limit.items()}
    return found | fields


DAILY = {"metric": "requests", "window": "day", "amount": "100", "per": "user"}


def errors(response: Any) -> str:
    assert response.status_code == 200
    context = response.context
    found = [*context["adminform"].form.errors.values()]
    for formset in context["inline_admin_formsets"]:
        found += [*formset.formset.non_form_errors(), *(form.errors for form in formset.formset.forms)]
    return str(found)


def test_every_page_of_a_stored_row_opens(
    environment: Environment, superuser: Client, member: Client, viewer: Client
) -> None:
    user = set_end_user(environment, "ann", plan_name="free", blocked=False, actor="cli:test")
    rows = [
        ("policy", policy(environment, "Free")),
        ("plan", Plan.objects.get(name="free")),
        ("enduser", user),
    ]
    for client in (superuser, member, viewer):
        for model, row in rows:
            assert client.get(page(model, "change", row.pk)).status_code == 200
            assert client.get(page(model, "history", row.pk)).status_code == 200


def test_a_stranger_sees_no_row(environment: Environment, stranger: Client) -> None:
    user = set_end_user(environment, "ann", plan_name="free", blocked=False, actor="cli:test")
    rows = [
        ("policy", policy(environment, "Free")),
        ("plan", Plan.objects.get(name="free")),
        ("enduser", user),
    ]
    for model, row in rows:
        assert stranger.get(page(model, "change", row.pk)).status_code == 302
        assert stranger.get(page(model, "delete", row.pk)).status_code == 302
        assert str(row) not in stranger.get(page(model, "changelist")).content.decode()
    for what in ("policy", "enduser"):
        assert "acme" not in stranger.get(page(what, "add")).content.decode()
    url = page("policy", "change", policy(environment, "Free").pk)
    stranger.post(url, form(name="Stolen"))
    assert policy(environment, "Free").version == 1


def test_a_stranger_cannot_put_a_policy_into_a_foreign_environment(
    environment: Environment, stranger: Client
) -> None:
    response = stranger.post(page("policy", "add"), form(environment=environment.pk))
    assert "Select a valid choice" in errors(response)
    assert not Policy.objects.filter(name="VIP").exists()


def test_a_viewer_saves_and_archives_nothing(environment: Environment, viewer: Client) -> None:
    free = policy(environment, "Free")
    assert viewer.post(page("policy", "add"), form(environment=environment.pk)).status_code == 403
    assert viewer.post(page("policy", "change", free.pk), form()).status_code == 403
    assert viewer.post(page("policy", "delete", free.pk), {"post": "yes"}).status_code == 403
    viewer.post(
        page("policy", "changelist"),
        {"action": "delete_selected", "_selected_action": [free.pk], "post": "yes"},
    )
    free.refresh_from_db()
    assert (free.archived_at, free.version) == (None, 1)


def test_a_policy_saved_in_the_admin_is_published(environment: Environment, member: Client) -> None:
    environment.refresh_from_db()
    before = environment.revision
    body = form(
        [DAILY, {"metric": "cost_usd", "window": "hour", "amount": "0.25", "per": "feature"}],
        environment=environment.pk, scope_user=" ann ", models_deny="gpt-4*\r\n\r\no1*\r\n",
    )  # fmt: skip
    assert member.post(page("policy", "add"), body).status_code == 302

    vip = policy(environment, "VIP")
    rule = policy_rows.rule_of(vip)
    assert rule.scope.user == " ann "
    assert rule.models.deny == ("gpt-4*", "o1*")
    assert rule.limits == (
        LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=100, per=Per.USER),
        LimitRule(metric=Metric.COST_USD, window=Window.HOUR, amount=250_000_000, per=Per.FEATURE),
    )
    version = vip.versions.get()
    assert (version.version, version.actor) == (1, "admin:mia")
    environment.refresh_from_db()
    assert environment.revision == before + 1
    assert environment.tracked_pairs.filter(per="feature", window="hour").exists()
    assert Entry.objects.get(action="policy.added", target_name="VIP").actor == "admin:mia"


def test_changing_a_policy_makes_its_next_version(environment: Environment, member: Client) -> None:
    row = policy(environment, "Default")
    kept = row.limits.get()
    url = page("policy", "change", row.pk)
    assert "50" in member.get(page("policy", "edit", row.pk)).content.decode()
    body = form([{**DAILY, "id": kept.pk, "policy": row.pk}], kept=1, name="Basic", mode="monitor")
    assert member.post(url, body).status_code == 302

    row.refresh_from_db()
    assert (row.name, row.version, row.mode) == ("Basic", 2, "monitor")
    assert [str(limit.amount.normalize()) for limit in row.limits.all()] == ["1E+2"]
    assert row.versions.get(version=2).document["limits"][0]["amount"] == 100  # type: ignore[index]
    assert policy(environment, "Free").version == 1


def test_saving_a_policy_as_it_is_makes_no_version(environment: Environment, member: Client) -> None:
    row = policy(environment, "Free")
    url = page("policy", "change", row.pk)
    shown = member.get(page("policy", "edit", row.pk)).context
    body = form(kept=1)
    for form_shown in (shown["adminform"].form, *shown["inline_admin_formsets"][0].formset.forms[:1]):
        for field in form_shown:
            body[field.html_name] = "" if field.value() is None else field.value()
    body["limits-TOTAL_FORMS"] = 1
    assert member.post(url, body).status_code == 302
    row.refresh_from_db()
    assert (row.version, row.versions.count()) == (1, 1)


def test_a_limit_is_taken_out(environment: Environment, member: Client) -> None:
    row = policy(environment, "Default")
    gone = {**DAILY, "id": row.limits.get().pk, "policy": row.pk, "DELETE": "on"}
    member.post(page("policy", "change", row.pk), form([gone], kept=1, name="Default"))
    assert not row.limits.exists()
    assert not environment.tracked_pairs.filter(window="day").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Free"}, "another policy is named"),
        ({"scope_plan": "silver"}, "no plan"),
        ({"priority": "10001"}, "10000"),
        ({"models_allow": "a\nb\na"}, "listed twice"),
        ({"per_request_cost_usd": "-1"}, "not an amount"),
        ({"limits": [{**DAILY, "amount": "1.5"}]}, "whole number"),
        ({"limits": [{**DAILY, "amount": "-1"}]}, "whole number"),
        ({"limits": [DAILY, DAILY]}, "keep one"),
        ({"limits": [{**DAILY, "metric": "concurrency"}]}, "window: total"),
        ({"limits": [{**DAILY, "metric": "cost_usd", "amount": "9000001"}]}, "too much"),
    ],
)
def test_what_a_file_may_not_say_the_form_may_not_either(
    environment: Environment, member: Client, fields: dict[str, Any], message: str
) -> None:
    body = form(fields.pop("limits", None), environment=environment.pk, **fields)
    assert message in errors(member.post(page("policy", "add"), body))
    assert environment.policies.count() == 2


def test_a_change_that_comes_in_between_loses_nothing(
    environment: Environment, member: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.admin.policy_forms.publishing.objections", lambda *arguments, **named: ())

    def too_late(*arguments: Any, **named: Any) -> None:
        raise Policy.DoesNotExist("archived meanwhile")

    monkeypatch.setattr("policies.admin.policy_publishing.publishing.publish_one", too_late)
    row = policy(environment, "Default")
    url = page("policy", "change", row.pk)
    response = member.post(url, form(name="Default"), follow=True)
    assert "Nothing was saved: archived meanwhile" in response.content.decode()
    assert row.limits.count() == 1


def test_deleting_a_policy_archives_it(environment: Environment, member: Client) -> None:
    free, default = policy(environment, "Free"), policy(environment, "Default")
    assert "Archive the policy" in member.get(page("policy", "delete", free.pk)).content.decode()
    member.post(page("policy", "delete", free.pk), {"post": "yes"})
    member.post(
        page("policy", "changelist"),
        {"action": "delete_selected", "_selected_action": [default.pk], "post": "yes"},
    )
    for row in (free, default):
        row.refresh_from_db()
        assert row.archived_at is not None
        assert row.versions.get(version=2).document is None
        assert member.post(page("policy", "change", row.pk), form()).status_code == 403
    assert not environment.tracked_pairs.exists()
    archived = Entry.objects.filter(action="policy.archived").values_list("actor", flat=True)
    assert list(archived) == ["admin:mia"] * 2


def test_plans_are_added_and_removed_through_publishing(environment: Environment, member: Client) -> None:
    member.post(page("plan", "add"), {"environment": environment.pk, "name": "silver"})
    silver = environment.plans.get(name="silver")
    member.post(page("plan", "delete", silver.pk), {"post": "yes"})
    assert not environment.plans.filter(name="silver").exists()
    entries = Entry.objects.filter(target_name="silver").order_by("seq")
    assert [f"{entry.action} {entry.actor}" for entry in entries] == [
        "plan.added admin:mia",
        "plan.removed admin:mia",
    ]


def test_a_plan_in_use_is_not_removed(environment: Environment, member: Client) -> None:
    free = environment.plans.get(name="free")
    assert "archive the policy first" in member.get(page("plan", "delete", free.pk)).content.decode()
    member.post(page("plan", "delete", free.pk), {"post": "yes"})
    assert environment.plans.filter(name="free").exists()


def test_end_users_are_stored_through_their_domain(environment: Environment, member: Client) -> None:
    gold = environment.plans.get(name="gold")
    body = {"environment": environment.pk, "user_id": "ann", "plan": gold.pk}
    assert member.post(page("enduser", "add"), body).status_code == 302
    assert load_record(environment.pk, "ann") == "0gold"
    ann = EndUser.objects.get()
    for action, stored_as in (("block", "1gold"), ("unblock", "0gold")):
        member.post(page("enduser", "changelist"), {"action": action, "_selected_action": [ann.pk]})
        assert load_record(environment.pk, "ann") == stored_as
    member.post(page("enduser", "change", ann.pk), {"plan": "", "blocked": "on"})
    assert load_record(environment.pk, "ann") == "1"
    member.post(page("enduser", "delete", ann.pk), {"post": "yes"})
    assert load_record(environment.pk, "ann") == "-"
    entries = Entry.objects.filter(target_name="ann", actor="admin:mia")
    assert entries.count() == 5


def test_the_list_says_whom_a_policy_is_for(environment: Environment, member: Client) -> None:
    shown = member.get(page("policy", "changelist")).content.decode()
    assert "plan free" in shown
    assert "everybody else" in shown


def test_the_form_explains_itself(environment: Environment, member: Client) -> None:
    shown = member.get(page("policy", "edit", policy(environment, "Free").pk)).content.decode()
    for field in ("kind", "mode", "on_unavailable", "on_unsettled", "unknown_price"):
        assert f'id="id_{field}_helptext"' in shown
    assert "Cost per request (USD)" in shown


def test_a_policy_is_said_to_be_archived_never_deleted(environment: Environment, member: Client) -> None:
    free = policy(environment, "Free")
    chosen = {"action": "delete_selected", "_selected_action": [free.pk]}
    pages = [
        member.get(page("policy", "change", free.pk)),
        member.get(page("policy", "delete", free.pk)),
        member.get(page("policy", "changelist")),
        member.post(page("policy", "changelist"), chosen),
        member.post(page("policy", "delete", free.pk), {"post": "yes"}, follow=True),
    ]
    for response in pages:
        icons = r'<span class="[^"]*material-symbols[^"]*"[^>]*>[^<]*</span>'
        hidden = rf"<script.*?</script>|{icons}|<[^>]*>"
        shown = re.sub(hidden, "", response.content.decode(), flags=re.DOTALL)
        assert "rchive" in shown
        # A limit is deleted indeed.
        assert "elete" not in shown.replace("This item will be deleted.", "")
