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


def test_what_is_not_ascii_stays_as_it_is() -> None:
    body = bodies.read('{"text": "中文 Ä"}'.encode())
    assert body is not None
    assert body.write({**body.fields, "n": 1}) == '{"text":"中文 Ä","n":1}'.encode()


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
