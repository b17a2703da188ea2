"""What guards every address of the console: tokens against forged forms, headers, cookies; and a session is no key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tokvigil_site.content_policy import HEADER
from tokvigil_site.tests.console import rows_of_a_tenant
from tokvigil_site.tests.console.addresses import Address, filled
from tokvigil_site.tests.test_every_endpoint import BODIES, CALLS

pytestmark = pytest.mark.django_db(transaction=True)

MARK = "okapi"
ELSEWHERE = ["https://evil.example/", "/\\evil.example"]
THE_SAME_FOR_ALL = ("jsi18n", "password_change", "password_change_done")
HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}


@pytest.fixture
def addresses(empty_store: None) -> list[Address]:
    return filled(rows_of_a_tenant.made(MARK))


def owner(**options: Any) -> Client:
    client = Client(**options)
    client.force_login(User.objects.get(username=f"{MARK}-owner"))
    return client


def test_no_form_is_taken_without_its_token(addresses: list[Address]) -> None:
    client = owner(enforce_csrf_checks=True)
    client.get(reverse("admin:password_change"))
    for address in addresses:
        for forged in ({}, {"csrfmiddlewaretoken": "x" * 64}, {"csrfmiddlewaretoken": "y" * 32}):
            assert client.post(address.url, {"post": "yes", **forged}).status_code == 403, address


def test_every_answer_has_the_headers_that_keep_a_page_to_itself(addresses: list[Address]) -> None:
    for client in (owner(), Client()):
        for address in addresses:
            answer = client.get(address.url)
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, address
            assert "frame-ancestors 'none'" in answer.headers[HEADER], address
            assert (
                "'unsafe-inline'" not in answer.headers[HEADER].partition("script-src")[2].partition(";")[0]
            )


def test_what_only_a_person_may_see_is_kept_by_no_cache(addresses: list[Address]) -> None:
    client = owner()
    for address in addresses:
        if address.name not in ("logout", *THE_SAME_FOR_ALL):
            answer = client.get(address.url)
            kept = {"no-store", "private"} <= {*answer.headers.get("Cache-Control", "").split(", ")}
            assert kept or answer.status_code != 200, address


def test_nothing_leads_to_another_site(addresses: list[Address]) -> None:
    parameters = ("next", "return_to", "_changelist_filters", "environment")
    clients = [owner(), Client()]
    # Last, for who is signed out there is led to nothing but the sign-in.
    for address in sorted(addresses, key=lambda each: each.name == "logout"):
        mark = "&" if "?" in address.url else "?"
        for elsewhere in ELSEWHERE:
            asked = dict.fromkeys(parameters, elsewhere)
            for client in clients:
                answers = (
                    client.get(f"{address.url}{mark}{urlencode(asked)}"),
                    client.post(address.url, asked),
                )
                assert not any(map(leads_away, answers)), (address, elsewhere)


def leads_away(answer: Any) -> bool:
    return re.match(r"/(?![/\\\\])|\?", answer.headers.get("Location", "/")) is None


def test_cookies_are_not_for_scripts_nor_for_other_sites() -> None:
    User.objects.create_user("mia", password="a long enough one", is_staff=True)
    client = Client()
    client.get(reverse("admin:login"))
    client.post(reverse("admin:login"), {"username": "mia", "password": "a long enough one"})
    client.get(reverse("admin:index"))
    assert {"sessionid", "csrftoken"} <= client.cookies.keys()
    for cookie in client.cookies.values():
        assert cookie["samesite"] == "Lax", cookie
    assert client.cookies["sessionid"]["httponly"]


SAID = """
import django
django.setup()
from django.conf import settings
from django.test import Client
answer = Client().get("/healthz", headers={"x-forwarded-proto": "https"})
print(settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE, "Strict-Transport-Security" in answer.headers)
"""


@pytest.mark.parametrize(("https", "said"), [("true", "True True True"), ("false", "False False False")])
def test_where_there_is_https_cookies_go_by_no_other_way(https: str, said: str) -> None:
    variables = os.environ | {
        "HTTPS": https,
        "DEBUG": "true",
        "DJANGO_SETTINGS_MODULE": "tokvigil_site.settings",
    }
    found = subprocess.run(
        [sys.executable, "-c", SAID], env=variables, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == said


def test_signing_in_begins_a_new_session() -> None:
    User.objects.create_user("mia", password="a long enough one", is_staff=True)
    client = Client()
    client.cookies["sessionid"] = planted = "a" * 32
    client.post(reverse("admin:login"), {"username": "mia", "password": "a long enough one"})
    assert client.cookies["sessionid"].value != planted


@pytest.mark.parametrize(("verb", "path", "scope"), CALLS)
def test_a_session_of_the_console_is_no_key_of_the_api(verb: str, path: str, scope: str) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    answer = client.generic(verb, path, str(BODIES.get(path, "{}")), content_type="application/json")
    assert answer.status_code == 401
