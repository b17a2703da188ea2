"""What is refused before a body is read: at once, with the same answer that the views give."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import resolve

from tenants.api import http
from tokvigil_site.handlers import Application
from tokvigil_site.testing import Answer, Api
from tokvigil_site.tests.callers import assert_problem
from tokvigil_site.tests.servers import WebApi, WebProcess
from tokvigil_site.tests.serving.wire import exchange, head
from usage.api.usage import UsageBatchView

AT_ONCE_S = 3.0
TAKING_BODIES = [
    ("POST", "/v1/evaluate"),
    ("POST", "/v1/usage"),
    ("POST", "/v1/usage/batch"),
    ("PUT", "/v1/end-users/u"),
    ("POST", "/v1/reservations/r1/extend"),
]
BAD_KEYS = ["", "Bearer ", "Bearer tv_prod_x", "Basic YTpi", "Bearer one, Bearer two"]


def at_once(server: WebProcess, request: bytes, *, method: str = "POST") -> Answer:
    timed = exchange(server.port, request, method=method)
    assert timed.after_s < AT_ONCE_S
    return timed.answer


def from_wsgi(method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    """The application's own answer, asked without a server."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.input": BytesIO(body),
        "wsgi.url_scheme": "http",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json",
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }
    started: list[tuple[str, list[tuple[str, str]]]] = []
    content = b"".join(
        Application()(environ, lambda status, sent, exc_info=None: started.append((status, sent)))
    )
    status, sent = started[0]
    return Answer(int(status[:3]), content, dict(sent))


@pytest.mark.parametrize("authorization", BAD_KEYS)
@pytest.mark.parametrize(("method", "path"), TAKING_BODIES)
def test_without_a_key_no_body_is_waited_for(
    server: WebProcess, api: Api, method: str, path: str, authorization: str
) -> None:
    headers = {"authorization": authorization} if authorization else {}
    request = head(method, path, content_type="application/json", content_length="1000", **headers)

    answer = at_once(server, request + b"{")

    assert_problem(answer, 401, "INVALID_API_KEY")
    expected = from_wsgi(method, path, b"{}", headers)
    assert {**answer.json, "request_id": ""} == {**expected.json, "request_id": ""}
    assert answer.headers["Www-Authenticate"] == expected.headers["WWW-Authenticate"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/schema/"])
def test_addresses_that_want_no_key_answer_as_ever(server: WebProcess, api: Api, path: str) -> None:
    answer = at_once(server, head("POST", path, content_length="1000"))

    assert answer.status == from_wsgi("POST", path, b"", {}).status in (404, 405)


@pytest.mark.parametrize(("method", "path"), TAKING_BODIES)
def test_a_body_that_is_announced_as_too_long_is_refused_unread(
    server: WebProcess, web: WebApi, method: str, path: str
) -> None:
    length = http.body_bytes_max(path) + 1
    headers = {"authorization": f"Bearer {web.text}", "content_length": str(length)}

    answer = at_once(server, head(method, path, content_type="application/json", **headers))

    assert_problem(answer, 413, "BODY_TOO_LARGE")
    assert str(length - 1) in answer.json["detail"]


def test_a_page_takes_no_more_than_its_forms_may_hold(server: WebProcess, api: Api) -> None:
    client = Client()
    client.get("/admin/login/", headers={"host": "localhost"})
    cookie = client.cookies["csrftoken"].value
    for content_type in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        length = str(settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
        headers = {"content_type": content_type, "content_length": length}
        request = head("POST", "/admin/login/", cookie=f"csrftoken={cookie}", **headers)

        assert at_once(server, request).status == 413


def test_only_the_batch_takes_more_than_the_others() -> None:
    view: Any = resolve("/v1/usage/batch").func

    assert view.view_class is UsageBatchView


@pytest.mark.parametrize(("method", "path"), TAKING_BODIES)
def test_a_body_of_the_longest_length_is_read(
    server: WebProcess, web: WebApi, method: str, path: str
) -> None:
    body = b" " * http.body_bytes_max(path)
    headers = {"authorization": f"Bearer {web.text}", "content_length": str(len(body))}
    request = head(method, path, content_type="application/json", **headers)

    assert_problem(at_once(server, request + body), 422, "VALIDATION_ERROR")


@pytest.mark.parametrize(("method", "path"), TAKING_BODIES)
def test_a_body_in_chunks_is_refused_unread_however_long_it_gets(
    server: WebProcess, web: WebApi, method: str, path: str
) -> None:
    headers = {"authorization": f"Bearer {web.text}", "transfer_encoding": "chunked"}
    request = head(method, path, content_type="application/json", **headers)

    for body in (b"", b"2\r\n{}\r\n", b"1\r\n{\r\n" * 20_000):
        assert_problem(at_once(server, request + body), 411, "LENGTH_REQUIRED")


def test_two_lengths_are_refused(server: WebProcess, web: WebApi) -> None:
    request = head("POST", "/v1/evaluate", authorization=f"Bearer {web.text}", content_length="2")

    assert at_once(server, request[:-2] + b"Content-Length: 3\r\n\r\n{}").status == 400


def test_a_second_key_is_refused(server: WebProcess, web: WebApi) -> None:
    request = head("POST", "/v1/evaluate", authorization=f"Bearer {web.text}", content_length="1000")
    again = b"Authorization: Bearer " + web.text.encode() + b"\r\n\r\n"

    assert_problem(at_once(server, request[:-2] + again), 401, "INVALID_API_KEY")


def test_a_client_is_told_to_continue_only_if_its_body_is_wanted(server: WebProcess, web: WebApi) -> None:
    """A client that waits for 100 Continue gets it if its body is wanted, and else the refusal."""
    body = json.dumps({"user_id": "u", "model": "m", "input_tokens": 1}).encode()
    headers = {"content_type": "application/json", "content_length": str(len(body)), "expect": "100-continue"}

    wanted = head("POST", "/v1/evaluate", authorization=f"Bearer {web.text}", **headers)
    assert at_once(server, wanted + body).status == 200
    assert_problem(at_once(server, head("POST", "/v1/evaluate", **headers)), 401, "INVALID_API_KEY")
