"""Versions, drafts, copies and Try it in a browser: wide and narrow, light and dark, with hostile names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.urls import reverse

from policies import policy_rows
from policies.changing import drafts, publishing
from policies.models import NamedCaller
from policies.rules import LimitRule, Mode, PolicyRule, Scope
from policies.trying import try_it
from tenants.models import Environment
from tokvigil_site.testing import Api
from tokvigil_site.tests.browser.conftest import Look
from tokvigil_site.tests.browser.test_every_page import HOSTILE, LOOKS, faults_of
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

pytestmark = pytest.mark.django_db(transaction=True)

NAME = HOSTILE.replace("\t", " ")
DAILY = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=5, per=Per.USER)
RULE = PolicyRule(name=NAME, limits=(DAILY,))


def publish(environment: Environment, *rules: PolicyRule) -> None:
    publishing.publish(
        environment, replace(policy_rows.policy_set(environment), policies=rules), actor="test"
    )


@pytest.fixture
def pages(environment: Environment, api: Api) -> list[str]:
    """Of an environment with a history, a draft under which live has moved, and callers."""
    publish(environment, RULE, PolicyRule(name="Monitoring", mode=Mode.MONITOR))
    draft = drafts.begin(environment, NAME, actor=NAME)
    lower = replace(RULE, limits=(replace(DAILY, amount=1),))
    drafts.put(draft, lower, instead_of=NAME, edits=0, actor="test")
    publish(environment, replace(RULE, priority=3), PolicyRule(name="Monitoring", mode=Mode.MONITOR))
    published = drafts.begin(
        environment, NAME, actor=NAME, rule=replace(RULE, priority=4, name=NAME), instead_of=NAME
    )
    drafts.publish(published, edits=0, note=NAME, actor=NAME)
    gold = PolicyRule(name="Gold", scope=Scope(plan=NAME))
    drafts.put(draft, gold, instead_of=None, edits=1, actor="test")
    api.evaluate(NAME)
    caller = NamedCaller(
        environment=environment, name=NAME, user_id=NAME, feature=NAME, plan=NAME, model=NAME
    )
    try_it.keep(caller, actor="test")
    policy = environment.policies.get(name=NAME)
    copying = reverse("admin:policies_copy")
    return [
        reverse("admin:policy_versions", args=[policy.pk]),
        reverse("admin:policy_roll_back", args=[policy.pk, 1]),
        reverse("admin:policy_drafts"),
        reverse("admin:policy_draft", args=[draft.pk]),
        reverse("admin:policy_draft_discard", args=[draft.pk]),
        reverse("admin:policy_draft", args=[published.pk]),
        reverse("admin:policy_of_draft", args=[draft.pk]),
        reverse("admin:policy_of_draft", args=[draft.pk], query={"name": NAME}),
        reverse("admin:policy_of_draft", args=[draft.pk], query={"name": NAME, "as": "text"}),
        f"{copying}?policy={policy.pk}&to=dev",
        f"{copying}?environment={environment}&to=dev",
        reverse("admin:try_it"),
        reverse("admin:try_it", query={"draft": draft.pk, "caller": caller.pk, "in": "draft"}),
        reverse("admin:try_it", query={"user_id": NAME, "model": "", "input_tokens": "-1"}),
    ]


@pytest.mark.parametrize(("dark", "narrow"), LOOKS)
def test_every_page_is_well(
    look: Look, environment: Environment, pages: list[str], dark: bool, narrow: bool
) -> None:
    console = look(environment.tenant, dark=dark, narrow=narrow)
    assert faults_of(console, pages) == {}


@pytest.mark.parametrize(("dark", "narrow"), LOOKS)
def test_the_confirmation_is_well(
    look: Look, environment: Environment, pages: list[str], dark: bool, narrow: bool
) -> None:
    policy = environment.policies.get(name=NAME)
    console = look(environment.tenant, dark=dark, narrow=narrow)
    page = console.open(reverse("admin:policies_policy_edit", args=[policy.pk]))
    publish(environment, replace(RULE, priority=8), PolicyRule(name="Monitoring", mode=Mode.MONITOR))
    page.get_by_label("Amount").first.fill("1")
    page.get_by_role("button", name="Publish…").click()
    page.get_by_text("Live has moved since the form was opened.").wait_for()
    assert console.faults() == []


def test_a_cell_of_try_it_is_opened_by_keyboard(
    look: Look, environment: Environment, pages: list[str]
) -> None:
    page = look(environment.tenant).open(reverse("admin:try_it"))
    page.locator("a.tv-cell").last.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**#trace")
    assert page.get_by_role("heading", name="Which policies apply?").is_visible()
