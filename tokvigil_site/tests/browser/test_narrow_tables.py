"""Tables on a narrow screen: amounts stand apart, and a table that is wider than the screen says so."""

from __future__ import annotations

import pytest
from django.urls import reverse

from policies.models import BlockedDecision, NamedCaller
from policies.trying import try_it
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from tokvigil_site.tests.browser.conftest import NARROW, WIDE, Look

pytestmark = pytest.mark.django_db(transaction=True)

SAYS = "This table scrolls sideways"


@pytest.fixture
def prod() -> Environment:
    prod = Tenant.create_with_environments("acme", name="Acme").environments.get(slug="prod")
    set_price("test-model", input_usd="0.1234567", output_usd="9.87654321")
    apply_policies(
        prod,
        limits(
            "{metric: cost_usd, window: month, amount: 1, per: environment}",
            "{metric: requests, window: day, amount: 1, per: user}",
        ),
    )
    return prod


@pytest.mark.parametrize("dark", [False, True])
def test_amounts_of_a_decision_are_not_printed_over_each_other(
    look: Look, prod: Environment, dark: bool
) -> None:
    api = Api(prod)
    api.use("ana", input_tokens=2377, max_output_tokens=91)
    assert not api.evaluate("ana", input_tokens=12_345, max_output_tokens=91)["allowed"]
    api.get("/v1/decisions")
    console = look(prod.tenant, dark=dark, narrow=True)
    page = console.open(
        reverse("admin:policies_blockeddecision_change", args=[BlockedDecision.objects.get().pk])
    )
    assert page.locator(".tv-trace-limits tbody tr").count() == 2
    assert console.faults() == []


def test_a_table_that_is_wider_than_its_place_says_that_it_scrolls_as_long_as_it_does(
    look: Look, prod: Environment
) -> None:
    caller = NamedCaller(environment=prod, name="Ann", user_id="ann", model="test-model")
    try_it.keep(caller, actor="test")
    console = look(prod.tenant, narrow=True)
    page = console.open(reverse("admin:try_it"))
    page.get_by_text(SAYS).wait_for()
    assert console.faults() == []
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.get_by_text(SAYS).wait_for(state="hidden")
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    page.get_by_text(SAYS).wait_for()


def test_a_table_that_comes_to_fit_its_place_no_longer_says_that_it_scrolls(
    look: Look, prod: Environment
) -> None:
    caller = NamedCaller(environment=prod, name="Ann", user_id="ann", model="test-model")
    try_it.keep(caller, actor="test")
    page = look(prod.tenant, narrow=True).open(reverse("admin:try_it"))
    # So that its place is as high as before.
    page.add_style_tag(content=".tv-scroll { height: 300px; }")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.get_by_text(SAYS).wait_for()
    page.add_style_tag(content=".tv-try tr > :nth-child(n + 2) { display: none; }")
    page.get_by_text(SAYS).wait_for(state="hidden")
