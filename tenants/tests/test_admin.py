"""Three actors: a superuser, a member of the tenant, and a member of another tenant who must never see it."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from audit.log import log
from audit.models import Entry
from tenants import freezing, keys
from tenants.console.rows import TenantRowsAdmin
from tenants.models import ApiKey, Environment, Membership, Role, Tenant
from tenants.scopes import EVALUATE, USAGE_READ

pytestmark = pytest.mark.django_db


@dataclass(frozen=True)
class World:
    """acme is the tenant in question; `ours` and `theirs` are keys of acme and of the other tenant."""

    acme: Tenant
    prod: Environment
    other_prod: Environment
    ours: ApiKey
    theirs: ApiKey


def signed_in(username: str, tenant: Tenant | None, role: str = Role.ADMIN) -> Client:
    user = User.objects.create_user(username, is_staff=True)
    if tenant is None:
        User.objects.filter(pk=user.pk).update(is_superuser=True)
    else:
        Membership.objects.create(tenant=tenant, user=user, role=role)
    client = Client()
    client.force_login(User.objects.get(pk=user.pk))
    return client


@pytest.fixture
def world() -> World:
    acme, other = (Tenant.create_with_environments(slug) for slug in ("acme", "other"))
    prod, other_prod = (tenant.environments.get(slug="prod") for tenant in (acme, other))
    ours, _ = ApiKey.issue(prod, "our-app", (EVALUATE,))
    theirs, _ = ApiKey.issue(other_prod, "their-app", (EVALUATE,))
    return World(acme, prod, other_prod, ours, theirs)


@pytest.fixture
def superuser(world: World) -> Client:
    return signed_in("root", None)


@pytest.fixture
def member(world: World) -> Client:
    return signed_in("mia", world.acme)


@pytest.fixture
def viewer(world: World) -> Client:
    return signed_in("vic", world.acme, Role.VIEWER)


@pytest.fixture
def stranger(world: World) -> Client:
    return signed_in("sam", world.other_prod.tenant)


def page(model: str, what: str, *arguments: Any) -> str:
    return reverse(f"admin:{model}_{what}", args=arguments)


def switch(environment: Environment) -> str:
    return f"{reverse('admin:freeze')}?environment={environment}"


def text(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200, (url, response.status_code)
    return response.content.decode()


# Their filters have names of their own, and no other is taken.
FILTERED_BY_NAME = {"audit_entry", "policies_blockeddecision"}
OUR_MODELS = [
    model for model, model_admin in admin.site._registry.items() if isinstance(model_admin, TenantRowsAdmin)
]


@pytest.mark.parametrize("model", OUR_MODELS, ids=lambda model: model._meta.label_lower)
def test_every_page_of_the_admin_opens(model: Any, superuser: Client, member: Client, viewer: Client) -> None:
    name = model._meta.label_lower.replace(".", "_")
    looking = [superuser, member] if model is Entry else [superuser, member, viewer]
    for client in looking:
        text(client, page(name, "changelist"))
        searched = client.get(page(name, "changelist") + "?q=a").status_code
        assert searched == (400 if name in FILTERED_BY_NAME else 200)
        allowed = client.get(page(name, "add")).status_code
        assert allowed in (200, 403)
        assert allowed == 403 or client is not viewer


def test_what_is_stored_of_tenants_can_be_opened(world: World, superuser: Client, viewer: Client) -> None:
    membership = Membership.objects.get(user__username="vic")
    for client in (superuser, viewer):
        for name, row in (("tenant", world.acme), ("environment", world.prod), ("apikey", world.ours)):
            text(client, page(f"tenants_{name}", "change", row.pk))
        text(client, page("tenants_membership", "change", membership.pk))


def test_a_member_sees_their_tenant_and_no_other(world: World, member: Client) -> None:
    shown = text(member, page("tenants_apikey", "changelist"))
    assert "our-app" in shown
    assert "their-app" not in shown
    for name in ("tenant", "environment", "apikey", "membership"):
        assert "other" not in text(member, page(f"tenants_{name}", "changelist")).replace("another", "")


@pytest.mark.parametrize(("what", "status"), [("change", 302), ("history", 404)])
def test_a_stranger_cannot_open_rows(world: World, stranger: Client, what: str, status: int) -> None:
    for name, row in (("tenant", world.acme), ("environment", world.prod), ("apikey", world.ours)):
        assert stranger.get(page(f"tenants_{name}", what, row.pk)).status_code == status
    assert "our-app" not in text(stranger, page("tenants_apikey", "changelist"))
    # Nor by asking for it in the address.
    assert "our-app" not in text(
        stranger, page("tenants_apikey", "changelist") + f"?environment={world.prod.pk}"
    )


def test_staff_without_a_membership_sees_nothing(world: World) -> None:
    client = Client()
    client.force_login(User.objects.create_user("nobody", is_staff=True))
    assert client.get(page("tenants_apikey", "changelist")).status_code == 403


def test_a_viewer_changes_nothing(world: World, viewer: Client) -> None:
    url = page("tenants_environment", "change", world.prod.pk)
    assert (
        viewer.post(url, {"default_action": "block", "frozen": "on", "frozen_features": ""}).status_code
        == 403
    )
    form = {"do": "freeze", "whole": "environment", "feature": "", "all_calls": "on", "reason": "x"}
    assert viewer.post(switch(world.prod), form).status_code == 403
    world.prod.refresh_from_db()
    assert (world.prod.default_action, world.prod.frozen) == ("allow", False)


def test_a_role_in_one_tenant_is_none_in_another(world: World, member: Client) -> None:
    mia = User.objects.get(username="mia")
    Membership.objects.create(tenant=world.other_prod.tenant, user=mia, role=Role.VIEWER)
    form = {"do": "freeze", "whole": "environment", "feature": "", "all_calls": "on", "reason": "x"}
    answers = [member.post(switch(each), form).status_code for each in (world.other_prod, world.prod)]
    assert answers == [403, 302]
    assert list(Environment.objects.filter(frozen=True)) == [world.prod]

    add = page("tenants_apikey", "add")
    assert f'value="{world.other_prod.pk}"' not in text(member, add)
    before = ApiKey.objects.count()
    member.post(add, {"environment": world.other_prod.pk, "name": "mine", "scopes": [EVALUATE]})
    assert ApiKey.objects.count() == before


def test_a_new_tenant_has_its_environments(superuser: Client, member: Client) -> None:
    form = {"slug": "fresh", "name": "Fresh", "timezone": "Europe/Berlin"}
    assert member.post(page("tenants_tenant", "add"), form).status_code == 403
    assert superuser.post(page("tenants_tenant", "add"), form).status_code == 302
    tenant = Tenant.objects.get(slug="fresh")
    assert sorted(tenant.environments.values_list("slug", flat=True)) == ["dev", "prod", "staging"]
    entry = Entry.objects.get(tenant_id=tenant.pk)
    assert (entry.action, entry.actor) == ("tenant.created", "admin:root")
    assert "dev" in text(superuser, page("tenants_tenant", "change", tenant.pk))


def test_a_tenants_other_time_zone_binds_all_its_environments(world: World, member: Client) -> None:
    url = page("tenants_tenant", "change", world.acme.pk)
    form = {
        "name": "acme", "timezone": "Asia/Tokyo",
        "environments-TOTAL_FORMS": 0, "environments-INITIAL_FORMS": 0,
    }  # fmt: skip
    # The tenant itself is the owner's.
    assert member.post(url, form).status_code == 403
    signed_in("olga", world.acme, Role.OWNER).post(url, form)
    world.acme.refresh_from_db()
    assert world.acme.timezone == "Asia/Tokyo"
    revision = world.prod.revision
    world.prod.refresh_from_db()
    assert world.prod.revision > revision
    assert Entry.objects.get(action="tenant.changed").actor == "admin:olga"


def test_a_key_is_shown_once(world: World, member: Client) -> None:
    form = {
        "environment": world.prod.pk,
        "name": "new",
        "scopes": [EVALUATE, USAGE_READ],
        "allowed_networks": "",
    }
    response = member.post(page("tenants_apikey", "add"), form, follow=True)
    found = re.search(r"tv_prod_\w+", response.content.decode())
    assert found is not None
    presented = keys.parse(found[0])
    assert presented is not None
    key = ApiKey.objects.get(key_id=presented.key_id)
    assert (key.environment, key.scopes) == (world.prod, [EVALUATE, USAGE_READ])
    assert Entry.objects.filter(action="api_key.issued", actor="admin:mia").exists()
    for url in (page("tenants_apikey", "changelist"), page("tenants_apikey", "change", key.pk)):
        assert presented.secret not in text(member, url)


def test_a_key_is_changed_and_revoked_but_never_deleted(world: World, member: Client) -> None:
    url = page("tenants_apikey", "change", world.ours.pk)
    form = {"name": "renamed", "allowed_networks": "10.0.0.0/8", "scopes": [USAGE_READ]}
    assert member.post(url, form).status_code == 302
    world.ours.refresh_from_db()
    assert (world.ours.name, world.ours.allowed_networks) == ("renamed", ["10.0.0.0/8"])
    # What a key may do stays as it was handed out.
    assert world.ours.scopes == [EVALUATE]
    changes = Entry.objects.get(action="api_key.changed").data["changes"]
    assert changes["name"] == {"before": "our-app", "after": "renamed"}
    assert changes["allowed_networks"] == {"before": [], "after": ["10.0.0.0/8"]}

    both = [world.ours.pk, world.theirs.pk]
    revoke = {"action": "revoke", "_selected_action": both}
    asked = member.post(page("tenants_apikey", "changelist"), revoke).content.decode()
    assert ("renamed" in asked, "their-app" in asked) == (True, False)
    assert not ApiKey.objects.exclude(revoked_at=None).exists()
    member.post(page("tenants_apikey", "changelist"), revoke | {"post": "yes"})
    for key in (world.ours, world.theirs):
        key.refresh_from_db()
    assert world.ours.revoked_at is not None
    assert world.theirs.revoked_at is None
    assert Entry.objects.get(action="api_key.revoked").actor == "admin:mia"
    assert member.post(page("tenants_apikey", "delete", world.ours.pk), {"post": "yes"}).status_code == 403


def test_an_environment_is_changed_by_its_form_and_frozen_by_the_switch(world: World, member: Client) -> None:
    url = page("tenants_environment", "change", world.prod.pk)
    before = world.prod.revision
    assert member.post(url, {"default_action": "block", "frozen": "on"}).status_code == 302
    world.prod.refresh_from_db()
    assert (world.prod.default_action, world.prod.frozen) == ("block", False)
    assert world.prod.revision > before
    for whole, feature in (("feature", "chat"), ("environment", "")):
        form = {
            "do": "freeze",
            "whole": whole,
            "feature": feature,
            "anyway": "on",
            "all_calls": "on",
            "reason": "x",
        }
        assert member.post(switch(world.prod), form).status_code == 302
    world.prod.refresh_from_db()
    assert (world.prod.frozen, world.prod.frozen_features) == (True, ["chat"])
    seen = freezing.in_force(world.prod)[0].seen
    member.post(reverse("admin:unfreeze", query={"environment": str(world.prod)}), {"seen": seen})
    world.prod.refresh_from_db()
    assert world.prod.frozen is False
    entries = Entry.objects.filter(actor="admin:mia", tenant_id=world.acme.pk).order_by("seq")
    assert [entry.action for entry in entries] == [
        "environment.changed",
        "environment.frozen",
        "environment.frozen",
        "environment.unfrozen",
    ]


def test_an_admin_does_not_say_who_is_a_member(world: World, superuser: Client, member: Client) -> None:
    sue = User.objects.create_user("sue", password="a long enough one", is_staff=True)
    signed_in("olga", world.acme, Role.OWNER)
    form = {"tenant": world.acme.pk, "person": "sue", "role": Role.VIEWER}
    add = page("tenants_membership", "add")
    assert member.post(add, form).status_code == 403
    assert superuser.post(add, form).status_code == 302
    membership = Membership.objects.get(user=sue)
    superuser.post(page("tenants_membership", "change", membership.pk), {"role": Role.OWNER})
    superuser.post(
        page("tenants_membership", "changelist"),
        {"action": "delete_selected", "_selected_action": [membership.pk], "post": "yes"},
    )
    assert not Membership.objects.filter(user=sue).exists()
    entries = Entry.objects.filter(action__startswith="membership").order_by("seq")
    assert [(entry.action, entry.data["role"]) for entry in entries] == [
        ("membership.added", "viewer"),
        ("membership.changed", "owner"),
        ("membership.removed", "owner"),
    ]


def test_a_new_key_begins_with_its_name_and_what_a_server_needs(member: Client) -> None:
    response = member.get(page("tenants_apikey", "add"))
    form = response.context["adminform"].form
    assert next(iter(form.fields)) == "name"
    assert (form["preset"].value(), form["scopes"].value()) == ("server", None)
    assert "New API key" in response.content.decode()


def test_a_tenant_that_is_gone_is_named_by_its_id(world: World, superuser: Client) -> None:
    log("tenant.changed", world.acme, tenant_id=999_999)
    assert "tenant 999999" in text(superuser, page("audit_entry", "changelist"))


def test_the_bare_address_leads_to_the_admin(client: Client, superuser: Client) -> None:
    response = client.get("/")
    assert (response.status_code, response["Location"]) == (302, "/admin/")
    shown = text(superuser, "/admin/")
    assert "TokVigil" in shown
    assert "Django administration" not in shown
    assert "View site" not in shown
