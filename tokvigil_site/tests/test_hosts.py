"""Which Host a request may name: probes and the API any, pages those of ALLOWED_HOSTS."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client

from tenants.models import Environment
from tokvigil_site.testing import Api
from tokvigil_site.tests.servers import WebProcess, session_variables, web_processes

FOREIGN = ["10.2.3.4:8000", "evil.example", "[2001:db8::1]:8000", "no host at all", ""]


@pytest.fixture
def web(environment: Environment, tmp_path: Path) -> Iterator[WebProcess]:
    with web_processes(1, tmp_path, session_variables()) as (process,):
        yield process


def expected(api: Api) -> dict[tuple[str, str], int]:
    return {
        ("GET", "/healthz"): 200,
        ("GET", "/readyz"): 200,
        ("GET", "/v1/me"): 200,
        ("GET", "/v1/limits"): 200,
        ("GET", "/v1/schema/"): 200,
        ("POST", "/v1/evaluate"): 415,
        ("GET", "/v1/nothing"): 404,
        ("GET", "/v1"): 404,
        ("GET", "/admin/login/"): 400,
        ("GET", "/docs/"): 400,
        ("GET", "/"): 400,
    }


def test_probes_and_the_api_answer_under_any_host(api: Api, web: WebProcess) -> None:
    def status(method: str, path: str, host: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
        headers = {"Host": host, "Authorization": f"Bearer {api.text}"}
        connection.request(method, path, headers=headers)
        answered = connection.getresponse().status
        connection.close()
        return answered

    for host in FOREIGN[:3]:
        answers = {(method, path): status(method, path, host) for method, path in expected(api)}
        assert answers == expected(api), host


@pytest.mark.parametrize("host", FOREIGN)
def test_so_they_do_in_every_way_of_serving(api: Api, host: str) -> None:
    client = Client(headers={"host": host, "authorization": f"Bearer {api.text}"})
    answers = {
        (method, path): client.generic(method, path, content_type="text/plain").status_code
        for method, path in expected(api)
    }
    # An empty one falls back to the server's own name.
    if host:
        assert answers == expected(api)
    else:
        assert answers[("GET", "/healthz")] == answers[("GET", "/v1/me")] == 200


def test_pages_are_served_under_their_names(api: Api) -> None:
    assert Client(headers={"host": "localhost:8000"}).get("/admin/login/").status_code == 200
