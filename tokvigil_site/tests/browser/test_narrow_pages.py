"""Pages on a narrow screen: titles have their line, filters are folded, and what belongs together is seen to."""

from __future__ import annotations

import pytest
from django.urls import reverse
from playwright.sync_api import Locator

from policies.models import AlertRule, Policy
from tenants.models import Environment, Tenant
from tokvigil_site.testing import apply_policies, limits
from tokvigil_site.tests.browser.conftest import Look

pytestmark = pytest.mark.django_db(transaction=True)

LONG = "Requests and tokens of the free plan while the summer campaign runs"
REQUESTS = "{metric: requests, window: day, amount: 5, per: user}"
TOKENS = "{metric: tokens, window: day, amount: 1000, per: user}"
BEFORE = "(element) => getComputedStyle(element, '::before').content"


@pytest.fixture
def prod() -> Environment:
    prod = Tenant.create_with_environments("acme", name="Acme").environments.get(slug="prod")
    apply_policies(prod, limits(REQUESTS, TOKENS))
    return prod


def box(of: Locator) -> dict[str, float]:
    found = of.bounding_box()
    assert found is not None
    x, y, width, height = found["x"], found["y"], found["width"], found["height"]
    return {"y": y, "width": width, "right": x + width, "bottom": y + height}


@pytest.mark.parametrize("dark", [False, True])
def test_the_buttons_of_a_page_stand_beneath_its_title(look: Look, prod: Environment, dark: bool) -> None:
    rule = AlertRule.objects.create(environment=prod, name=LONG, event="limit.threshold", thresholds=[80])
    console = look(prod.tenant, dark=dark, narrow=True)
    for path in (
        reverse("admin:policies_alertrule_changelist"),
        reverse("admin:policies_alertrule_change", args=[rule.pk]),
    ):
        page = console.open(path)
        title, actions = box(page.locator(".tv-crumbs")), page.locator(".tv-header-actions")
        assert box(actions)["y"] >= title["bottom"]
        assert title["width"] > 90
        assert box(page.locator("h1"))["right"] <= 390
        assert console.faults() == []

    page = look(prod.tenant).open(reverse("admin:policies_alertrule_changelist"))
    button = box(page.get_by_role("link", name="New alert rule"))
    assert button["y"] < box(page.locator(".tv-crumbs"))["bottom"] + 20


def test_the_box_to_tick_stands_in_the_first_line_of_a_row_without_a_label_to_see(
    look: Look, prod: Environment
) -> None:
    console = look(prod.tenant, narrow=True)
    page = console.open(reverse("admin:policies_policy_changelist"))
    tick = page.get_by_role("checkbox", name=f"Select {Policy.objects.get()}", exact=True)
    cell = page.locator("#result_list .action-checkbox")
    assert cell.evaluate(BEFORE) == "none"
    first = page.locator("#result_list .field-described")
    assert box(first)["y"] <= box(tick)["y"] < box(first)["bottom"]
    tick.check()
    assert tick.is_checked()
    assert console.faults() == []


def test_each_limit_in_the_form_of_a_policy_has_a_box_with_its_number(look: Look, prod: Environment) -> None:
    console = look(prod.tenant, narrow=True)
    page = console.open(reverse("admin:policies_policy_edit", args=[Policy.objects.get().pk]))
    rows = page.locator("#limits-group tbody:not(.empty-form)")
    assert rows.count() == 2
    page.get_by_text("Add another Limit").click()
    assert rows.count() == 3
    above = -1e9
    for row in rows.all():
        assert row.locator(".form-row").evaluate(BEFORE) == '"Limit " counter(limit)'
        assert row.evaluate("(element) => getComputedStyle(element).borderTopWidth") == "1px"
        assert box(row)["y"] >= above + 8
        above = box(row)["bottom"]
    assert console.faults() == []


@pytest.mark.parametrize(
    ("name", "query", "says", "folded", "in_sight"),
    [
        ("audit_entry_changelist", "actor=ana&find=x", "Filters (2 set)", "Action", None),
        ("audit_entry_changelist", "", "Filters", "Action", None),
        ("policies_blockeddecision_changelist", "user=ana&model=o3", "Filters (2 set)", "Feature", None),
        ("usage_usageevent_changelist", "period=30d&user=ana", "Filters (1 set)", "Feature", "Period"),
        ("explorer", "by=user&plan=free", "Filters (1 set)", "Show", "Period"),
        ("blocked", "reason=MODEL_DENIED&plan=free", "Filters (2 set)", "Reason", "Period"),
        ("limits", "", "Filters", "State", None),
    ],
)
def test_filters_are_folded_where_the_page_is_narrow(
    look: Look, prod: Environment, name: str, query: str, says: str, folded: str, in_sight: str | None
) -> None:
    path = f"{reverse(f'admin:{name}')}?{query}"
    console = look(prod.tenant, narrow=True)
    page = console.open(path)
    field = page.get_by_label(folded, exact=True)
    assert not field.is_visible()
    if in_sight:
        assert page.get_by_label(in_sight, exact=True).is_visible()
    page.locator("summary").get_by_text(says, exact=True).click()
    assert field.is_visible()
    assert console.faults() == []

    page = look(prod.tenant).open(path)
    assert page.get_by_label(folded, exact=True).is_visible()
    assert not page.locator(".tv-filters-switch").is_visible()


def test_values_side_by_side_say_of_which_version_they_are(look: Look, prod: Environment) -> None:
    apply_policies(prod, limits(REQUESTS.replace("5", "7"), TOKENS))
    path = reverse("admin:policy_versions", args=[Policy.objects.get().pk])
    console = look(prod.tenant, narrow=True)
    page = console.open(path)
    page.locator(".tv-two").wait_for()
    changed = page.locator(".tv-two-differs [role=cell]").all_inner_texts()
    assert [text.split("\n") for text in changed] == [
        ["Version 1", "− 5 requests"],
        ["Version 2", "+ 7 requests"],
    ]
    alike = page.locator(".tv-two [role=row]:not(.tv-two-differs) [role=cell]:visible").first
    assert alike.inner_text().startswith("Version 1 and Version 2\n")
    assert console.faults() == []

    page = look(prod.tenant).open(path)
    assert page.locator(".tv-two-of:visible").count() == 0
    assert page.get_by_role("columnheader", name="Version 2").is_visible()
