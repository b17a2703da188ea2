"""Members: invited by a link that works once, given roles, removed; a tenant keeps an owner."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.test import Client
from django.urls import reverse

from audit.log import acting_as
from audit.models import Entry
from tenants import members
from tenants.models import Membership, Role, Tenant
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

ADD = reverse("admin:tenants_membership_add")
LIST = reverse("admin:tenants_membership_changelist")
PASSWORD = "a long enough one 4711"


@pytest.fixture
def olga(acme: Tenant, sign_in: SignIn) -> Client:
    return sign_in("olga", acme, role=Role.OWNER)


def address(what: str, membership: Membership) -> str:
    return reverse(f"admin:tenants_membership_{what}", args=[membership.pk])


def invite(client: Client, tenant: Tenant, person: str, role: str = Role.EDITOR) -> Any:
    return client.post(ADD, {"tenant": tenant.pk, "person": person, "role": role})


def link_in(answer: Any) -> str:
    found = re.search(r'id="link">http://testserver(/[^<]+)<', answer.content.decode())
    assert found is not None
    return found[1]


def choose_password(link: str, password: str = PASSWORD) -> Client:
    browser = Client()
    form = browser.get(link, follow=True)
    url = form.redirect_chain[-1][0] if form.redirect_chain else link
    browser.post(url, {"new_password1": password, "new_password2": password})
    return browser


def opens(client: Client) -> bool:
    return client.get(reverse("admin:policies_policy_changelist")).status_code == 200


def test_who_is_new_chooses_a_password_by_a_link_that_works_once(olga: Client, acme: Tenant) -> None:
    assert "<bdi>Invite a member</bdi>" in olga.get(ADD).content.decode()
    link = link_in(invite(olga, acme, "new@example.org"))
    assert "Invited, not accepted yet" in olga.get(LIST).content.decode()
    browser = choose_password(link)
    assert opens(browser)
    membership = Membership.objects.get(user__email="new@example.org")
    assert (membership.role, membership.user.has_usable_password()) == (Role.EDITOR, True)
    assert "does not work any more" in Client().get(link, follow=True).content.decode()
    assert "Invited, not accepted yet" not in olga.get(LIST).content.decode()
    chosen = Entry.objects.get(action="user.password_changed")
    assert (chosen.actor, chosen.target_name) == ("admin:new@example.org", "new@example.org")
    assert link.split("/")[-2] not in str(list(Entry.objects.values()))


@pytest.mark.parametrize(
    ("password", "again", "says", "field"),
    [
        ("a long enough one 4711", "other", "two password fields", "new_password2"),
        ("too short", "too short", "too short", "new_password2"),
        ("password1234", "password1234", "too common", "new_password2"),
        ("749381652047", "749381652047", "entirely numeric", "new_password2"),
        ("new@example.org", "new@example.org", "too similar", "new_password2"),
        ("", "", "This field is required", "new_password1"),
    ],
)
def test_a_weak_password_is_refused_beside_the_field_and_what_was_typed_is_kept(
    olga: Client, acme: Tenant, password: str, again: str, says: str, field: str
) -> None:
    link = link_in(invite(olga, acme, "new@example.org"))
    browser = Client()
    url = browser.get(link, follow=True).redirect_chain[-1][0]
    answer = browser.post(url, {"new_password1": password, "new_password2": again})
    page = unescape(answer.content.decode())
    assert answer.status_code == 200
    assert says in str(answer.context["form"].errors[field])
    assert f'id="id_{field}_error"' in page
    assert page.count(f'value="{password}"') >= bool(password)
    assert "no-store" in answer["Cache-Control"]
    assert not User.objects.get(email="new@example.org").has_usable_password()


def test_the_page_says_who_invites_to_what_and_the_rules_of_a_password(olga: Client, acme: Tenant) -> None:
    link = link_in(invite(olga, acme, "new@example.org", Role.VIEWER))
    page = unescape(Client().get(link, follow=True).content.decode())
    assert "<h1><bdi>olga</bdi> invites you to <bdi>Acme</bdi></h1>" in page
    assert "As <b>Viewer</b> you may" in page
    assert "see policies, usage, blocked calls, keys and members" in page
    assert "change policies" not in page
    assert "at least 12 characters" in page
    assert "Return to site" not in page


def test_whoever_renews_the_link_is_named_and_nobody_if_it_is_not_known(acme: Tenant) -> None:
    membership, _ = members.invite(acme, "new@example.org", Role.EDITOR)
    with acting_as("admin:otto"), transaction.atomic():
        members.renew(membership)
    found = members.invitation_of(membership.user)
    assert found is not None
    assert (found.by, found.membership) == ("otto", membership)

    membership.delete()
    other = Membership.objects.create(tenant=acme, user=membership.user, role=Role.EDITOR)
    found = members.invitation_of(membership.user)
    assert found is not None
    assert (found.by, found.membership) == ("", other)


def test_a_link_that_was_made_up_tells_nothing(olga: Client, acme: Tenant) -> None:
    link = link_in(invite(olga, acme, "new@example.org"))
    for made_up in (link[:-3] + "xx/", "/admin/invitation/MQ/set-password/", "/admin/invitation/x/y/"):
        answer = Client().get(made_up, follow=True)
        assert answer.status_code == 200
        assert "does not work any more" in answer.content.decode()
        assert "new@example.org" not in answer.content.decode()


def test_who_signs_in_already_is_a_member_at_once(olga: Client, acme: Tenant) -> None:
    User.objects.create_user("bo", email="bo@example.org", password=PASSWORD, is_staff=True)
    answer = invite(olga, acme, "BO@example.org")
    assert (answer.status_code, answer["Location"]) == (302, LIST)
    assert acme.memberships.get(user__username="bo").role == Role.EDITOR
    entry = Entry.objects.get(action="membership.added")
    assert (entry.actor, entry.data) == ("admin:olga", {"member": "bo", "role": "editor"})


@pytest.mark.parametrize(
    ("person", "says"),
    [
        ("", "This field is required"),
        ("olga", "a member already"),
        ("<script>alert(1)</script>", "valid username"),
        ("not@an@address", "valid email"),
        ("locked", "Ask a superuser"),
        ("pending@example.org", "not accepted another invitation"),
        ("x" * 151, "at most 150"),
        ("a\0b", "Null characters"),
    ],
)
def test_what_is_wrong_with_a_person_is_said_beside_the_field(
    olga: Client, acme: Tenant, other: Tenant, person: str, says: str
) -> None:
    User.objects.create_user("locked", password=PASSWORD)
    members.invite(other, "pending@example.org", Role.VIEWER)
    before = Membership.objects.count()
    answer = invite(olga, acme, person)
    assert answer.status_code == 200
    assert says in str(answer.context["errors"])
    assert Membership.objects.count() == before


def test_a_renewed_link_ends_the_one_before(olga: Client, acme: Tenant) -> None:
    old = link_in(invite(olga, acme, "new@example.org"))
    membership = Membership.objects.get(user__email="new@example.org")
    new = link_in(olga.post(address("renew", membership)))
    assert "does not work any more" in Client().get(old, follow=True).content.decode()
    assert opens(choose_password(new))
    assert "signs in already" in olga.post(address("renew", membership), follow=True).content.decode()


def test_withdrawing_an_invitation_ends_its_link_and_the_account(olga: Client, acme: Tenant) -> None:
    link = link_in(invite(olga, acme, "new@example.org"))
    membership = Membership.objects.get(user__email="new@example.org")
    assert olga.post(address("delete", membership), {"post": "yes"}).status_code == 302
    assert not User.objects.filter(email="new@example.org").exists()
    assert "does not work any more" in Client().get(link, follow=True).content.decode()


def test_the_last_owner_stays(olga: Client, acme: Tenant, sign_in: SignIn) -> None:
    mine = acme.memberships.get(user__username="olga")
    for answer in (
        olga.post(address("change", mine), {"role": Role.VIEWER}, follow=True),
        olga.post(address("delete", mine), {"post": "yes"}, follow=True),
        olga.post(
            LIST, {"action": "delete_selected", "_selected_action": [mine.pk], "post": "yes"}, follow=True
        ),
    ):
        assert "last owner of the tenant" in answer.content.decode()
    assert acme.memberships.get(pk=mine.pk).role == Role.OWNER
    sign_in("otto", acme, role=Role.OWNER)
    olga.post(address("change", mine), {"role": Role.VIEWER})
    assert acme.memberships.get(pk=mine.pk).role == Role.VIEWER


def test_nobody_raises_themself(acme: Tenant) -> None:
    ada = User.objects.create_user("ada", is_staff=True)
    membership = Membership.objects.create(tenant=acme, user=ada, role=Role.ADMIN)
    for role in (Role.OWNER, Role.AUDITOR):
        assert (role == Role.AUDITOR) == _changes(membership, role, ada)


def _changes(membership: Membership, role: str, by: User) -> bool:
    try:
        members.change_role(membership, role, by=by)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("role", [Role.ADMIN, Role.EDITOR, Role.VIEWER])
def test_only_owners_say_who_is_a_member(acme: Tenant, sign_in: SignIn, olga: Client, role: str) -> None:
    client = sign_in("mia", acme, role=role)
    mine, hers = (acme.memberships.get(user__username=name) for name in ("mia", "olga"))
    assert invite(client, acme, "friend").status_code == 403
    for membership in (mine, hers):
        assert client.post(address("change", membership), {"role": Role.OWNER}).status_code == 403
        assert client.post(address("delete", membership), {"post": "yes"}).status_code == 403
        assert client.post(address("renew", membership)).status_code == 403
    assert {*acme.memberships.values_list("role", flat=True)} == {role, Role.OWNER}
    assert (
        "change policies, plans, deployments and boosts"
        in client.get(address("change", hers)).content.decode()
    )


def test_an_owner_invites_into_their_own_tenant_alone(olga: Client, acme: Tenant, other: Tenant) -> None:
    assert invite(olga, other, "friend").status_code == 200
    assert not other.memberships.exists()
    theirs = Membership.objects.create(
        tenant=other, user=User.objects.create_user("theirs", is_staff=True), role=Role.VIEWER
    )
    assert olga.post(address("renew", theirs)).status_code == 404
    assert "theirs" not in olga.get(LIST).content.decode()
