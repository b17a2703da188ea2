"""Answers of any shape: reading one never fails, and TokVigil takes what is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokvigil import Usage, containing, read_usage
from tokvigil.answered_model import model_of, named
from tokvigil.checked import TOKENS_MAX
from tokvigil.dialects import read_call
from tokvigil.endings import is_possible
from tokvigil.models import UsageEvent, checked_usage
from tokvigil.quantities import FORMS, NAMES

INPUT = "input_tokens"


def _fields(said: Any) -> Iterator[str]:
    """The names of fields that the data file reads."""
    if isinstance(said, str):
        yield from (
            part.partition("[")[0] for part in said.replace("]", "").split(".") if " " not in said and part
        )
    elif isinstance(said, dict):
        yield from said
        for each in said.values():
            yield from _fields(each)
    elif isinstance(said, list):
        for each in said:
            yield from _fields(each)


KNOWN = sorted({*_fields({name: said for name, said in FORMS.items() if name != "about"})} - {"source"})
WORDS = [
    "AUDIO",
    "image",
    "web_search_call",
    "search",
    "1h",
    "flex",
    "fast",
    "us",
    "list",
    "video",
    "compaction",
]
NUMBERS = (
    st.integers(0, 50)
    | st.integers(-5, 2 * TOKENS_MAX)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([0.5, 512.0, 10**30, True])
)
SCALARS = st.none() | NUMBERS | st.sampled_from(WORDS) | st.text(st.characters(), max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KNOWN), inner, max_size=8),
    max_leaves=30,
)
BLOCKS = st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=12)


def of_form(form: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Figures that one form knows, all of them small and whole, whether or not they add up."""
    small = st.integers(0, 40)
    needed = {form["reads"][name][0][0]: small for name in form.get("needs", form.get("needs_one_of"))}
    spelled = {
        spelling: small
        for terms in form["reads"].values()
        for spellings in terms
        for spelling in spellings
        if "[" not in spelling and spelling not in needed
    }
    total = {form["total"]: st.integers(0, 90)} if "total" in form else {}
    return st.fixed_dictionaries(needed, optional=spelled | total).map(nested)


def nested(paths: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}; where a field has a value of its own, what would be in it is left out."""
    said: dict[str, Any] = {}
    for path, value in paths.items():
        *steps, last = path.split(".")
        inner = said
        for step in steps:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                break
        else:
            inner.setdefault(last, value)
    return said


FORM_BLOCKS = st.sampled_from(FORMS["forms"]).flatmap(of_form)
ANSWERS = BLOCKS | st.builds(
    lambda usage, answer: answer | {"usage": usage}, BLOCKS | FORM_BLOCKS, BLOCKS | st.just({})
)


@pytest.fixture(autouse=True)
def defects_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def raised(what: str, error: BaseException, **_: Any) -> None:
        raise error

    monkeypatch.setattr(containing, "say", raised)


def check_is_taken(usage: Usage) -> None:
    """The rule of the API, written once more."""
    amounts = usage.quantities
    assert amounts.keys() <= NAMES
    assert all(type(amount) is int and 0 < amount <= TOKENS_MAX for amount in amounts.values())
    of = {name: amounts.get(name, 0) for name in NAMES}
    fresh_audio = of["input_audio_tokens"] - of["cached_audio_tokens"]
    fresh_images = of["input_image_tokens"] - of["cached_image_tokens"]
    written = usage.cache_write_tokens + of["cache_write_1h_tokens"]
    parts = usage.cached_input_tokens + written + fresh_audio + fresh_images + of["input_video_tokens"]
    assert 0 <= parts <= usage.input_tokens <= TOKENS_MAX
    made = of["output_audio_tokens"] + of["output_image_tokens"] + of["output_video_tokens"]
    assert usage.reasoning_tokens + made + of["citation_tokens"] <= usage.output_tokens <= TOKENS_MAX
    for kind in ("audio", "image"):
        whole = min(of[f"input_{kind}_tokens"], usage.cached_input_tokens)
        assert of[f"cached_{kind}_tokens"] <= whole
    assert is_possible(usage)


@given(ANSWERS)
def test_any_answer_is_read_and_what_is_read_is_taken(answer: Any) -> None:
    usage = read_usage(answer)
    assert read_usage(answer) == usage
    model, requested_model = named("asked", model_of(answer), None)
    if usage is None:
        return
    for used in (usage, *usage.other_models.values()):
        check_is_taken(used)
        assert checked_usage(used) == used
    event = UsageEvent(
        request_id="r", user_id="ada", model=model, requested_model=requested_model, usage=usage
    )
    assert json.loads(json.dumps(event.to_wire(), allow_nan=False)) == event.to_wire()


@given(FORM_BLOCKS)
def test_what_does_not_add_up_is_doubtful_and_no_total_is_lost(block: dict[str, Any]) -> None:
    usage = read_usage({"usage": block})
    if usage is None:
        return
    check_is_taken(usage)
    said = block.get("prompt_tokens", block.get(INPUT, 0))
    assert usage.input_tokens >= said
    assert usage.output_tokens >= block.get("completion_tokens", block.get("output_tokens", 0))


@given(
    st.integers(0, 1_000),
    st.integers(0, 1_000),
    st.integers(0, 1_000),
    st.integers(0, 1_000),
    st.integers(0, 1_000),
    st.integers(0, 1_000),
)
def test_what_adds_up_is_read_as_it_stands(
    text: int, audio: int, cached_text: int, cached_audio: int, written: int, spoken: int
) -> None:
    details = {
        "cached_tokens": cached_text + cached_audio,
        "cache_write_tokens": written,
        "audio_tokens": audio + cached_audio,
        "cached_tokens_details": {"audio_tokens": cached_audio},
    }
    usage = {
        "input_tokens": text + audio + cached_text + cached_audio + written,
        "output_tokens": spoken,
        "input_tokens_details": details,
        "output_tokens_details": {"audio_tokens": spoken},
    }
    read = read_usage({"usage": usage})
    assert read == Usage(
        input_tokens=usage[INPUT],  # type: ignore[arg-type]
        output_tokens=spoken,
        cached_input_tokens=cached_text + cached_audio,
        cache_write_tokens=written,
        quantities={
            "input_audio_tokens": audio + cached_audio,
            "cached_audio_tokens": cached_audio,
            "output_audio_tokens": spoken,
        },
    )
    assert read.doubtful is None


@given(
    st.lists(ANSWERS, max_size=4), st.booleans(), st.sampled_from(["/v1/chat/completions", "/v1/messages"])
)
def test_a_stream_of_any_events_is_read_and_what_is_read_is_taken(
    events: list[Any], is_done: bool, path: str
) -> None:
    asked = read_call("POST", path, "x", {}, b'{"model": "m", "messages": [], "stream": true}')
    assert asked is not None
    reader = asked.reader()
    for event in events:
        reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    if is_done:
        reader.feed(b"data: [DONE]\n\n")
    reader.finish()
    figures = reader.figures()
    if figures is not None:
        check_is_taken(figures)
