"""What somebody of the staff can write into an address of the admin: never a 500, and no look at secrets."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import reverse

from audit.log import log
from audit.models import Entry
from policies.models import EndUser
from tenants.console.rows import OfferedLookups
from tenants.models import ApiKey, Environment, Membership, Role, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.console.site import TokvigilAdminSite

pytestmark = pytest.mark.django_db

NUL, HUGE = "%00", "9" * 30


@pytest.fixture
def acme() -> Tenant:
    return Tenant.create_with_environments("acme")


@pytest.fixture(params=["superuser", "member"])
def staff(request: pytest.FixtureRequest, acme: Tenant) -> Client:
    user = User.objects.create_user("mia", is_staff=True, is_superuser=request.param == "superuser")
    Membership.objects.create(tenant=acme, user=user, role=Role.ADMIN)
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def refused(response: Any) -> bool:
    """As what cannot be read: 400, or the list without it. Not found or not allowed will do as well."""
    return response.status_code in (302, 400, 403, 404)


def changelists() -> list[str]:
    return [
        reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        for model in admin.site._registry
    ]


def test_the_site_is_the_projects_own_and_all_its_pages_offer_what_they_take() -> None:
    assert isinstance(admin.site._registry[User].admin_site, TokvigilAdminSite)
    assert all(isinstance(each, OfferedLookups) for each in admin.site._registry.values())


@pytest.mark.parametrize("lookup", ["gt", "lt", "contains", "startswith", "exact", "isnull", "in", "regex"])
@pytest.mark.parametrize("column", ["secret_hmac", "pepper_id", "key_id"])
def test_columns_that_are_no_filter_of_the_page_cannot_be_looked_up(
    staff: Client, column: str, lookup: str
) -> None:
    for value in ("%5Cx00", "a", NUL):
        url = f"{reverse('admin:tenants_apikey_changelist')}?{column}__{lookup}={value}"
        assert staff.get(url).status_code == 400, url


def test_no_page_takes_a_lookup_that_only_the_database_could_refuse(staff: Client) -> None:
    for changelist in changelists():
        for query in (
            "id__regex=(",
            "name__iregex=%5B",
            f"id__in={NUL}",
            "pk__range=1",
            "password__startswith=p",
        ):
            response = staff.get(f"{changelist}?{query}")
            assert refused(response), (changelist, query, response.status_code)


def test_no_page_fails_on_what_its_own_parameters_cannot_hold(staff: Client) -> None:
    for changelist in changelists():
        names = [
            "q",
            "p",
            "o",
            "e",
            "all",
            "environment",
            "action",
            "chain",
            "_to_field",
            "_popup",
            "at__gte",
        ]
        names += [
            "role__exact",
            "frozen__exact",
            "revoked_at__isempty",
            "groups__id__exact",
            "policy__id__exact",
        ]
        names += ["is_staff__exact", "reason_class__exact", "provider__exact", "kind__exact", "source"]
        for name in names:
            for value in (NUL, HUGE, "x"):
                response = staff.get(f"{changelist}?{name}={value}")
                assert response.status_code < 500, (changelist, name, value)


@pytest.mark.parametrize("what", ["change", "delete", "history"])
def test_no_page_of_a_row_fails_on_what_is_no_id(staff: Client, what: str) -> None:
    for changelist in changelists():
        for row in ("x", "-1", HUGE, NUL, "a%00b", "_00"):
            response = staff.get(f"{changelist}{row}/{what}/")
            assert refused(response), (changelist, row, response.status_code)


def test_rows_chosen_by_what_is_no_id_are_refused(staff: Client) -> None:
    for changelist in changelists():
        for row in ("x", "\0", HUGE, ""):
            form = {"action": "delete_selected", "_selected_action": [row], "post": "yes"}
            assert staff.post(changelist, form).status_code < 500, (changelist, row)


def test_nothing_leads_from_the_admin_to_pages_that_are_not_there(staff: Client) -> None:
    for content_type in [*ContentType.objects.values_list("pk", flat=True), HUGE, "x"]:
        for row in ("4", "x", "0"):
            assert refused(staff.get(f"/admin/r/{content_type}/{row}/"))


def test_autocompletion_fails_on_nothing(staff: Client) -> None:
    for term in (NUL, "x"):
        for field in ("environment", "x", NUL):
            query = f"term={term}&app_label=tenants&model_name=apikey&field_name={field}"
            assert staff.get(f"/admin/autocomplete/?{query}").status_code < 500


def test_what_the_pages_offer_still_works(staff: Client, acme: Tenant) -> None:
    prod = acme.environments.get(slug="prod")
    ApiKey.issue(prod, "revoked", (EVALUATE,))[0].revoke()
    ApiKey.issue(prod, "good", (EVALUATE,))
    url = reverse("admin:tenants_apikey_changelist")

    def shown(query: str) -> list[str]:
        response = staff.get(f"{url}?{query}")
        assert response.status_code == 200, (query, response.status_code)
        return [key.name for key in response.context["cl"].result_list]

    assert shown("revoked_at__isempty=1") == ["good"]
    assert shown("revoked_at__isempty=0") == ["revoked"]
    assert shown(f"environment={prod.pk}") == ["good", "revoked"]
    assert staff.get(reverse("admin:tenants_environment_changelist") + "?frozen__exact=1").status_code == 200
    assert staff.get(reverse("admin:tenants_membership_changelist") + "?role__exact=admin").status_code == 200
    entries = reverse("admin:audit_entry_changelist")
    assert staff.get(f"{entries}?since=2020-01-01&until=2050-01-01&action=tenant.created").status_code == 200


def test_the_action_filter_offers_what_is_in_the_members_own_log(acme: Tenant) -> None:
    other = Tenant.create_with_environments("other")
    environment = Environment.objects.get(tenant=other, slug="prod")
    log("environment.frozen", environment, tenant_id=other.pk)
    user = User.objects.create_user("mia", is_staff=True)
    Membership.objects.create(tenant=acme, user=user, role=Role.ADMIN)
    client = Client()
    client.force_login(user)
    shown = client.get(reverse("admin:audit_entry_changelist"))
    actions = shown.context["filters"].fields["action"]
    assert actions.choices == [("", "Any"), ("tenant.created", "Tenant created")]
    assert Entry.objects.filter(action="environment.frozen").exists()


@pytest.mark.parametrize("following", ["https://evil.example/", "//evil.example", "javascript:alert(1)", ""])
def test_who_signs_in_on_the_way_to_another_site_lands_in_the_admin(following: str) -> None:
    User.objects.create_user("mia", password="a long enough one", is_staff=True)
    form = {"username": "mia", "password": "a long enough one", "next": following}
    response = Client().post(reverse("admin:login"), form)
    assert (response.status_code, response["Location"]) == (302, "/admin/")


def test_end_users_are_found_by_filters_of_their_page(staff: Client, acme: Tenant) -> None:
    prod = acme.environments.get(slug="prod")
    EndUser.objects.create(environment=prod, user_id="eva", blocked=True)
    response = staff.get(
        reverse("admin:policies_enduser_changelist") + f"?environment={prod.pk}&blocked__exact=1"
    )
    assert [user.user_id for user in response.context["cl"].result_list] == ["eva"]
