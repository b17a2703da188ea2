"""Every answer says the id of its request, and what the request changed is found by it."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from tenants.models import Environment
from tokvigil_site.testing import Api

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "url", ["/healthz", "/v1/me", "/v1/nowhere", "/nowhere", "/admin/", "/static/tokvigil/icon.svg"]
)
def test_every_answer_has_an_id_of_its_own(client: Client, url: str) -> None:
    first, second = (client.get(url, headers={"X-Request-Id": "mine"}) for _ in range(2))
    assert re.fullmatch(r"[0-9a-f]{32}", first.headers["X-Request-Id"])
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]


def test_an_error_of_the_api_says_the_same_id_in_its_body(client: Client) -> None:
    answer = client.get("/v1/me")
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_a_change_by_the_api_says_its_request_and_the_clients_address(
    api: Api, environment: Environment
) -> None:
    answer = api.request("PUT", "/v1/end-users/ann", {"plan": None, "blocked": True})
    entry = Entry.objects.get(action="end_user.changed")
    assert (entry.request_id, entry.address) == (answer.headers["X-Request-Id"], "127.0.0.1")


def test_behind_a_trusted_proxy_it_is_the_address_that_the_proxy_reports(settings: object) -> None:
    settings.TRUSTED_PROXIES = ["127.0.0.0/8"]  # type: ignore[attr-defined]
    client = Client(headers={"X-Forwarded-For": "1.2.3.4, 198.51.100.7"})
    client.force_login(User.objects.create_superuser("root"))
    client.post(reverse("admin:tenants_tenant_add"), {"slug": "acme", "name": "Acme", "timezone": "UTC"})
    assert Entry.objects.get(action="tenant.created").address == "198.51.100.7"
