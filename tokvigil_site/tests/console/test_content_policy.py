"""No answer lets a page load anything from elsewhere or run a script that is written into it."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from tenants.models import Tenant
from tokvigil_site.content_policy import HEADER

pytestmark = pytest.mark.django_db

STRICT = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"


def policy_of(client: Client, url: str) -> dict[str, str]:
    header = client.get(url).headers[HEADER]
    return dict(part.split(" ", 1) for part in header.split("; "))


@pytest.mark.parametrize("url", ["/healthz", "/readyz", "/v1/me", "/v1/nowhere", "/nowhere", "/v1/schema/"])
def test_answers_that_load_nothing_may_load_nothing(client: Client, url: str) -> None:
    assert client.get(url).headers[HEADER] == STRICT


def test_the_console_runs_scripts_of_its_own_files_alone(mia: Client, acme: Tenant) -> None:
    urls = [
        reverse(f"admin:{name}")
        for name in ("index", "policies_policy_changelist", "policies_policy_add", "jsi18n")
    ]
    policies = [policy_of(mia, url) for url in urls] + [policy_of(Client(), reverse("admin:login"))]
    for policy in policies:
        assert policy["script-src"] == "'self' 'unsafe-eval'"
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert all(
            source.startswith("'") or source == "data:" for part in policy.values() for source in part.split()
        )


def test_the_documentation_of_the_api_runs_no_script_that_is_written_into_it(client: Client) -> None:
    policy = policy_of(client, "/docs/")
    assert policy["script-src"] == "'self'"
    assert "<script>" not in client.get("/docs/").content.decode()
