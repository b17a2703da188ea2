"""Every address of the console: nothing is learned of another tenant, and nothing changed without the right to.

The addresses are those that the site has, so a page cannot be forgotten: addresses.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import Client

from tenants.models import Membership, Role, Tenant
from tokvigil_site.tests import stored_rows
from tokvigil_site.tests.console import page_forms, rows_of_a_tenant
from tokvigil_site.tests.console.addresses import Address, Rows, filled

pytestmark = pytest.mark.django_db(transaction=True)

MARK = "quagga"
NO_ROLE = "stranger"
CLOSED = (302, 400, 403, 404, 405)
# One's own sign-in, and what is the same for all.
EVERYBODYS = {
    "login",
    "logout",
    "invitation",
    "password_change",
    "password_change_done",
    "jsi18n",
    "index",
    "view_on_site",
}
POST_ANYTHING: tuple[page_forms.Fields, ...] = ({}, {"post": ["yes"]})


@dataclass
class World:
    """A tenant with a row of each kind, and its owner's browser."""

    rows: Rows
    tenant: Tenant
    addresses: list[Address] = field(default_factory=list)

    def sign_in(self, role: str, *, owns: Tenant | None = None) -> Client:
        """Somebody with this role here, who is also an owner of the other tenant, if there is one."""
        user = User.objects.create_user(f"somebody-{role}", is_staff=True)
        if role != NO_ROLE:
            Membership.objects.create(tenant=self.tenant, user=user, role=role)
        if owns is not None:
            Membership.objects.create(tenant=owns, user=user, role=Role.OWNER)
        return signed_in(user)


@pytest.fixture
def world(empty_store: None) -> World:
    rows = rows_of_a_tenant.made(MARK)
    tenant = rows[Tenant]
    assert isinstance(tenant, Tenant)
    return World(rows, tenant, filled(rows))


@pytest.fixture
def other() -> Tenant:
    return Tenant.create_with_environments("elsewhere")


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def everything(tenant: Tenant) -> dict[str, list[Any]]:
    """What is stored of it, and of people."""
    people = {"users": User.objects.all(), "groups": Group.objects.all()}
    return stored_rows.of(tenant) | {
        name: list(all_.order_by("pk").values()) for name, all_ in people.items()
    }


def posts(owner: Client, addresses: list[Address]) -> list[tuple[Address, str, page_forms.Fields]]:
    """Whatever an owner could send from there, and the least that anybody could."""
    found = []
    for address in addresses:
        if address.name in EVERYBODYS:
            continue
        found += [(address, address.url, fields) for fields in POST_ANYTHING]
        answer = owner.get(address.url)
        if answer.status_code != 200 or "html" not in answer["Content-Type"]:
            continue
        for form in page_forms.posting(answer.content.decode()):
            if "logout" in form.action:
                continue
            found += [(address, _target(address, form.action), fields) for fields in form.submissions()]
    return found


def _target(address: Address, action: str) -> str:
    return action if action.startswith("/") else address.url + (action if action.startswith("?") else "")


def learned(client: Client, answer: Any) -> bool:
    """Whether the mark is in the answer, or on the page that it leads to, with what that says."""
    said = str(answer.headers) + _said(answer)
    if answer.status_code == 302:
        said += client.get(answer["Location"], follow=True).content.decode(errors="replace")
    return MARK in said


def _said(answer: Any) -> str:
    """All of it, also of a file that is written while it is read."""
    return b"".join(answer).decode(errors="replace")


def test_every_model_of_the_console_has_a_row_here(world: World) -> None:
    assert set(admin.site._registry) <= set(world.rows)


def test_a_member_of_another_tenant_learns_nothing(world: World, other: Tenant) -> None:
    sam = world.sign_in(NO_ROLE, owns=other)
    wrong = {}
    for address in world.addresses:
        if address.name == "logout":
            continue
        answer = sam.get(address.url)
        if learned(sam, answer) or (address.takes_ids and answer.status_code not in CLOSED):
            wrong[address.url] = answer.status_code
    assert wrong == {}


def test_a_member_of_another_tenant_changes_nothing(world: World, other: Tenant) -> None:
    sam, owner = world.sign_in(NO_ROLE, owns=other), signed_in(User.objects.get(username=f"{MARK}-owner"))
    sent = posts(owner, world.addresses)
    before = everything(world.tenant)
    wrong = {}
    for address, url, fields in sent:
        answer = sam.post(url, fields)
        if address.takes_ids and answer.status_code not in CLOSED:
            wrong[url] = answer.status_code
    assert wrong == {}
    assert everything(world.tenant) == before


@pytest.mark.parametrize("role", [Role.VIEWER, Role.AUDITOR])
def test_who_only_looks_changes_nothing(world: World, role: str) -> None:
    client, owner = world.sign_in(role), signed_in(User.objects.get(username=f"{MARK}-owner"))
    sent = posts(owner, world.addresses)
    before = everything(world.tenant)
    wrong = {}
    for address, url, fields in sent:
        answer = client.post(url, fields)
        # What only shows something does so for a POST too, a list without the actions that they may not; and a file
        # that says what a page says is theirs to take.
        is_file = answer.get("Content-Disposition", "").startswith("attachment")
        shows = fields in POST_ANYTHING or address.name.endswith("_changelist") or is_file
        if answer.status_code not in CLOSED and not shows:
            wrong[url] = answer.status_code
    assert wrong == {}
    assert everything(world.tenant) == before
    # By an owner the same do.
    for _, url, fields in sent:
        owner.post(url, fields)
    assert everything(world.tenant) != before


@pytest.mark.parametrize("role", [Role.VIEWER, Role.AUDITOR])
def test_what_one_may_in_one_tenant_changes_nothing_in_another(
    world: World, other: Tenant, role: str
) -> None:
    client, owner = (
        world.sign_in(role, owns=other),
        signed_in(User.objects.get(username=f"{MARK}-owner")),
    )
    sent = posts(owner, world.addresses)
    before = everything(world.tenant)
    for _, url, fields in sent:
        client.post(url, fields)
    assert everything(world.tenant) == before


def test_nor_does_an_auditor_who_owns_another_see_more_than_the_audit(world: World, other: Tenant) -> None:
    client = world.sign_in(Role.AUDITOR, owns=other)
    wrong = [
        address.url
        for address in world.addresses
        if address.name not in ("logout", "invitation")
        and "/audit/" not in address.url
        and learned(client, client.get(address.url))
    ]
    assert wrong == []


def test_an_auditor_sees_only_the_audit(world: World) -> None:
    client = world.sign_in(Role.AUDITOR)
    wrong = {}
    seen = set()
    for address in world.addresses:
        if address.name == "logout":
            continue
        answer = client.get(address.url)
        if address.name.startswith("audit_"):
            seen |= {address.name} if answer.status_code == 200 else set()
        elif answer.status_code == 200 and (address.name not in EVERYBODYS or MARK in _said(answer)):
            wrong[address.url] = answer.status_code
    assert wrong == {}
    assert {"audit_entry_changelist", "audit_entry_change"} <= seen


def test_a_viewer_sees_everything_but_the_audit_and_the_sign_ins(world: World) -> None:
    client = world.sign_in(Role.VIEWER)
    for address in world.addresses:
        if address.name.endswith("_changelist"):
            hidden = address.name.startswith(("audit_", "auth_"))
            assert client.get(address.url).status_code == (403 if hidden else 200), address


def test_who_is_not_signed_in_is_asked_to(world: World) -> None:
    nobody = Client()
    for address in world.addresses:
        if address.name not in EVERYBODYS:
            answer = nobody.get(address.url)
            assert answer.status_code in CLOSED, address
            assert MARK not in _said(answer)
