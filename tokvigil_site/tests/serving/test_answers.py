"""Answers of the real server: pages, files, large and empty ones, and those to a client that stays connected."""

from __future__ import annotations

import re
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders

from tokvigil_site.testing import Api, limits
from tokvigil_site.testing import apply_policies as apply
from tokvigil_site.tests.servers import WebApi, WebProcess
from tokvigil_site.tests.serving.wire import TIMEOUT_S

CSS = "admin/css/base.css"
LARGE = "drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
PASSWORD = "a password"


@pytest.fixture
def connection(server: WebProcess, api: Api) -> HTTPConnection:
    return HTTPConnection("localhost", server.port, timeout=TIMEOUT_S)


def ask(
    connection: HTTPConnection, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> tuple[HTTPResponse, bytes]:
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response, response.read()


def file_of(name: str) -> bytes:
    found = finders.find(name)
    assert isinstance(found, str)
    return Path(found).read_bytes()


@pytest.mark.parametrize("name", [CSS, LARGE])
def test_files_arrive_whole(connection: HTTPConnection, name: str) -> None:
    response, content = ask(connection, f"/static/{name}")

    assert response.status == 200
    assert content == file_of(name)
    assert response.getheader("Content-Length") == str(len(content))
    assert response.getheader("ETag")


def test_the_large_file_is_large() -> None:
    assert len(file_of(LARGE)) > 1_000_000


def test_a_file_that_is_known_is_not_sent_again(connection: HTTPConnection) -> None:
    first, _ = ask(connection, f"/static/{CSS}")
    again, content = ask(connection, f"/static/{CSS}", If_None_Match=str(first.getheader("ETag")))

    assert (again.status, content) == (304, b"")


@pytest.mark.parametrize("wanted", ["bytes=100-199", "bytes=-100", "bytes=1000-"])
def test_a_part_of_a_file(connection: HTTPConnection, wanted: str) -> None:
    response, content = ask(connection, f"/static/{LARGE}", Range=wanted)

    whole = file_of(LARGE)
    start, end = (int(text) if text else None for text in wanted.removeprefix("bytes=").split("-"))
    expected = whole[-(end or 0) :] if start is None else whole[start : None if end is None else end + 1]
    assert response.status == 206
    assert content == expected


@pytest.mark.parametrize("path", [f"/static/{LARGE}", "/healthz", "/admin/login/", "/v1/schema/"])
def test_head_says_what_get_would_and_sends_nothing(connection: HTTPConnection, path: str) -> None:
    whole, content = ask(connection, path)
    only_head, nothing = ask(connection, path, "HEAD")

    assert nothing == b""
    assert only_head.status == whole.status == 200
    assert only_head.getheader("Content-Type") == whole.getheader("Content-Type")
    assert only_head.getheader("Content-Length") in (str(len(content)), None)
    # The connection is as good as before.
    assert ask(connection, "/healthz")[0].status == 200


def test_a_person_logs_in(connection: HTTPConnection) -> None:
    User.objects.create_superuser("root", password=PASSWORD)
    page, content = ask(connection, "/admin/login/?next=/admin/")
    token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', content)
    assert token is not None
    cookie = str(page.getheader("Set-Cookie")).partition(";")[0]
    form = {"csrfmiddlewaretoken": token[1].decode(), "username": "root", "password": PASSWORD}

    answer, _ = ask(
        connection,
        "/admin/login/?next=/admin/",
        "POST",
        urlencode(form),
        Cookie=cookie,
        Content_Type="application/x-www-form-urlencoded",
    )

    assert (answer.status, answer.getheader("Location")) == (302, "/admin/")
    cookies = [value.partition(";")[0] for value in answer.headers.get_all("Set-Cookie") or []]
    assert {value.partition("=")[0] for value in cookies} == {"csrftoken", "sessionid"}
    console, content = ask(connection, "/admin/", Cookie="; ".join(cookies))
    assert console.status == 200
    assert b"Log out" in content


@pytest.mark.parametrize("request_id", ["a/b", "a%2Fb", "né/日本 x", "a?b#c", "a+b", "..", "a//b"])
def test_ids_in_paths_mean_what_they_mean_in_bodies(web: WebApi, request_id: str) -> None:
    apply(web.environment, limits("{metric: requests, window: day, amount: 1, per: environment}"))
    assert web.evaluate(request_id=request_id)["allowed"]
    assert not web.evaluate()["allowed"]

    assert web.request("DELETE", f"/v1/reservations/{quote(request_id, safe='')}").status == 204

    assert web.evaluate()["allowed"]


def test_a_path_that_is_no_utf_8_is_refused_before_it_means_somebody_else(web: WebApi) -> None:
    answer = web.request("PUT", "/v1/end-users/J%FCrgen", {"blocked": True, "plan": None})

    assert (answer.status, answer.json["code"]) == (400, "BAD_REQUEST")


def test_a_connection_serves_many_requests(web: WebApi) -> None:
    connection = web._connection()
    peers = set()
    for path in ("/v1/me", "/v1/limits?user_id=u", "/v1/nothing", "/v1/me"):
        assert web.get(path).status in (200, 404)
        assert connection.sock is not None
        peers.add(connection.sock.getsockname())

    assert len(peers) == 1
