"""Bodies that no application should send: each is refused with a problem that names the field, and leaves no trace.

Sent to the WSGI application itself, byte for byte, as a server hands them over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pytest
from django.db import connection

from audit.models import Entry
from policies.models import EndUser
from tenants.api.http import BODY_BYTES_MAX, LARGE_BODY_BYTES_MAX
from tokvigil_site.handlers import Application
from tokvigil_site.testing import Answer, Api, ledger
from tokvigil_site.tests.callers import assert_problem
from usage.counting import blocked_stream
from usage.counting.reservations import open_count

EVALUATE = {"user_id": "u", "model": "m", "request_id": "r1"}
USAGE = {"request_id": "r1", "user_id": "u", "model": "m", "input_tokens": 1, "output_tokens": 1}
END_USER = {"plan": None, "blocked": True}
CASES_MIN = 200

NAME_MAX = 255
NO_TEXT: tuple[Any, ...] = (0, 1.5, True, [], {}, ["u"])
BAD_NAMES: tuple[Any, ...] = (*NO_TEXT, "", "a" * (NAME_MAX + 1), "a\0b", "\0")
BAD_COUNTS: tuple[Any, ...] = (
    -1,
    100_000_001,
    2**63,
    2**64,
    10**400,
    1.5,
    -0.5,
    True,
    False,
    "1",
    "",
    [],
    {},
)
BAD_FLAGS: tuple[Any, ...] = (0, 1, "true", "", [], {}, 1.0)
BAD_METADATA: tuple[Any, ...] = (
    "text",
    1,
    ["a"],
    {"": 1},
    {"a" * 65: 1},
    {"a\0": 1},
    {"a": "b\0"},
    {"a": "b" * 513},
    {"a": 1.5},
    {"a": 2**60},
    {"a": {"nested": 1}},
    {"a": [1]},
    {f"key{number}": 1 for number in range(17)},
)
BAD_DATES: tuple[Any, ...] = (
    "yesterday",
    "2026-11-23",
    "2026-11-23T10:00:00",
    "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-11-23T25:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    1700000000,
    True,
    "",
)
BAD_MONEY: tuple[Any, ...] = (
    1,
    0.5,
    True,
    "",
    "-1",
    "NaN",
    "Infinity",
    "1e400",
    "1,5",
    "0x10",
    " 1",
    "9" * 41,
    "9000001",
)

EVALUATE_FIELDS: dict[str, tuple[Any, ...]] = {
    "user_id": (*BAD_NAMES, None),
    "model": (*BAD_NAMES, None),
    "feature": BAD_NAMES,
    "plan": BAD_NAMES,
    "run_id": BAD_NAMES,
    "request_id": (*NO_TEXT, "", "a" * 129, "a\0b"),
    "input_tokens": BAD_COUNTS,
    "input_text": NO_TEXT,
    "max_output_tokens": BAD_COUNTS,
    "metadata": BAD_METADATA,
    "dry_run": (*BAD_FLAGS, None),
    "explain": (*BAD_FLAGS, None),
    "surprise": (1, None, {}),
    "": (1,),
    "user_id ": ("u",),
    "USER_ID": ("u",),
}
USAGE_FIELDS: dict[str, tuple[Any, ...]] = {
    "request_id": (*NO_TEXT, None, "", "a" * 129, "a\0b"),
    "user_id": (*BAD_NAMES, None),
    "model": (*BAD_NAMES, None),
    "input_tokens": (*BAD_COUNTS, None),
    "output_tokens": (*BAD_COUNTS, None),
    # Parts are not more than their whole.
    "cached_input_tokens": (*BAD_COUNTS, None, 2),
    "cache_write_tokens": (*BAD_COUNTS, None, 2),
    "reasoning_tokens": (*BAD_COUNTS, None, 2),
    "plan": BAD_NAMES,
    "feature": BAD_NAMES,
    "run_id": BAD_NAMES,
    "provider": BAD_NAMES,
    "status": (*NO_TEXT, None, "", "done", "SUCCEEDED", "unsettled", "reversal"),
    "batch": (*BAD_FLAGS, None),
    "latency_ms": (-1, 24 * 3600 * 1000 + 1, 2**64, 1.5, True, "1", [], {}),
    "reported_cost_usd": BAD_MONEY,
    "occurred_at": BAD_DATES,
    "metadata": BAD_METADATA,
    "cost_usd": ("0.5",),
    "surprise": (1, None),
}
END_USER_FIELDS: dict[str, tuple[Any, ...]] = {
    "plan": (*BAD_NAMES, "no such plan"),
    "blocked": (*BAD_FLAGS, None),
    "surprise": (1,),
}
EXTEND_FIELDS: dict[str, tuple[Any, ...]] = {
    "seconds": (0, -1, 24 * 3600 + 1, 2**64, 10**400, 1.5, True, None, "1", [], {}),
    "surprise": (1,),
}

DEEP = 10_000
# Not even JSON, or JSON of another shape; no field can be named.
NO_BODIES: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \n",
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "text": b'"text"',
    "array": b"[]",
    "array of objects": b"[{}]",
    "open": b"{",
    "half": b'{"user_id": "u',
    "trailing": b"{} {}",
    "trailing comma": b'{"user_id": "u",}',
    "single quotes": b"{'user_id': 'u'}",
    "comment": b'{"user_id": "u" /* user */}',
    "form": b"user_id=u&model=m",
    "yaml": b"user_id: u\n",
    "xml": b"<user_id>u</user_id>",
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"user_id": "u"}'.encode("utf-16"),
    "NUL": b"\0",
    "NaN": b"NaN",
    "many open brackets": b"[" * DEEP,
    "many brackets": b"[" * DEEP + b"]" * DEEP,
    "many open braces": b'{"a":' * DEEP,
    "many braces": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
}
# What becomes of a field's text when it is no text; put where a value stands.
NO_TEXTS: dict[str, bytes] = {
    "lone high surrogate": rb'"\ud800"',
    "lone low surrogate": rb'"\udc00"',
    "surrogates swapped": rb'"\udc00\ud800"',
    "surrogate in utf-8": b'"\xed\xa0\x80"',
    "invalid utf-8": b'"\xff\xfe"',
    "cut utf-8": b'"\xc3"',
    "overlong utf-8": b'"\xc0\x80"',
    "escape unknown": rb'"\x41"',
    "control character": b'"a\nb"',
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "1e400": b"1e400",
    "leading zero": b"01",
    "hexadecimal": b"0x10",
    "deep": b"[" * DEEP + b"]" * DEEP,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    verb: str
    path: str
    body: dict[str, Any]
    fields: dict[str, tuple[Any, ...]]
    # A field whose value is a text or a number, to put nonsense into.
    value: str


ENDPOINTS = (
    Endpoint(verb="POST", path="/v1/evaluate", body=EVALUATE, fields=EVALUATE_FIELDS, value="user_id"),
    Endpoint(verb="POST", path="/v1/usage", body=USAGE, fields=USAGE_FIELDS, value="user_id"),
    Endpoint(verb="PUT", path="/v1/end-users/u", body=END_USER, fields=END_USER_FIELDS, value="plan"),
    Endpoint(verb="POST", path="/v1/reservations/r1/extend", body={}, fields=EXTEND_FIELDS, value="seconds"),
)
by_path = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)


@pytest.fixture
def application() -> Application:
    return Application()


class Wire:
    """Sends bytes as they are."""

    def __init__(self, api: Api, application: Application) -> None:
        self._key = api.text
        self._application = application

    def send(self, verb: str, path: str, body: bytes, content_type: str = "application/json") -> Answer:
        path, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": verb,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": BytesIO(body),
            "wsgi.errors": BytesIO(),
            "wsgi.url_scheme": "http",
            "CONTENT_TYPE": content_type,
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_AUTHORIZATION": f"Bearer {self._key}",
        }
        started: list[tuple[str, list[tuple[str, str]]]] = []
        content = b"".join(
            self._application(
                environ, lambda status, headers, exc_info=None: started.append((status, headers))
            )
        )
        status, headers = started[0]
        return Answer(int(status[:3]), content, dict(headers))


@pytest.fixture
def wire(api: Api, application: Application) -> Wire:
    return Wire(api, application)


def wrong_values(endpoint: Endpoint) -> Iterator[tuple[str, bytes]]:
    """A field and a body in which it is wrong."""
    for field, values in endpoint.fields.items():
        for value in values:
            yield field, json.dumps({**endpoint.body, field: value}).encode()
    for field in endpoint.body:
        if field != "request_id" or "output_tokens" in endpoint.body:
            yield (
                field,
                json.dumps({name: value for name, value in endpoint.body.items() if name != field}).encode(),
            )


def wrong_texts(endpoint: Endpoint) -> Iterator[tuple[str, bytes]]:
    others = {name: value for name, value in endpoint.body.items() if name != endpoint.value}
    start = json.dumps(others).encode()[:-1] + (b", " if others else b"")
    for name, text in NO_TEXTS.items():
        yield f"{name} as value", start + json.dumps(endpoint.value).encode() + b": " + text + b"}"
        if text.startswith(b'"'):
            yield f"{name} as key", start + text + b": 1}"
    yield "deep unknown field", start + b'"surprise": ' + NO_TEXTS["deep"] + b"}"


def left_nothing(api: Api) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM usage_request WHERE environment_id = %s", [api.environment.pk])
        assert cursor.fetchone() == (0,)
    assert ledger(api.environment) == []
    assert open_count(api.environment.pk) == 0
    assert blocked_stream.blocked(api.environment.pk, 1) == []
    assert not EndUser.objects.exists()
    assert not Entry.objects.filter(action__startswith="end_user.").exists()


def complaints(
    wire: Wire, endpoint: Endpoint, cases: Iterator[tuple[str, bytes]], *, names_field: bool
) -> list[str]:
    """What is wrong with the answers; every case is tried."""
    found = []
    for name, body in cases:
        answer = wire.send(endpoint.verb, endpoint.path, body)
        try:
            assert_problem(answer, 422, "VALIDATION_ERROR")
            if names_field:
                fields = [error["field"] for error in answer.json["errors"]]
                assert any(field == name or field.startswith((f"{name}.", f"{name}[")) for field in fields), (
                    fields
                )
        except AssertionError as error:
            found.append(f"{name}: {body[:120]!r}: {error}"[:600])
    return found


@by_path
def test_a_wrong_value_is_refused_and_its_field_named(wire: Wire, api: Api, endpoint: Endpoint) -> None:
    assert complaints(wire, endpoint, wrong_values(endpoint), names_field=True) == []
    left_nothing(api)


@by_path
def test_a_value_that_is_no_json_is_refused(wire: Wire, api: Api, endpoint: Endpoint) -> None:
    assert complaints(wire, endpoint, wrong_texts(endpoint), names_field=False) == []
    left_nothing(api)


@by_path
def test_a_body_that_is_no_object_is_refused(wire: Wire, api: Api, endpoint: Endpoint) -> None:
    # Extending takes no body for an empty one.
    bodies = {name: body for name, body in NO_BODIES.items() if body or endpoint.value != "seconds"}

    assert complaints(wire, endpoint, iter(bodies.items()), names_field=False) == []
    left_nothing(api)


@by_path
@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "json",
    ],
)
def test_another_content_type_is_refused(wire: Wire, api: Api, endpoint: Endpoint, content_type: str) -> None:
    answer = wire.send(endpoint.verb, endpoint.path, json.dumps(endpoint.body).encode(), content_type)

    assert_problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    left_nothing(api)


@by_path
def test_a_body_that_is_too_large_is_refused(wire: Wire, api: Api, endpoint: Endpoint) -> None:
    for size in (BODY_BYTES_MAX, 1024 * 1024):
        body = json.dumps({**endpoint.body, endpoint.value: "a" * size}).encode()
        assert_problem(wire.send(endpoint.verb, endpoint.path, body), 413, "BODY_TOO_LARGE")
    left_nothing(api)


@by_path
def test_the_second_of_two_equal_keys_is_checked_too(wire: Wire, api: Api, endpoint: Endpoint) -> None:
    body = json.dumps(endpoint.body)[:-1] + (", " if endpoint.body else "")
    body += (
        f'"{endpoint.value}": {json.dumps(endpoint.body.get(endpoint.value, 1))}, "{endpoint.value}": []}}'
    )

    answer = wire.send(endpoint.verb, endpoint.path, body.encode())

    assert_problem(answer, 422, "VALIDATION_ERROR", field=endpoint.value)
    left_nothing(api)


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"status": "ok"}, "status", "give one of cancelled, failed, partial, succeeded"),
        ({"user": "ann"}, "user", "known are batch, cache_write_tokens,"),
        ({"input_tokens": "12"}, "input_tokens", "write a whole number"),
        ({"batch": "yes"}, "batch", "write true or false"),
        ({"occurred_at": "yesterday"}, "occurred_at", "such as 2026-11-01T00:00:00Z"),
        ({"model": None}, "model", "Expected `str`"),
        ({"metadata": {"n": 1.5}}, "metadata[...]", "Expected"),
    ],
)
def test_the_message_says_what_to_write(
    wire: Wire, api: Api, fields: dict[str, Any], field: str, said: str
) -> None:
    answer = wire.send("POST", "/v1/usage", json.dumps(USAGE | fields).encode())

    assert_problem(answer, 422, "VALIDATION_ERROR", field=field)
    assert said in answer.json["errors"][0]["message"]


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/usage/summary", "/v1/me"])
def test_a_query_of_a_thousand_parameters_is_no_defect_of_ours(wire: Wire, path: str) -> None:
    assert wire.send("GET", f"{path}?{'a=1&' * 1001}", b"").status == 400


def test_a_wrong_event_of_a_batch_is_named_and_spoils_no_other(wire: Wire, api: Api) -> None:
    usage = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/usage")
    cases = list(wrong_values(usage))
    wrong = []
    for start in range(0, len(cases), 100):
        part = cases[start : start + 100]
        body = b'{"events": [' + b", ".join(event for _, event in part) + b"]}"
        answer = wire.send("POST", "/v1/usage/batch", body)
        assert answer.status == 200, answer
        for (field, event), result in zip(part, answer.json["results"], strict=True):
            errors = [error["field"] for error in (result.get("error") or {"errors": []})["errors"]]
            if result["status"] != "invalid" or not any(found.startswith(field) for found in errors):
                wrong.append((field, event[:120], result))

    assert wrong == []
    left_nothing(api)


@pytest.mark.parametrize(
    "body",
    [
        *NO_BODIES.values(),
        b"{}",
        b'{"events": null}',
        b'{"events": []}',
        b'{"events": {}}',
        b'{"events": "x"}',
        b'{"events": 1}',
        b'{"events": [{}], "surprise": 1}',
        b'{"events": [' + b",".join([b"{}"] * 501) + b"]}",
        b'{"events": [' + NO_TEXTS["deep"] + b"]}",
        b'{"events": [{"request_id": "\xff"}]}',
        b'{"events": [01]}',
        b'{"events": [NaN]}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_batch_of_another_shape_is_refused(wire: Wire, api: Api, body: bytes) -> None:
    answer = wire.send("POST", "/v1/usage/batch", body)

    if answer.status == 200:
        assert [result["status"] for result in answer.json["results"]] == ["invalid"], answer
    else:
        assert_problem(answer, 422, "VALIDATION_ERROR")
    left_nothing(api)


def test_a_batch_that_is_too_large_is_refused(wire: Wire, api: Api) -> None:
    body = b'{"events": ["' + b"a" * LARGE_BODY_BYTES_MAX + b'"]}'

    assert_problem(wire.send("POST", "/v1/usage/batch", body), 413, "BODY_TOO_LARGE")
    left_nothing(api)


def test_there_are_enough_cases() -> None:
    count = sum(
        len(list(wrong_values(endpoint))) + len(list(wrong_texts(endpoint))) + len(NO_BODIES)
        for endpoint in ENDPOINTS
    )

    assert count >= CASES_MIN
