"""Whoever may not do something is told which role they have, what it does not allow, and whom to ask."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tenants.models import Environment, Membership, Role, Tenant
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

NEW_POLICY = reverse("admin:policies_policy_add")
AUDIT_LOG = reverse("admin:audit_entry_changelist")


def owner_of(tenant: Tenant, username: str, *, active: bool = True, password: str = "") -> None:
    user = User.objects.create_user(username, password=password or None, is_staff=True, is_active=active)
    Membership.objects.create(tenant=tenant, user=user, role=Role.OWNER)


def refused(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 403
    return answer.content.decode()


def test_a_viewer_reads_their_role_what_it_does_not_allow_and_who_the_owners_are(
    acme: Tenant, other: Tenant, sign_in: SignIn
) -> None:
    owner_of(acme, "olga", password="x")
    owner_of(other, "quentin", password="x")
    page = refused(sign_in("vic", acme, role=Role.VIEWER), NEW_POLICY)
    assert "You may not do this" in page
    assert "<td>Viewer</td>" in page
    assert (
        "change policies, plans, deployments and boosts; change alerts and where they go; change and block end users"
        in page
    )
    assert "see policies, usage" not in page
    assert "Ask an owner: <bdi>olga</bdi></td>" in page
    assert ("Other" in page, "quentin" in page) == (False, False)


def test_owners_who_cannot_sign_in_are_not_named(acme: Tenant, sign_in: SignIn) -> None:
    owner_of(acme, "former", active=False, password="x")
    owner_of(acme, "invited")
    page = refused(sign_in("vic", acme, role=Role.VIEWER), NEW_POLICY)
    assert "Ask a superuser: this tenant has no owner." in page
    assert ("former" in page, "invited" in page) == (False, False)


def test_a_refused_form_changes_nothing_and_is_answered_by_the_same_page(
    acme: Tenant, prod: Environment, sign_in: SignIn
) -> None:
    vic = sign_in("vic", acme, role=Role.VIEWER)
    url = f"{reverse('admin:freeze')}?environment={prod}"
    answer = vic.post(url, {"do": "freeze", "whole": "feature", "feature": "chat", "reason": "x"})
    assert (answer.status_code, "<td>Viewer</td>" in answer.content.decode()) == (403, True)
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]


def test_an_auditor_of_one_tenant_who_owns_another_reads_of_the_one_that_they_look_into(
    acme: Tenant, other: Tenant, sign_in: SignIn
) -> None:
    client = sign_in("ada", acme, role=Role.AUDITOR)
    Membership.objects.create(tenant=other, user=User.objects.get(username="ada"), role=Role.OWNER)
    page = refused(client, reverse("admin:auth_user_changelist"))
    assert "What you opened is for superusers alone, or for nobody." in page
    assert "Acme" not in page


def test_an_auditor_and_who_is_a_member_of_nothing_are_told(acme: Tenant, sign_in: SignIn) -> None:
    assert "<td>Auditor</td>" in refused(sign_in("ada", acme, role=Role.AUDITOR), NEW_POLICY)
    nobody = Client()
    nobody.force_login(User.objects.create_user("new", is_staff=True))
    assert "You are a member of no tenant yet." in refused(nobody, NEW_POLICY)


def test_a_superuser_reads_that_nobody_may(sign_in: SignIn, acme: Tenant) -> None:
    assert "Nobody may do this in the console." in refused(sign_in("root"), f"{AUDIT_LOG}add/")


@pytest.mark.parametrize("role", [Role.EDITOR, Role.VIEWER])
def test_the_role_in_the_shown_tenant_stands_beside_the_environment(
    acme: Tenant, other: Tenant, sign_in: SignIn, role: Role
) -> None:
    client = sign_in("eve", acme, role=role)
    Membership.objects.create(tenant=other, user=User.objects.get(username="eve"), role=Role.OWNER)
    for environment, said in (("acme/prod", role.label), ("other/prod", "Owner")):
        page = client.get(reverse("admin:limits"), {"environment": environment}).content.decode()
        switch = page.split("<summary data-environment")[1].split("</summary>")[0]
        assert f"Your role:</span> {said}" in switch


def test_an_auditor_who_is_shown_no_environment_reads_their_role_in_the_header(
    acme: Tenant, sign_in: SignIn
) -> None:
    page = sign_in("ada", acme, role=Role.AUDITOR).get(AUDIT_LOG).content.decode()
    assert "Your role:</span> Auditor" in page.split("</header>")[0]
