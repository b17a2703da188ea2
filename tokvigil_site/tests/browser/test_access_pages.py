"""Keys, members and invitations in a browser: wide and narrow, light and dark, with hostile names."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse
from playwright.sync_api import Page

from tenants.models import ApiKey, Environment, Role, Tenant
from tenants.scopes import USAGE_WRITE
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.browser.conftest import Console, Look
from tokvigil_site.tests.browser.test_a_product_is_governed import Application, save
from tokvigil_site.tests.browser.test_every_page import HOSTILE, LOOKS, faults_of

pytestmark = pytest.mark.django_db(transaction=True)

PASSWORD = "a long enough one 4711"
INVITED = "new@example.org"


@pytest.fixture
def prod() -> Environment:
    return Tenant.create_with_environments("acme", name=HOSTILE).environments.get(slug="prod")


def well(console: Console) -> Page:
    console.page.wait_for_load_state("networkidle")
    assert console.faults() == []
    return console.page


def copied(page: Page, button: str) -> str:
    """What the button puts into the clipboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=button).click()
    page.get_by_role("button", name="Copied").wait_for()
    found: str = page.evaluate("navigator.clipboard.readText()")
    return found


@pytest.mark.parametrize(("dark", "narrow"), LOOKS)
def test_a_key_is_made_used_rotated_and_revoked(
    look: Look, prod: Environment, dark: bool, narrow: bool
) -> None:
    console = look(prod.tenant, dark=dark, narrow=narrow)
    page = console.open(f"{reverse('admin:tenants_apikey_add')}?environment={prod}")
    page.fill("#id_name", HOSTILE)
    page.fill("#id_allowed_networks", "10.0.0.0/33")
    save(page)
    assert "is no address or network" in well(console).locator(".tv-field-errors").inner_text()
    page.fill("#id_allowed_networks", "")
    save(page)

    secret = page.locator("#secret").inner_text().strip()
    assert secret.startswith("tv_prod_")
    page.get_by_text("Waiting for the first call with this key.").wait_for()
    well(console)
    assert copied(page, "Copy the key") == secret
    Application(console.url, secret).evaluate()
    page.get_by_text("The first call came at").wait_for()
    well(console)

    page.get_by_role("link", name="The key's page").click()
    assert secret not in well(console).content()
    page.get_by_role("link", name="Rotate…").click()
    well(console).get_by_label("In 1 hour").check()
    page.get_by_role("button", name="Rotate").click()
    assert page.locator("#secret").inner_text().strip() != secret
    well(console)
    page.get_by_role("link", name="The key's page").click()
    assert "Two secrets" in well(console).inner_text("main")
    page.get_by_role("link", name="End it now…").click()
    well(console).get_by_role("link", name="Keep both").click()
    well(console).get_by_role("link", name="End it now…").click()
    page.get_by_role("button", name="End the old secret now").click()
    page.get_by_text("are refused, from the very next call on").first.wait_for()
    assert "Two secrets" not in well(console).inner_text("main")

    page.get_by_role("link", name="Revoke…").click()
    well(console).get_by_role("button", name="Revoke").click()
    page.get_by_text("is revoked").first.wait_for()
    well(console)
    assert page.get_by_role("link", name="Rotate…").count() == 0


def test_a_right_that_is_ticked_takes_the_preset_away_and_a_preset_the_ticks(
    look: Look, prod: Environment
) -> None:
    page = look(prod.tenant).open(f"{reverse('admin:tenants_apikey_add')}?environment={prod}")
    page.get_by_label("Report usage", exact=True).check()
    assert page.get_by_label("Only what is ticked below").is_checked()
    page.get_by_label("Viewer:").check()
    assert not page.get_by_label("Report usage", exact=True).is_checked()
    page.get_by_label("Report usage", exact=True).check()
    page.fill("#id_name", "reports")
    save(page)
    page.locator("#secret").wait_for()
    assert ApiKey.objects.get(environment=prod).scopes == [USAGE_WRITE]


def test_a_double_click_makes_one_key(look: Look, prod: Environment) -> None:
    page = look(prod.tenant).open(f"{reverse('admin:tenants_apikey_add')}?environment={prod}")
    page.fill("#id_name", "server")
    # The second click comes when the first is on its way to the server.
    page.locator("[name=_save]").evaluate("save => { save.click(); setTimeout(() => save.click(), 30); }")
    page.locator("#secret").wait_for()
    assert ApiKey.objects.filter(environment=prod).count() == 1


@pytest.mark.parametrize(("dark", "narrow"), LOOKS)
def test_the_page_of_a_key_with_calls_is_well(
    look: Look, prod: Environment, dark: bool, narrow: bool
) -> None:
    api = Api(prod)
    ApiKey.objects.filter(pk=api.key.pk).update(name=HOSTILE)
    apply_policies(prod, limits("{metric: requests, window: day, amount: 1, per: user}"))
    api.use(HOSTILE)
    api.evaluate(HOSTILE)
    console = look(prod.tenant, dark=dark, narrow=narrow)
    paths = [
        f"{reverse('admin:tenants_apikey_changelist')}?environment={prod}",
        reverse("admin:tenants_apikey_change", args=[api.key.pk]),
    ]
    assert faults_of(console, paths) == {}
    console.page.get_by_role("row", name="Daily request limit exceeded").get_by_role("link").first.click()
    assert well(console).get_by_role("link", name=": Daily request limit exceeded").count() == 1


@pytest.mark.parametrize(("dark", "narrow"), LOOKS)
def test_somebody_is_invited_and_accepts(look: Look, prod: Environment, dark: bool, narrow: bool) -> None:
    console = look(prod.tenant, role=Role.OWNER, dark=dark, narrow=narrow)
    page = console.open(reverse("admin:tenants_membership_add"))
    page.fill("#id_person", "not@an@address")
    save(page)
    assert "valid email" in well(console).locator(".tv-field-errors").inner_text()
    assert page.input_value("#id_person") == "not@an@address"
    page.fill("#id_person", INVITED)
    page.select_option("#id_role", Role.EDITOR)
    save(page)
    link = page.locator("#link").inner_text().strip()
    well(console)
    assert copied(page, "Copy the link") == link

    invited = look(dark=dark, narrow=narrow, signed_in=False)
    theirs = invited.open(link.removeprefix(console.url))
    assert "invites you to" in well(invited).inner_text("h1")
    assert "at least 12 characters" in theirs.inner_text("main")
    theirs.fill("#id_new_password1", PASSWORD)
    theirs.fill("#id_new_password2", "another")
    theirs.get_by_role("button", name="Set the password and sign in").click()
    assert "two password fields" in well(invited).locator(".tv-field-errors").inner_text()
    assert theirs.input_value("#id_new_password1") == PASSWORD
    theirs.fill("#id_new_password2", PASSWORD)
    theirs.get_by_role("button", name="Set the password and sign in").click()
    theirs.get_by_role("heading", name="Overview").wait_for()
    well(invited)

    again = look(dark=dark, narrow=narrow, signed_in=False)
    again.open(link.removeprefix(console.url))
    assert "does not work any more" in well(again).inner_text("h1")
    console.open(reverse("admin:tenants_membership_changelist"))
    assert re.search(INVITED, well(console).inner_text("main"))
    page.get_by_role("link", name=INVITED).click()
    well(console)
