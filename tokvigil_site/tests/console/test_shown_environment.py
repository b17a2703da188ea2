"""The console shows one environment at a time, says which, and keeps to it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from policies.models import EndUser, Plan, Policy
from tenants.models import ApiKey, Environment, Role, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.tests import stored_rows
from tokvigil_site.tests.console import rows_of_a_tenant
from tokvigil_site.tests.console.addresses import Address, filled
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.console.test_every_address import posts

pytestmark = pytest.mark.django_db

POLICIES = reverse("admin:policies_policy_changelist")
PLANS = reverse("admin:policies_plan_changelist")
# What is changed there is changed in all its environments.
OF_THE_TENANT = ("tenants_tenant_", "usage_modelprice_")
TRY_IT = reverse("admin:try_it")


def policy(environment: Environment, name: str) -> Policy:
    return Policy.objects.create(environment=environment, name=name, ordinal=environment.policies.count())


def page(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def shown(text: str) -> str:
    """The slug that the switch says."""
    (summary,) = re.findall(r'<summary data-environment="([^"]*)"', text)
    return str(summary)


def key(environment: Environment, used_at: datetime) -> None:
    issued, _ = ApiKey.issue(environment, "backend", (EVALUATE,))
    ApiKey.objects.filter(pk=issued.pk).update(last_used_at=used_at)


def test_a_list_has_the_rows_of_the_environment_that_is_shown(
    mia: Client, prod: Environment, dev: Environment
) -> None:
    policy(prod, "of prod")
    policy(dev, "of dev")
    in_prod, in_dev = (
        page(mia, f"{POLICIES}?environment=acme/prod"),
        page(mia, f"{POLICIES}?environment=acme/dev"),
    )
    assert (shown(in_prod), "of prod" in in_prod, "of dev" in in_prod) == ("prod", True, False)
    assert (shown(in_dev), "of prod" in in_dev, "of dev" in in_dev) == ("dev", False, True)


def test_it_is_kept_from_page_to_page_and_when_the_person_signs_in_again(
    mia: Client, dev: Environment
) -> None:
    page(mia, f"{POLICIES}?environment=acme/dev")
    assert [shown(page(mia, url)) for url in (PLANS, reverse("admin:index"), POLICIES)] == ["dev"] * 3


def test_opening_something_of_another_environment_goes_on_there(
    mia: Client, prod: Environment, dev: Environment
) -> None:
    there = policy(dev, "of dev")
    page(mia, f"{POLICIES}?environment=acme/prod")
    assert shown(page(mia, reverse("admin:policies_policy_change", args=[there.pk]))) == "dev"
    assert shown(page(mia, PLANS)) == "dev"


def test_the_first_visit_shows_where_a_key_was_used_last_and_else_prod(
    mia: Client, sign_in: SignIn, acme: Tenant, other: Tenant, dev: Environment
) -> None:
    key(other.environments.get(slug="staging"), datetime(2026, 11, 3, tzinfo=UTC))
    assert shown(page(mia, POLICIES)) == "prod", "what others use counts for nothing"
    key(dev, datetime(2026, 11, 2, tzinfo=UTC))
    key(acme.environments.get(slug="prod"), datetime(2026, 11, 1, tzinfo=UTC))
    assert shown(page(sign_in("ben", acme), POLICIES)) == "dev"
    assert shown(page(mia, POLICIES)) == "prod", "it is kept"


@pytest.mark.parametrize(
    "asked",
    ["other/prod", "acme/nowhere", "nobody/prod", "acme", "/", "acme/prod/x", "x" * 5000, "<script>", "é/ü"],
)
def test_an_environment_that_the_person_may_not_see_is_not_shown_and_not_said_to_exist(
    mia: Client, other: Tenant, asked: str
) -> None:
    said = page(mia, f"{POLICIES}?environment={asked}")
    assert shown(said) == "prod"
    assert "or you are not a member of its tenant" in said
    assert "<script>, or you" not in said


def test_the_switch_offers_the_environments_of_the_persons_tenants(
    mia: Client, sign_in: SignIn, acme: Tenant, other: Tenant
) -> None:
    assert "other/" not in page(mia, POLICIES)
    both = page(sign_in("liz", acme, other), POLICIES)
    links = re.findall(rf'href="{POLICIES}\?environment=([^"]*)"', both)
    assert sorted(links) == [
        f"{tenant}/{slug}" for tenant in ("acme", "other") for slug in ("dev", "prod", "staging")
    ]


def test_from_an_object_the_switch_leads_to_the_list_of_the_other_environment(
    mia: Client, prod: Environment
) -> None:
    there = policy(prod, "Free")
    text = page(mia, reverse("admin:policies_policy_change", args=[there.pk]))
    assert f'href="{POLICIES}?environment=acme/dev"' in text


def test_something_new_is_made_where_its_form_was_opened(
    mia: Client, prod: Environment, dev: Environment
) -> None:
    add = reverse("admin:policies_plan_add")
    opened = page(mia, f"{add}?environment=acme/dev")
    (environment,) = re.findall(r'<input type="hidden" name="environment" value="(\d+)"[^>]*>', opened)
    page(mia, f"{PLANS}?environment=acme/prod")
    mia.post(add, {"environment": environment, "name": "gold"})
    assert Plan.objects.get().environment == dev


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("model", ["policies_boost", "policies_plan", "policies_alertrule", "tenants_apikey"])
def test_a_form_for_what_is_no_environment_is_refused(mia: Client, prod: Environment, model: str) -> None:
    sent = {"environment": "9" * 5000, "name": "new"}
    assert "errorlist" in mia.post(reverse(f"admin:{model}_add"), sent).content.decode()


@pytest.mark.django_db(transaction=True)
def test_every_form_acts_in_the_environment_that_it_was_opened_in(empty_store: None) -> None:
    """Whatever another tab has switched to meanwhile."""
    rows = rows_of_a_tenant.made("okapi")
    client, prod = Client(), rows[Environment]
    assert isinstance(prod, Environment)
    client.force_login(User.objects.get(username="okapi-owner"))
    page(client, f"{PLANS}?environment={prod}")
    sent = posts(client, [*filled(rows), Address("try_it", f"{TRY_IT}?user_id=ann&model=m&name=Ann", False)])
    page(client, f"{PLANS}?environment=okapi/dev")
    dev = prod.tenant.environments.get(slug="dev")
    before = stored_rows.of(dev)
    for address, url, fields in sent:
        if address.name.startswith(OF_THE_TENANT):
            continue
        client.post(
            url, fields | {name: ["typed"] for name in ("reason", "feature", "name") if name in fields}
        )
        assert stored_rows.of(dev) == before, (url, fields)
        page(client, f"{PLANS}?environment=okapi/dev")


@pytest.mark.parametrize("asked", ["9" * 30, "x"])
def test_a_switch_for_an_environment_that_is_not_there_is_pulled_in_no_other(
    mia: Client, prod: Environment, other: Tenant, asked: str
) -> None:
    form = {
        "whole": "environment",
        "feature": "",
        "all_calls": "on",
        "reason": "It runs away.",
        "do": "freeze",
    }
    for named in (asked, str(other.environments.get(slug="prod").pk)):
        assert mia.post(reverse("admin:freeze"), form | {"environment": named}).status_code == 404
    assert not Environment.objects.filter(frozen=True).exists()


def test_a_form_offers_what_lives_in_its_environment(
    mia: Client, prod: Environment, dev: Environment
) -> None:
    gold, silver = (
        Plan.objects.create(environment=prod, name="gold"),
        Plan.objects.create(environment=dev, name="silver"),
    )
    add = reverse("admin:policies_enduser_add")
    opened = page(mia, f"{add}?environment=acme/dev")
    assert ("silver" in opened, "gold" in opened) == (True, False)
    body = {"environment": dev.pk, "user_id": "ann", "plan": gold.pk}
    assert "not one of the available" in str(mia.post(add, body).context["errors"])
    mia.post(add, body | {"plan": silver.pk})
    assert EndUser.objects.get().plan == silver


def test_who_may_only_look_is_offered_nothing_to_add(sign_in: SignIn, acme: Tenant, other: Tenant) -> None:
    liz = sign_in("liz", acme, role=Role.VIEWER)
    add = reverse("admin:policies_plan_add")
    assert f'href="{add}' not in page(liz, PLANS)
    assert liz.get(add).status_code == 403


def test_times_are_in_the_zone_of_the_tenant_that_is_shown(
    sign_in: SignIn, acme: Tenant, other: Tenant, prod: Environment
) -> None:
    key(prod, datetime(2026, 11, 1, 12, 0, tzinfo=UTC))
    key(other.environments.get(slug="prod"), datetime(2026, 11, 1, 12, 0, tzinfo=UTC))
    root = sign_in("root")
    keys: Any = reverse("admin:tenants_apikey_changelist")
    berlin, new_york = (page(root, f"{keys}?environment={tenant}/prod") for tenant in ("acme", "other"))
    assert "Times in Europe/Berlin (CET)" in berlin
    assert "2026-11-01 13:00:00" in berlin
    assert "Times in America/New_York" in new_york
    assert "2026-11-01 07:00:00" in new_york


def test_somebody_without_a_tenant_sees_an_empty_console(
    sign_in: SignIn, acme: Tenant, prod: Environment
) -> None:
    policy(prod, "of prod")
    outsider = sign_in("out", acme)
    acme.memberships.all().delete()
    text = page(outsider, reverse("admin:index"))
    assert "acme" not in text
    assert "You are a member of no tenant yet" in text
    assert outsider.get(POLICIES).status_code == 403
