"""A change in the admin that cannot be made says why: in the form, or, if another came in between, as a message."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError
from django.test import Client
from django.urls import reverse

from policies import end_users
from policies.changing import publishing
from policies.files.file_errors import PolicyFileError
from policies.models import EndUser, Plan
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment, Membership
from tokvigil_site.testing import while_held


@pytest.fixture
def staff(environment: Environment) -> Client:
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    return client


def messages(response: Any) -> str:
    return " ".join(str(message) for message in response.wsgi_request._messages)


@pytest.mark.parametrize(
    "name",
    ["pro\tplus", "pro\x0bplus", "pro\x1fplus", "pro\x7fplus", "pro\x85plus", "pro\x00plus", "x" * 256],
)
def test_a_plan_with_a_bad_name_is_refused_in_the_form(
    environment: Environment, staff: Client, name: str
) -> None:
    answer = staff.post(reverse("admin:policies_plan_add"), {"environment": environment.pk, "name": name})
    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode()
    assert not Plan.objects.exists()


@pytest.mark.parametrize("name", ["pro\u2028plus", "pro plus", " pro ", "p" * NAME_LENGTH_MAX, "pro, plus"])
def test_a_plan_with_a_good_one_is_added(environment: Environment, staff: Client, name: str) -> None:
    answer = staff.post(reverse("admin:policies_plan_add"), {"environment": environment.pk, "name": name})
    assert answer.status_code == 302
    assert Plan.objects.get().name == name.strip()


@pytest.fixture
def free(environment: Environment) -> Plan:
    return publishing.add_plan(environment, "free", actor="test")


def give(environment: Environment) -> EndUser:
    return end_users.set_end_user(environment, "u", plan_name="free", blocked=False, actor="test")


def test_a_plan_that_is_being_given_to_a_user_is_not_removed(environment: Environment, free: Plan) -> None:
    def remove() -> str:
        try:
            publishing.remove_plan(Plan.objects.get(pk=free.pk), actor="test")
        except PolicyFileError as error:
            return str(error)
        return "removed"

    assert "1 end users have the plan 'free'" in while_held(lambda: give(environment), remove)
    assert EndUser.objects.get().plan == free


@pytest.mark.parametrize("way", ["page", "action"])
def test_nor_is_it_in_the_admin(environment: Environment, staff: Client, free: Plan, way: str) -> None:
    def remove() -> Any:
        if way == "page":
            return staff.post(reverse("admin:policies_plan_delete", args=[free.pk]), {"post": "yes"})
        form = {"action": "delete_selected", "_selected_action": [free.pk], "post": "yes"}
        return staff.post(reverse("admin:policies_plan_changelist"), form)

    answer = while_held(lambda: give(environment), remove)
    assert answer.status_code == 302
    assert "1 end users have the plan 'free'" in messages(answer)
    assert Plan.objects.filter(pk=free.pk).exists()


def test_what_is_added_by_two_at_once_is_added_once(environment: Environment, staff: Client) -> None:
    user = User.objects.create_user("vic", password="a long enough one", is_staff=True)
    form = {"tenant": environment.tenant_id, "person": "vic", "role": "viewer"}
    answer = while_held(
        lambda: Membership.objects.create(tenant=environment.tenant, user=user, role="viewer"),
        lambda: staff.post(reverse("admin:tenants_membership_add"), form),
    )
    assert answer.status_code == 302
    assert "Nothing was saved: another change came in between" in messages(answer)
    assert Membership.objects.count() == 1


def test_a_page_that_fails_by_itself_still_fails(
    environment: Environment, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a change is answered so: a page that was sent to itself would be asked for for ever."""
    from tenants.admin import TenantAdmin

    def fail(*_: Any, **__: Any) -> Any:
        raise IntegrityError

    monkeypatch.setattr(TenantAdmin, "get_queryset", fail)
    with pytest.raises(IntegrityError):
        staff.get(reverse("admin:tenants_tenant_changelist"))


@pytest.fixture(autouse=True)
def _plain_static(settings) -> None:  # type: ignore[no-untyped-def]
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
