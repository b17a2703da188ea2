"""From nothing to an explained block, by clicking alone: what a new owner and a colleague do in the console."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from playwright.sync_api import Page

from policies.models import Policy
from tenants.models import Environment, Membership, Role, Tenant
from tokvigil_site.tests.browser.conftest import Look

pytestmark = pytest.mark.django_db(transaction=True)

PASSWORD = "a long enough one"
CALL = {"user_id": "ana", "plan": "free", "model": "gpt-4o-mini", "input_tokens": 1, "max_output_tokens": 0}


class Application:
    """With the key that the console showed."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key

    def evaluate(self) -> dict[str, Any]:
        return self._post("/v1/evaluate", CALL)

    def call(self) -> dict[str, Any]:
        """Asked for, and reported if it was allowed."""
        decision = self.evaluate()
        if decision["allowed"]:
            usage = {"user_id": "ana", "model": "gpt-4o-mini", "input_tokens": 1, "output_tokens": 0}
            self._post("/v1/usage", {"request_id": decision["request_id"], **usage})
        return decision

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = Request(self._url + path, json.dumps(body).encode(), headers)  # noqa: S310 (our own server)
        try:
            with urlopen(request, timeout=30) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found
        except HTTPError as error:
            raise AssertionError(error.read()) from error


def person(tenant: Tenant, name: str, role: str) -> None:
    user = User.objects.create_user(name, password=PASSWORD, is_staff=True)
    Membership.objects.create(tenant=tenant, user=user, role=role)


def sign_in(look: Look, name: str) -> Page:
    page = look(signed_in=False).open(reverse("admin:login"))
    page.fill("#id_username", name)
    page.fill("#id_password", PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Overview").wait_for()
    return page


def go(page: Page, link: str) -> None:
    page.locator("nav[aria-label=Console]").get_by_role("link", name=link, exact=True).click()
    page.wait_for_load_state("networkidle")


def save(page: Page) -> None:
    page.locator("input[name=_save], button[name=_save]").first.click()
    page.wait_for_load_state("networkidle")


def publish(page: Page, version: int) -> None:
    """From the form of a policy, past what it changes."""
    page.get_by_role("button", name="Publish…").click()
    page.get_by_role("heading", name="What changes").wait_for()
    page.get_by_role("button", name=f"Publish as version {version}").click()
    page.wait_for_load_state("networkidle")


def test_a_new_owner_sets_limits_sees_a_block_and_raises_them_and_a_colleague_rolls_back(look: Look) -> None:
    acme = Tenant.create_with_environments("acme", timezone="Europe/Berlin")
    prod: Environment = acme.environments.get(slug="prod")
    person(acme, "olga", Role.OWNER)
    person(acme, "carl", Role.EDITOR)

    olga = sign_in(look, "olga")
    olga.goto(olga.url.split("?")[0] + f"?environment={prod}")
    assert "Until calls are governed" in olga.inner_text("main")
    go(olga, "Plans")
    olga.get_by_role("link", name="New plan").click()
    olga.fill("#id_name", "free")
    save(olga)
    go(olga, "Policies")
    olga.get_by_role("link", name="New policy").click()
    olga.fill("#id_name", "Free plan")
    olga.fill("#id_scope_plan", "free")
    olga.get_by_text("When in doubt").click()
    olga.select_option("#id_unknown_price", "allow")
    olga.get_by_role("link", name="Add another Limit").click()
    olga.select_option("#id_limits-0-metric", "requests")
    olga.select_option("#id_limits-0-window", "day")
    olga.fill("#id_limits-0-amount", "1")
    olga.get_by_text("Every user on the free plan may make 1 request a day").wait_for()
    publish(olga, 1)
    assert "In force everywhere since" in olga.inner_text("main")

    go(olga, "API keys")
    olga.get_by_role("link", name="New API key").click()
    olga.fill("#id_name", "backend")
    save(olga)
    key = olga.locator("#secret").inner_text().strip()
    application = Application(olga.url.split("/admin/")[0], key)
    assert application.call()["allowed"]
    blocked = application.call()
    assert not blocked["allowed"]

    go(olga, "Blocked calls")
    olga.get_by_role("link", name="ana: Daily request limit exceeded").click()
    olga.get_by_text("At least 1 request more: a boost for ana").wait_for()
    assert blocked["request_id"] in olga.inner_text("main")
    olga.get_by_role("link", name="Edit the policy…").click()
    olga.get_by_role("link", name="Edit", exact=True).click()
    olga.fill("#id_limits-0-amount", "5")
    olga.get_by_role("button", name="Publish…").click()
    olga.get_by_role("button", name="Back to the form").click()
    olga.wait_for_load_state("networkidle")
    assert olga.input_value("#id_limits-0-amount") == "5", "what was typed is still there"
    publish(olga, 2)
    assert application.call()["allowed"]

    carl = sign_in(look, "carl")
    go(carl, "Policies")
    carl.get_by_role("link", name="Free plan").click()
    carl.get_by_role("link", name="Compare, and go back to one").click()
    carl.get_by_role("link", name="Roll back to 1…").click()
    carl.get_by_role("button", name="Publish as version 3").click()
    carl.wait_for_load_state("networkidle")
    assert not application.call()["allowed"]
    assert Policy.objects.get(name="Free plan").version == 3
