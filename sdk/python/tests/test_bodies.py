"""Large bodies are read and written without touching the long strings in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import bodies

PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 40_000
LONG_TEXT = 'He said "no" and left. ' * 10_000


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": list(parts)}], **fields}


def read(value: Any) -> bodies.Body:
    found = bodies.read(json.dumps(value).encode())
    assert found is not None
    return found


def test_a_long_string_is_replaced_while_the_body_is_read_and_put_back_when_it_is_written() -> None:
    asked = chat({"image_url": {"url": PICTURE}}, {"text": "Ä " + LONG_TEXT})
    body = read(asked)
    assert len(json.dumps(body.fields)) < 1_000
    assert json.loads(body.write({**body.fields, "max_tokens": 7})) == asked | {"max_tokens": 7}
    assert body.write(body.fields) is body.raw


@pytest.mark.parametrize(
    ("raw", "changes", "written"),
    [
        ('{"text": "中文 Ä"}', {"n": 1}, '{"text": "中文 Ä","n":1}'),
        (r'{"text":"cut \ud83d"}', {"n": 1}, r'{"text":"cut \ud83d","n":1}'),
        (r'{"text":"\u00e4\/\ud83d\ude00"}', {"n": 1}, r'{"text":"\u00e4\/\ud83d\ude00","n":1}'),
        ('{"t":1e400,"s":0.12345678901234567890}', {"n": 1}, '{"t":1e400,"s":0.12345678901234567890,"n":1}'),
        ('{"bias":{"1":1,"1":2}}', {"n": 1}, '{"bias":{"1":1,"1":2},"n":1}'),
        ('{ "n" : 9 , "t" : 1.50 }', {"n": 1}, '{ "n" : 1 , "t" : 1.50 }'),
        (r'{"\u006e":9,"t":1.50}', {"n": 1}, r'{"\u006e":1,"t":1.50}'),
        (" { } \n", {"n": 1, "m": [1, 2]}, ' { "n":1,"m":[1,2]} \n'),
        ("\ufeff{}", {"n": 1}, '{"n":1}'),
        ('{"c":{"t":1.50,"n":9},"m":2}', {"c": {"t": 1.5, "n": 7}}, '{"c":{"t":1.5,"n":7},"m":2}'),
        ('{"c":null,"m":2}', {"c": {"n": 7}}, '{"c":{"n":7},"m":2}'),
        # A server may read the first or the last: it is said once.
        ('{"n":100,"t":1.50,"n":9}', {"n": 1}, '{"n":1,"t":1.5}'),
    ],
)
def test_what_is_not_changed_stays_as_it_was_written(raw: str, changes: dict[str, Any], written: str) -> None:
    body = bodies.read(raw.encode())
    assert body is not None
    assert body.write({**body.fields, **changes}) == written.encode()


def test_what_is_not_changed_in_an_object_that_is_stays_as_it_was_written() -> None:
    body = bodies.read(b'{"c": {"t": 1e400, "deep": {"s": 1.50, "n": 9}}, "m": 2}')
    assert body is not None
    config = body.fields["c"]
    changed = {**body.fields, "c": {**config, "deep": {**config["deep"], "n": 7}, "new": "ä"}}
    assert (
        body.write(changed) == '{"c": {"t": 1e400, "deep": {"s": 1.50, "n": 7},"new":"ä"}, "m": 2}'.encode()
    )


def test_a_body_of_nothing_is_written_as_an_object() -> None:
    for raw in (b"", b" \n"):
        assert bodies.Body(raw, {}, {}).write({"n": 1}) == b'{"n":1}'


def test_half_a_character_that_is_not_escaped_is_sent_as_an_escape() -> None:
    """Python takes bytes that are no UTF-8; no provider does."""
    body = bodies.read(b'{"text":"cut \xed\xa0\xbd"}')
    assert body is not None
    assert body.write({**body.fields, "n": 1}) == rb'{"text":"cut \ud83d","n":1}'


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"a": "' + b"x" * 400_000, b'\xff{"a": 1}', b'"' * 400_000]
)
def test_what_is_not_one_object_is_not_read(raw: bytes) -> None:
    assert bodies.read(raw) is None


def test_a_body_of_very_many_strings_is_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "STRINGS_MAX", 10)
    asked = {"list": ["x"] * 200_000, "long": PICTURE}
    assert read(asked).fields == asked


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON), st.booleans())
def test_any_object_is_written_as_it_was(value: dict[str, Any], ascii_only: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "LARGE_BYTES", 0)
        patch.setattr(bodies, "LONG_BYTES", 2)
        body = bodies.read(json.dumps(value, ensure_ascii=ascii_only).encode())
        assert body is not None
        assert json.loads(body.write({**body.fields, "added": 1})) == value | {"added": 1}


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_fail(raw: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "LARGE_BYTES", 0)
        patch.setattr(bodies, "LONG_BYTES", 2)
        bodies.read(raw)
        bodies.read(b'{"a": "' + raw + b'"}')
