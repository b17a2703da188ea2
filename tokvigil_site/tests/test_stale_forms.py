"""Two open the same page of the admin; what the first saves is not lost when the second saves something else.

A page is opened, changed and sent as a browser does it, hidden fields and all.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from policies import end_users
from policies.changing import publishing
from policies.models import EndUser, Plan, Policy
from tenants.models import ApiKey, Environment, Membership, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.testing import apply_policies, limits, while_held
from usage.models import ModelPrice

CHANGED_MEANWHILE = "Somebody else changed this"


class Form(HTMLParser):
    """The fields of the page's form, as a browser would send them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, list[str]] = {}
        self._area: str | None = None
        self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        name = given.get("name", "")
        if tag == "input" and name and given.get("type") not in ("submit", "file", "button"):
            ticked = given.get("type") in ("checkbox", "radio")
            if not ticked or "checked" in given:
                self.fields.setdefault(name, []).append(given.get("value", "on" if ticked else ""))
        elif tag == "textarea":
            self._area = name
            self.fields[name] = [""]
        elif tag == "select":
            self._select = name
        elif tag == "option" and "selected" in given and self._select:
            self.fields.setdefault(self._select, []).append(given.get("value", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._area:
            # The first line break belongs to the tag.
            self.fields[self._area] = [self.fields[self._area][0].removeprefix("\n").replace("\n", "\r\n")]
            self._area = None
        elif tag == "select":
            self._select = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.fields[self._area][0] += data


@pytest.fixture
def staff(environment: Environment) -> Client:
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    return client


def address(row: Model) -> str:
    return reverse(f"admin:{row._meta.label_lower.replace('.', '_')}_change", args=[row.pk])


def opened(client: Client, row: Model) -> dict[str, Any]:
    # The page of a policy has its form behind "Edit".
    url = reverse("admin:policies_policy_edit", args=[row.pk]) if isinstance(row, Policy) else address(row)
    response = client.get(url)
    assert response.status_code == 200
    return Form(response.content.decode()).fields


def save(client: Client, row: Model, form: dict[str, Any], **changes: Any) -> str:
    """What the answer's page says; "" once it is saved."""
    kept = {name: value for name, value in form.items() if changes.get(name, "") is not None}
    response = client.post(
        address(row), kept | {name: new for name, new in changes.items() if new is not None}
    )
    if response.status_code == 302:
        return ""
    return " ".join(
        re.findall(r"(?:errorlist|errornote)[^>]*>(.*?)</(?:ul|p|div)>", response.content.decode(), re.DOTALL)
    )


def price() -> ModelPrice:
    return ModelPrice.objects.create(
        provider="openai",
        model="gpt-x",
        aliases=["gpt-x-latest", "a,b"],
        effective_from=datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC),
        input_per_million=Decimal("1.5"),
        output_per_million=Decimal("2"),
        cached_input_per_million=Decimal("0.75"),
        tiers=[{"above_input_tokens": 1000, "input": "3", "output": "4"}],
    )


def rows(environment: Environment) -> dict[str, Model]:
    key, _ = ApiKey.issue(
        environment,
        "app",
        (EVALUATE,),
        allowed_networks=["10.0.0.0/8"],
        requests_per_minute=5,
        expires_at=datetime(2030, 1, 1, 0, 0, 7, 5, tzinfo=UTC),
    )
    publishing.add_plan(environment, "free", actor="test")
    user = end_users.set_end_user(environment, " user,1 ", plan_name="free", blocked=True, actor="test")
    member = Membership.objects.create(
        tenant=environment.tenant, user=User.objects.create_user("vic", is_staff=True), role="viewer"
    )
    return {
        "tenant": environment.tenant,
        "environment": environment,
        "key": key,
        "user": user,
        "price": price(),
        "membership": member,
        "account": member.user,
        "group": Group.objects.create(name="staff"),
    }


def values(row: Model) -> dict[str, Any]:
    found = type(row)._default_manager.filter(pk=row.pk).values().get()
    return {name: value for name, value in found.items() if not name.startswith(("revis", "updated_at"))}


# A row, what a colleague changes of it meanwhile, and what the reader of the page changes.
EDITS = [
    ("tenant", {"timezone": "Asia/Tokyo"}, {"name": "Acme Inc"}),
    ("environment", {"frozen": True, "frozen_features": ["chat"]}, {"default_action": "block"}),
    ("key", {"allowed_networks": ["192.0.2.0/24"]}, {"name": "the app"}),
    ("key", {"requests_per_minute": None, "expires_at": None}, {"name": "the app"}),
    ("key", {"expires_at": datetime(2027, 1, 1, tzinfo=UTC)}, {"requests_per_minute": "6"}),
    ("user", {"plan_id": None}, {"blocked": None}),
    (
        "price",
        {"input_per_million": Decimal("9"), "aliases": ["z"], "active": False},
        {"output_per_million": "3"},
    ),
    ("account", {"is_active": False, "is_staff": False}, {"first_name": "Vic"}),
    ("account", {"is_superuser": True}, {"email": "vic@example.com"}),
    ("price", {"tiers": [], "cached_input_per_million": None}, {"output_per_million": "3"}),
]


@pytest.mark.parametrize(("name", "theirs", "mine"), EDITS)
def test_what_a_colleague_saved_stays(
    environment: Environment, staff: Client, name: str, theirs: dict[str, Any], mine: dict[str, Any]
) -> None:
    row = rows(environment)[name]
    form = opened(staff, row)
    before = values(row)
    type(row)._default_manager.filter(pk=row.pk).update(**theirs)
    assert save(staff, row, form, **mine) == ""
    after = values(row)
    assert {field: after[field] for field in theirs} == theirs
    changed = {field for field in after if after[field] != before[field]}
    assert changed == {*theirs, *mine}


@pytest.mark.parametrize(
    "name", ["tenant", "environment", "key", "user", "price", "membership", "account", "group"]
)
def test_a_page_that_is_saved_as_it_was_opened_changes_nothing(
    environment: Environment, staff: Client, name: str
) -> None:
    row = rows(environment)[name]
    before = values(row)
    assert save(staff, row, opened(staff, row)) == ""
    assert values(row) == before


@pytest.mark.parametrize(
    ("name", "theirs", "mine"),
    [
        ("tenant", {"name": "Theirs"}, {"name": "Mine"}),
        ("key", {"allowed_networks": ["192.0.2.0/24"]}, {"allowed_networks": "198.51.100.0/24"}),
        ("key", {"requests_per_minute": None}, {"requests_per_minute": "7"}),
        ("price", {"input_per_million": Decimal("9")}, {"input_per_million": "3"}),
        ("membership", {"role": "admin"}, {"role": "owner"}),
    ],
)
def test_a_field_that_both_changed_is_refused(
    environment: Environment, staff: Client, name: str, theirs: dict[str, Any], mine: dict[str, Any]
) -> None:
    row = rows(environment)[name]
    form = opened(staff, row)
    type(row)._default_manager.filter(pk=row.pk).update(**theirs)
    after = values(row)
    assert CHANGED_MEANWHILE in save(staff, row, form, **mine)
    assert values(row) == after
    assert save(staff, row, opened(staff, row), **mine) == ""


def test_rights_that_a_colleague_took_stay_taken(environment: Environment, staff: Client) -> None:
    found = rows(environment)
    user, group = found["account"], found["group"]
    right, other = Permission.objects.order_by("pk")[:2]
    assert isinstance(user, User)
    assert isinstance(group, Group)
    user.groups.add(group)
    group.permissions.set([right, other])
    user_form, group_form = opened(staff, user), opened(staff, group)
    user.groups.clear()
    group.permissions.set([other])
    assert save(staff, user, user_form, first_name="Vic") == ""
    assert save(staff, group, group_form, name="crew") == ""
    assert not user.groups.exists()
    assert [*group.permissions.all()] == [other]
    group.refresh_from_db()
    assert group.name == "crew"


def test_the_hash_of_a_password_is_not_in_the_page(environment: Environment, staff: Client) -> None:
    user = User.objects.create_user("amy", password="correct horse")
    page = staff.get(address(user)).content.decode()
    assert user.password not in page
    assert user.password.rpartition("$")[2] not in page


def test_a_policy_is_not_mixed_of_two_edits(environment: Environment, staff: Client) -> None:
    def edit(amount: int, priority: int) -> str:
        return limits(
            f"{{metric: requests, window: day, amount: {amount}, per: user}}", priority=str(priority)
        )

    apply_policies(environment, edit(5, 0))
    policy = Policy.objects.get()
    form = opened(staff, policy)
    apply_policies(environment, edit(3, 0))
    assert "it is at version 2 now" in save(staff, policy, form, priority="9", _publish="yes")
    policy.refresh_from_db()
    assert (policy.version, policy.priority, int(policy.limits.get().amount)) == (2, 0, 3)
    assert save(staff, policy, opened(staff, policy), priority="9", _publish="yes") == ""
    policy.refresh_from_db()
    assert (policy.version, policy.priority, int(policy.limits.get().amount)) == (3, 9, 3)


def test_a_change_that_is_about_to_be_committed_stays_too(environment: Environment, staff: Client) -> None:
    form = opened(staff, environment)
    said = while_held(
        lambda: Environment.objects.filter(pk=environment.pk).update(frozen=True),
        lambda: save(staff, environment, form, default_action="block"),
    )
    environment.refresh_from_db()
    assert (said, environment.frozen, environment.default_action) == ("", True, "block")


@pytest.mark.parametrize(
    ("name", "theirs", "mine"),
    [
        ("price", {"active": False}, {"output_per_million": "3"}),
        ("user", {"plan_id": None}, {"blocked": None}),
    ],
)
def test_so_does_one_of_a_row_that_is_saved_as_a_whole(
    environment: Environment, staff: Client, name: str, theirs: dict[str, Any], mine: dict[str, Any]
) -> None:
    row = rows(environment)[name]
    form = opened(staff, row)
    while_held(
        lambda: type(row)._default_manager.filter(pk=row.pk).update(**theirs),
        lambda: save(staff, row, form, **mine),
    )
    after = values(row)
    assert {field: after[field] for field in theirs} == theirs


def test_a_bulk_block_keeps_a_plan_that_is_about_to_be_committed(
    environment: Environment, staff: Client
) -> None:
    user = EndUser.objects.get(pk=rows(environment)["user"].pk)
    publishing.add_plan(environment, "pro", actor="test")
    pro = Plan.objects.get(name="pro")
    while_held(
        lambda: EndUser.objects.filter(pk=user.pk).update(plan=pro, blocked=False),
        lambda: staff.post(
            reverse("admin:policies_enduser_changelist"), {"action": "block", "_selected_action": [user.pk]}
        ),
    )
    user.refresh_from_db()
    assert (user.plan, user.blocked) == (pro, True)


def test_each_page_of_rows_is_guarded() -> None:
    """A new one is, too: it derives from RowForm, or compares versions."""
    from django.contrib import admin

    from policies.admin.policy_forms import PolicyForm
    from tenants.console.forms import RowForm
    from tenants.console.rows import ReadOnlyAdmin, RowsAdmin

    ours = [each for each in admin.site._registry.values() if not isinstance(each, ReadOnlyAdmin)]
    assert {Tenant, User} <= {each.model for each in ours}
    assert all(isinstance(each, RowsAdmin) and issubclass(each.form, (RowForm, PolicyForm)) for each in ours)


@pytest.fixture(autouse=True)
def _plain_static(settings) -> None:  # type: ignore[no-untyped-def]
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
