"""Every change of who may sign in, and of who is a member of what, is one audit entry with its actor."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.db.models import ProtectedError
from django.test import Client
from django.urls import reverse

from audit.chain import verify_all
from audit.models import Entry
from tenants.accounts import Account
from tenants.models import Membership, Role, Tenant
from tenants.tests.test_admin import page, signed_in, text

pytestmark = pytest.mark.django_db

PASSWORD = "a long enough one 4711"


@pytest.fixture
def acme() -> Tenant:
    return Tenant.create_with_environments("acme")


@pytest.fixture
def root() -> Client:
    """A superuser, who is signed in."""
    return signed_in("root", None)


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann", password=PASSWORD, is_staff=True)


def entries(action: str = "") -> list[Entry]:
    """Oldest first, those of making a tenant left out."""
    found = Entry.objects.exclude(action="tenant.created").filter(action__startswith=action)
    return list(found.order_by("id"))


def form_of(client: Client, url: str, **changes: Any) -> dict[str, Any]:
    """The form of a page as a browser would send it back, with some fields filled in otherwise."""
    form = client.get(url).context["adminform"].form
    fields: dict[str, Any] = {}
    for name in form.fields:
        value = changes.pop(name, form[name].value())
        if isinstance(value, list):
            fields[name] = [getattr(each, "pk", each) for each in value]
        elif hasattr(value, "strftime"):
            # What was there is sent along, hidden: its default is another each time.
            for prefix in ("", "initial-"):
                fields[f"{prefix}{name}_0"] = value.strftime("%Y-%m-%d")
                fields[f"{prefix}{name}_1"] = value.strftime("%H:%M:%S")
        elif value not in (None, False):
            fields[name] = value
    assert not changes, changes
    return fields


def change(client: Client, row: User | Group, **changes: Any) -> None:
    url = page(row._meta.label_lower.replace(".", "_"), "change", row.pk)
    response = client.post(url, form_of(client, url, **changes))
    assert response.status_code == 302, response.context["errors"]


def the_one() -> Entry:
    (entry,) = entries()
    return entry


@pytest.mark.parametrize("right", ["is_superuser", "is_staff", "is_active"])
def test_a_right_that_is_given_or_taken_is_one_entry(root: Client, ann: User, right: str) -> None:
    before = getattr(ann, right)
    change(root, ann, **{right: not before})
    entry = the_one()
    assert (entry.action, entry.actor, entry.tenant_id) == ("user.changed", "admin:root", None)
    assert (entry.target_type, entry.target_name) == ("auth.user", "ann")
    assert entry.data == {"changes": {right: {"before": before, "after": not before}}}


def test_groups_and_permissions_are_named_in_one_entry(root: Client, ann: User) -> None:
    old, new = (Group.objects.create(name=name) for name in ("old", "new"))
    ann.groups.add(old)
    permission = Permission.objects.get(codename="change_user")
    change(root, ann, groups=[new], user_permissions=[permission], email="ann@example.org")
    assert the_one().data["changes"] == {
        "groups": {"before": ["old"], "after": ["new"]},
        "user_permissions": {"before": [], "after": [str(permission)]},
        "email": {"before": "", "after": "ann@example.org"},
    }
    change(root, ann, groups=[])
    assert entries()[-1].data["changes"] == {"groups": {"before": ["new"], "after": []}}


def test_a_form_that_changes_nothing_is_no_entry(root: Client, ann: User) -> None:
    change(root, ann)
    assert entries() == []


def test_a_user_who_is_added_is_one_entry(root: Client) -> None:
    form = {"username": "new", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    assert root.post(page("auth_user", "add"), form).status_code == 302
    entry = the_one()
    assert (entry.action, entry.actor, entry.target_name) == ("user.added", "admin:root", "new")
    assert entry.data == {"is_active": True, "is_staff": False, "is_superuser": False}


def test_a_password_that_a_superuser_sets_is_one_entry(root: Client, ann: User) -> None:
    url = reverse("admin:auth_user_password_change", args=[ann.pk])
    form = {"password1": "other words 4712", "password2": "other words 4712", "usable_password": "true"}
    assert root.post(url, form | {"password2": "not the same"}).status_code == 200
    assert entries() == []
    assert root.post(url, form | {"set-password": "Change"}).status_code == 302
    assert (the_one().action, the_one().actor) == ("user.password_changed", "admin:root")
    assert the_one().data == {"usable": True}
    assert root.post(url, {"usable_password": "false", "unset-password": "Disable"}).status_code == 302
    assert entries()[-1].data == {"usable": False}
    assert "4712" not in str([entry.data for entry in entries()])


def test_ones_own_new_password_is_one_entry(ann: User) -> None:
    client = Client()
    client.force_login(ann)
    url, new = reverse("admin:password_change"), "other words 4712"
    form = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert client.get(url).status_code == 200
    assert client.post(url, form | {"old_password": "a guess"}).status_code == 200
    assert entries() == []
    assert client.post(url, form).status_code == 302
    assert (the_one().action, the_one().actor) == ("user.password_changed", "admin:ann")
    # Still signed in.
    assert client.get(url).status_code == 200


def test_who_signs_in_leaves_one_entry(ann: User) -> None:
    form = {"username": "ann", "password": PASSWORD, "next": "/admin/"}
    assert Client().post(reverse("admin:login"), form).status_code == 302
    assert [entry.action for entry in entries()] == ["sign_in.succeeded"]


def test_a_deleted_user_is_one_entry_and_each_membership_another(
    root: Client, ann: User, acme: Tenant
) -> None:
    other = Tenant.create_with_environments("other")
    for tenant in (other, acme):
        Membership.objects.create(tenant=tenant, user=ann, role=Role.ADMIN)
    url = page("auth_user", "delete", ann.pk)
    asked = text(root, url)
    assert "ann is admin of acme" in asked
    assert "protected" not in asked
    assert root.post(url, {"post": "yes"}).status_code == 302
    assert not User.objects.filter(pk=ann.pk).exists()
    assert [(entry.action, entry.tenant_id, entry.actor, entry.target_name) for entry in entries()] == [
        ("membership.removed", acme.pk, "admin:root", "ann is admin of acme"),
        ("membership.removed", other.pk, "admin:root", "ann is admin of other"),
        ("user.deleted", None, "admin:root", "ann"),
    ]


def test_users_deleted_together_leave_their_entries_chain_by_chain(
    root: Client, ann: User, acme: Tenant
) -> None:
    ben = User.objects.create_user("ben")
    other = Tenant.create_with_environments("other")
    for tenant, user in ((other, ann), (acme, ben), (acme, ann)):
        Membership.objects.create(tenant=tenant, user=user)
    form = {"action": "delete_selected", "_selected_action": [ann.pk, ben.pk], "post": "yes"}
    assert root.post(page("auth_user", "changelist"), form).status_code == 302
    assert [(entry.action, entry.tenant_id) for entry in entries()] == [
        *[("membership.removed", acme.pk)] * 2,
        ("membership.removed", other.pk),
        *[("user.deleted", None)] * 2,
    ]


def test_no_membership_goes_with_what_it_belongs_to(ann: User, acme: Tenant) -> None:
    Membership.objects.create(tenant=acme, user=ann)
    with pytest.raises(ProtectedError):
        ann.delete()
    acme.environments.all().delete()
    with pytest.raises(ProtectedError):
        acme.delete()
    assert Membership.objects.count() == 1


def test_a_membership_saved_as_it_was_is_no_entry(root: Client, ann: User, acme: Tenant) -> None:
    membership = Membership.objects.create(tenant=acme, user=ann, role=Role.VIEWER)
    url = page("tenants_membership", "change", membership.pk)
    root.post(url, {"role": Role.VIEWER})
    assert entries() == []
    root.post(url, {"role": Role.OWNER})
    assert the_one().action == "membership.changed"


def test_groups_that_are_made_changed_and_deleted_are_one_entry_each(root: Client, ann: User) -> None:
    permission = Permission.objects.get(codename="add_user")
    root.post(page("auth_group", "add"), {"name": "crew"})
    group = Group.objects.get()
    ann.groups.add(group)
    change(root, group, permissions=[permission])
    change(root, group)
    root.post(page("auth_group", "delete", group.pk), {"post": "yes"})
    made, changed, gone = entries()
    assert (made.action, made.data) == (
        "group.added",
        {"changes": {"name": {"before": None, "after": "crew"}}},
    )
    assert changed.data["changes"] == {"permissions": {"before": [], "after": [str(permission)]}}
    assert (gone.action, gone.data) == ("group.deleted", {"members": ["ann"]})
    assert {entry.actor for entry in entries()} == {"admin:root"}


def test_groups_deleted_together_are_one_entry_each(root: Client) -> None:
    groups = [Group.objects.create(name=name) for name in "ab"]
    form = {"action": "delete_selected", "_selected_action": [group.pk for group in groups], "post": "yes"}
    assert root.post(page("auth_group", "changelist"), form).status_code == 302
    assert [entry.action for entry in entries()] == ["group.deleted"] * 2


def test_users_and_groups_are_the_superusers_alone(ann: User, acme: Tenant) -> None:
    """Also with all of Django's permissions: who may change users may make himself a superuser."""
    Membership.objects.create(tenant=acme, user=ann, role=Role.OWNER)
    ann.user_permissions.set(Permission.objects.all())
    client = Client()
    client.force_login(User.objects.get(pk=ann.pk))
    for name in ("auth_user", "auth_group"):
        for url in (page(name, "changelist"), page(name, "add"), page("auth_user", "change", ann.pk)):
            assert client.get(url).status_code == 403, url
    url = reverse("admin:auth_user_password_change", args=[ann.pk])
    assert client.post(url, {"password1": PASSWORD, "password2": PASSWORD}).status_code == 403


def test_createsuperuser_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)
    call_command("createsuperuser", "--noinput", username="sue", email="sue@example.org", stdout=StringIO())
    assert (the_one().action, the_one().actor) == ("user.added", "cli:createsuperuser")
    assert (the_one().target_type, the_one().target_name) == ("auth.user", "sue")
    assert the_one().data["is_superuser"] is True
    assert User.objects.get(username="sue").check_password(PASSWORD)
    with pytest.raises(CommandError, match="already taken"):
        call_command("createsuperuser", "--noinput", username="sue", email="sue@example.org")
    assert len(entries()) == 1


def test_changepassword_is_one_entry(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: "other words 4712")
    call_command("changepassword", "ann", stdout=StringIO())
    assert (the_one().action, the_one().actor) == ("user.password_changed", "cli:changepassword")
    ann.refresh_from_db()
    assert ann.check_password("other words 4712")
    with pytest.raises(CommandError, match="does not exist"):
        call_command("changepassword", "nobody", stdout=StringIO())
    assert len(entries()) == 1


def test_what_the_manager_makes_is_one_entry_or_nothing() -> None:
    Account.objects.create_user("ann")
    assert [entry.target_name for entry in entries()] == ["ann"]


def test_a_tenant_without_a_chain_is_broken(acme: Tenant) -> None:
    assert all(verdict.ok for verdict in verify_all())
    silent = Tenant.objects.create(slug="silent", name="Silent")
    assert [verdict.broken for verdict in verify_all() if not verdict.ok] == [
        f"tenant {silent.pk}, entry 0: the chain's head is missing"
    ]


def test_the_chain_of_a_tenant_begins_with_its_making() -> None:
    late = Tenant.objects.create(slug="late", name="Late")
    member = Membership.objects.create(tenant=late, user=User.objects.create_user("ann"))
    member.log("membership.added")
    assert [verdict.broken for verdict in verify_all()] == [
        f"tenant {late.pk}, entry 1: is not tenant.created, with which the chain of a tenant begins"
    ]
