"""A form offers the ways to save that lead somewhere."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse

from tenants.models import ApiKey, Environment, Role, Tenant
from tenants.scopes import EVALUATE
from tokvigil_site.testing import apply_policies, limits
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

ONE_LIMIT = "{metric: requests, window: day, amount: 5, per: user}"


@pytest.fixture
def owner(sign_in: SignIn, acme: Tenant) -> Client:
    return sign_in("olga", acme, role=Role.OWNER)


def buttons(client: Client, url: str, environment: Environment) -> set[str]:
    page = client.get(url, {"environment": str(environment)}).content.decode()
    return set(re.findall(r'name="(_save|_continue|_addanother)"', page))


@pytest.mark.parametrize(
    "form", ["tenants_apikey", "policies_alertendpoint", "tenants_membership", "policies_boost"]
)
def test_a_form_that_ends_with_what_is_shown_once_or_stays_as_it_is_has_one_way_to_save(
    owner: Client, prod: Environment, form: str
) -> None:
    apply_policies(prod, limits(ONE_LIMIT))
    assert buttons(owner, reverse(f"admin:{form}_add"), prod) == {"_save"}


def test_a_key_that_is_there_can_be_edited_on_but_leads_to_no_further_one(
    owner: Client, prod: Environment
) -> None:
    key, _ = ApiKey.issue(prod, "web", (EVALUATE,))
    page = reverse("admin:tenants_apikey_change", args=[key.pk])
    assert buttons(owner, page, prod) == {"_save", "_continue"}


def test_what_can_be_edited_on_offers_it(owner: Client, prod: Environment) -> None:
    page = reverse("admin:policies_enduser_add")
    assert buttons(owner, page, prod) == {"_save", "_continue", "_addanother"}
