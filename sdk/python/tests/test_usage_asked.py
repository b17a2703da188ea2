"""What a call is said to use beside text, before it is made."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from tokvigil import ConfigurationError, TokVigil, Usage
from tokvigil.calls import Call
from tokvigil.testing import FakeTokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, Books

ASKED: dict[str, Any] = {
    "user_id": "ada",
    "model": "gpt-4o-mini",
    "input_tokens": 100,
    "max_output_tokens": 50,
}
TOLD = {"service_tier": "flex", "region": "us", "quantities": {"web_searches": 3}}
NAMES = set(TOLD)


def test_what_is_not_said_is_not_asked(tv: TokVigil, books: Books) -> None:
    tv.evaluate(**ASKED)
    tv.evaluate(**ASKED, service_tier="default", region="")
    assert all(NAMES.isdisjoint(asked) for asked in books.asked)


def test_what_is_said_is_asked(tv: TokVigil, books: Books) -> None:
    tv.evaluate(**ASKED, **TOLD)
    tv.evaluate(**ASKED, quantities={"images": 0})
    first, second = books.asked
    assert {name: first[name] for name in NAMES} == TOLD
    assert second["quantities"] == {}, "nothing but text"


@pytest.mark.parametrize(
    "wrong",
    [{"quantities": {"searches": 1}}, {"quantities": {"images": -1}}, {"service_tier": "x"}, {"region": 1.5}],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    tv: TokVigil, books: Books, wrong: dict[str, Any]
) -> None:
    for ask in (tv.evaluate, tv.guard):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            ask(**ASKED, **wrong)
    assert not books.asked


def test_a_guard_without_a_record_is_charged_all_that_it_holds(tv: TokVigil, books: Books) -> None:
    with tv.guard(**ASKED, **TOLD):
        pass
    settled = books.only()
    assert settled.status == "partial"
    assert settled.usage == Usage(input_tokens=100, output_tokens=100, **TOLD)


def test_no_hold_is_more_than_tokvigil_takes(tv: TokVigil, books: Books) -> None:
    quantities = {"output_audio_tokens": 900, "cache_write_1h_tokens": 900, "images": 2}
    with tv.guard(**ASKED, quantities=quantities) as guard:
        call: Call = guard._call
    assert call.hold.quantities == {"output_audio_tokens": 100, "cache_write_1h_tokens": 100, "images": 2}
    assert books.only().usage.quantities == call.hold.quantities


def test_a_guarded_function_may_say_it_of_each_call(tv: TokVigil, books: Books) -> None:
    @tv.guarded(
        user_id="ada",
        model="dall-e-3",
        quantities=lambda count: {"images": count},
        service_tier=lambda _: "flex",
    )
    def draw(count: int) -> Any:
        return {"data": [{"url": "x"}] * count}

    draw(2)
    (asked,) = books.asked
    assert (asked["quantities"], asked["service_tier"]) == ({"images": 2}, "flex")
    assert books.only().usage == Usage(input_tokens=0, output_tokens=0, quantities={"images": 2})


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ({"service_tier": "flex"}, "flex"),
        ({"service_tier": "auto"}, None),
        ({"service_tier": "fast"}, "priority"),
    ],
)
def test_a_wrapped_client_asks_for_the_tier_that_its_call_names(
    tv: TokVigil, wire_provider: WireProvider, books: Books, said: dict[str, Any], asked: str | None
) -> None:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
        tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT, **said)
    assert books.asked[0].get("service_tier") == asked


def test_a_fake_tokvigil_is_asked_the_same() -> None:
    with FakeTokVigil() as tv:
        decision = tv.evaluate(**ASKED, **TOLD)
        assert decision.allowed
        assert decision.estimated_cost_usd is None
        (question,) = tv.evaluated
    assert (question.service_tier, question.region, question.quantities) == (
        "flex",
        "us",
        {"web_searches": 3},
    )
