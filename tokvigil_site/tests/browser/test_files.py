"""Files in a browser: one after the other."""

from __future__ import annotations

import pytest
from django.urls import reverse

from audit.models import Entry
from tenants.models import Environment, Tenant
from tokvigil_site.tests.browser.conftest import Look

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def prod() -> Environment:
    return Tenant.create_with_environments("acme").environments.get(slug="prod")


def test_another_file_may_follow_at_once_and_a_double_click_takes_one(look: Look, prod: Environment) -> None:
    page = look(prod.tenant).open(f"{reverse('admin:month_report')}?environment={prod}")
    for button in ("Report CSV", "FOCUS CSV"):
        with page.expect_download(timeout=4_000):
            page.get_by_role("button", name=button).click()
    with page.expect_download(timeout=4_000):
        page.get_by_role("button", name="Report JSON").dblclick()
    page.wait_for_timeout(500)
    files = Entry.objects.filter(action="usage.exported").values_list("data__format", flat=True)
    assert sorted(files) == ["csv", "csv", "json"]
