"""Keys with an allow-list, used directly, behind a reverse proxy, and on a socket that serves IPv4 and IPv6."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client

from tenants.models import Environment
from tokvigil_site.testing import Api
from tokvigil_site.tests.servers import WebProcess, session_variables, web_processes

OFFICE = "203.0.113.7"
STRANGER = "198.51.100.66"
PROXY = "10.0.0.1"

# Each authenticates in its own way.
CALLS = [
    ("POST", "/v1/evaluate", {"user_id": "u", "model": "m"}),
    ("GET", "/v1/limits", None),
    ("GET", "/v1/me", None),
]


def statuses(api: Api, peer: str, **headers: str) -> set[int]:
    client = Client(headers={"authorization": f"Bearer {api.text}", **headers})
    return {
        client.generic(
            method, path, json.dumps(body) if body else "", "application/json", REMOTE_ADDR=peer
        ).status_code
        for method, path, body in CALLS
    }


@pytest.fixture
def office(environment: Environment) -> Api:
    return Api(environment, allowed_networks=["203.0.113.0/24"])


def test_behind_a_proxy_the_caller_decides(office: Api, settings) -> None:  # type: ignore[no-untyped-def]
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    assert statuses(office, PROXY, x_forwarded_for=OFFICE) == {200}
    assert statuses(office, PROXY, x_forwarded_for=STRANGER) == {401}
    assert statuses(office, PROXY, x_forwarded_for=f"{OFFICE}, {STRANGER}") == {401}


def test_the_proxy_is_not_the_caller(environment: Environment, settings) -> None:  # type: ignore[no-untyped-def]
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    internal = Api(environment, allowed_networks=["10.0.0.0/8"])
    assert statuses(internal, PROXY, x_forwarded_for=STRANGER) == {401}
    assert statuses(internal, PROXY, x_forwarded_for="unknown") == {401}
    assert statuses(internal, PROXY, x_forwarded_for="10.7.7.7") == {200}


def test_a_stranger_cannot_say_where_they_are(office: Api, settings) -> None:  # type: ignore[no-untyped-def]
    assert statuses(office, PROXY, x_forwarded_for=OFFICE) == {401}
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    assert statuses(office, STRANGER, x_forwarded_for=OFFICE) == {401}


@pytest.fixture
def dual_stack(environment: Environment, tmp_path: Path) -> Iterator[WebProcess]:
    variables = {**session_variables(), "GRANIAN_HOST": "::", "TRUSTED_PROXIES": "127.0.0.2"}
    with web_processes(1, tmp_path, variables) as (web,):
        yield web


def test_an_ipv4_caller_of_a_dual_stack_socket(environment: Environment, dual_stack: WebProcess) -> None:
    local = Api(environment, allowed_networks=["127.0.0.0/8"])
    office = Api(environment, allowed_networks=["203.0.113.0/24"])

    def ask(api: Api, source: str, *told: str) -> int:
        connection = http.client.HTTPConnection(
            "127.0.0.1", dual_stack.port, timeout=10, source_address=(source, 0)
        )
        connection.putrequest("GET", "/v1/me")
        connection.putheader("Authorization", f"Bearer {api.text}")
        for address in told:
            connection.putheader("X-Forwarded-For", address)
        connection.endheaders()
        status = connection.getresponse().status
        connection.close()
        return status

    assert ask(local, "127.0.0.1") == 200
    assert ask(office, "127.0.0.1", OFFICE) == 401
    assert ask(office, "127.0.0.2", OFFICE) == 200
    # A proxy that adds a line of its own instead of a word to the one there is.
    assert ask(office, "127.0.0.2", OFFICE, STRANGER) == 401
    assert ask(office, "127.0.0.2", STRANGER, OFFICE) == 200
