"""What each role finds in the console: its pages, its buttons, and nothing else."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tenants.models import ApiKey, Environment, Role, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

ENVIRONMENTS = reverse("admin:tenants_environment_changelist")


def navigation(client: Client) -> list[str]:
    text = client.get(reverse("admin:password_change")).content.decode()
    inside = text.split('class="tv-navigation-groups"')[1].split("<details")[0]
    return re.findall(r'<a href="([^"]*)"', inside)


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN, Role.EDITOR, Role.VIEWER, Role.AUDITOR])
def test_the_navigation_has_what_the_role_may_open_and_nothing_else(
    sign_in: SignIn, acme: Tenant, role: str
) -> None:
    client = sign_in("mia", acme, role=role)
    links = navigation(client)
    statuses = {link: client.get(link).status_code for link in links}
    assert set(statuses.values()) == {200}, statuses
    audit = reverse("admin:audit_entry_changelist")
    assert (audit in links) == (role in (Role.OWNER, Role.ADMIN, Role.AUDITOR))
    assert role != Role.AUDITOR or links == [audit]


def test_the_overview_of_an_auditor_is_the_audit(sign_in: SignIn, acme: Tenant, prod: Environment) -> None:
    client = sign_in("aud", acme, role=Role.AUDITOR)
    answer = client.get(reverse("admin:index"), follow=True)
    assert answer.redirect_chain == [(reverse("admin:audit_entry_changelist"), 302)]
    # In the zone of the tenant, but of no environment.
    assert "Europe/Berlin" in answer.content.decode()
    assert answer.context["shown_environment"] is None
    assert client.get(reverse("admin:index") + "?environment=acme/prod", follow=True).context[
        "shown_environment"
    ] is None  # fmt: skip


def freeze(client: Client, environment: Environment) -> bool:
    form = {"whole": "environment", "feature": "", "all_calls": "on", "reason": "It runs away."}
    client.post(f"{reverse('admin:freeze')}?environment={environment}", form)
    environment.refresh_from_db()
    return environment.frozen


@pytest.mark.parametrize(
    ("role", "freezes"),
    [
        (Role.OWNER, True),
        (Role.ADMIN, True),
        (Role.EDITOR, True),
        (Role.VIEWER, False),
        (Role.AUDITOR, False),
    ],
)
def test_editors_freeze(sign_in: SignIn, acme: Tenant, prod: Environment, role: str, freezes: bool) -> None:
    assert freeze(sign_in("mia", acme, role=role), prod) is freezes


def test_an_editor_freezes_but_changes_no_environment(
    sign_in: SignIn, acme: Tenant, prod: Environment
) -> None:
    client = sign_in("edi", acme, role=Role.EDITOR)
    assert freeze(client, prod)
    url = reverse("admin:tenants_environment_change", args=[prod.pk])
    assert client.post(url, {"default_action": "block"}).status_code == 403
    prod.refresh_from_db()
    assert prod.default_action == "allow"
    assert client.get(reverse("admin:tenants_environment_add")).status_code == 403


def test_an_editor_of_one_tenant_is_none_of_another(sign_in: SignIn, acme: Tenant, other: Tenant) -> None:
    client = sign_in("edi", acme, role=Role.EDITOR)
    other.memberships.create(user=User.objects.get(username="edi"), role=Role.VIEWER)
    assert not freeze(client, other.environments.get(slug="prod"))
    # A price is made for a tenant in which they may.
    offered = client.get(reverse("admin:usage_modelprice_add")).context["adminform"].form.fields["tenant"]
    assert list(offered.queryset) == [acme]
    assert offered.required


@pytest.mark.parametrize(
    ("role", "revokes"), [(Role.ADMIN, True), (Role.EDITOR, False), (Role.VIEWER, False)]
)
def test_keys_are_the_admins(
    sign_in: SignIn, acme: Tenant, prod: Environment, role: str, revokes: bool
) -> None:
    key, _ = ApiKey.issue(prod, "app", (EVALUATE,))
    client = sign_in("mia", acme, role=role)
    assert client.get(reverse("admin:tenants_apikey_change", args=[key.pk])).status_code == 200
    client.post(
        reverse("admin:tenants_apikey_changelist"),
        {"action": "revoke", "_selected_action": [key.pk], "post": "yes"},
    )
    key.refresh_from_db()
    assert (key.revoked_at is not None) is revokes
    assert (client.get(reverse("admin:tenants_apikey_add")).status_code == 200) is revokes
