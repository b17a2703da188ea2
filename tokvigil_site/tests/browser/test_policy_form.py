"""The form of a policy in a browser: the sentence follows what is typed."""

from __future__ import annotations

import pytest
from django.urls import reverse

from tenants.models import Environment, Tenant
from tokvigil_site.tests.browser.conftest import Look

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def prod() -> Environment:
    prod = Tenant.create_with_environments("acme").environments.get(slug="prod")
    policy = prod.policies.create(name="Free", ordinal=1, scope_plan="free")
    policy.limits.create(metric="requests", window="day", amount=5, per="user")
    return prod


def test_the_sentence_follows_what_is_typed(look: Look, prod: Environment) -> None:
    console = look(prod.tenant)
    page = console.open(reverse("admin:policies_policy_edit", args=[prod.policies.get().pk]))
    sentence = page.locator("#policy-preview .tv-sentence")
    sentence.filter(has_text="Every user on the free plan may make 5 requests a day.").wait_for()
    page.get_by_label("Amount").first.fill("-5")
    sentence.filter(has_text="limit 1 cannot be read yet").wait_for()
    page.get_by_label("Amount").first.fill("70")
    sentence.filter(has_text="make 70 requests a day").wait_for()
    page.locator("#id_mode").select_option("monitor")
    page.locator("#policy-preview").filter(has_text="Monitored: it blocks nothing").wait_for()
    assert console.faults() == []
