"""What a decision says the answer may be long goes into the provider's request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from tokvigil import TokVigil

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, MESSAGES, Books

Call = Callable[[Any, dict[str, int]], Any]
RESPONSE: Any = {"model": "gpt-5-mini", "input": "hi"}
CLAUDE: Any = {"model": "claude-haiku-4-5", "messages": MESSAGES}
GEMINI: Any = {"model": "gemini-2.5-flash", "contents": "hi"}
FORMATS: dict[str, tuple[str, Callable[[str], Any], Call]] = {
    "chat": (
        "max_tokens",
        lambda url: openai.OpenAI(base_url=url + "/v1", api_key="sk"),
        lambda c, cap: c.chat.completions.create(**CHAT, **cap),
    ),
    "chat, streaming": (
        "max_tokens",
        lambda url: openai.OpenAI(base_url=url + "/v1", api_key="sk"),
        lambda c, cap: list(c.chat.completions.create(**CHAT, **cap, stream=True)),
    ),
    "chat of a reasoning model": (
        "max_completion_tokens",
        lambda url: openai.OpenAI(base_url=url + "/v1", api_key="sk"),
        lambda c, cap: c.chat.completions.create(**CHAT | {"model": "gpt-5-mini"}, **cap),
    ),
    "responses": (
        "max_output_tokens",
        lambda url: openai.OpenAI(base_url=url + "/v1", api_key="sk"),
        lambda c, cap: c.responses.create(**RESPONSE, **cap),
    ),
    "messages": (
        "max_tokens",
        lambda url: anthropic.Anthropic(base_url=url, api_key="sk"),
        lambda c, cap: c.messages.create(**CLAUDE, **{"max_tokens": 4_000} | cap),
    ),
    "contents": (
        "max_output_tokens",
        lambda url: genai.Client(api_key="k", http_options={"base_url": url}),
        lambda c, cap: c.models.generate_content(**GEMINI, config=cap),
    ),
}


def cap_sent(body: Any) -> Any:
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
    fields = body | body.get("generationConfig", {})
    (cap,) = (fields[name] for name in names if fields.get(name) is not None)
    return cap


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("own", "decided", "sent"), [(None, 70, 70), (200, 70, 70), (50, 70, 50)])
def test_the_lower_of_the_decisions_cap_and_the_callers_own_is_sent(
    tv: TokVigil,
    control_plane: Any,
    wire: Any,
    wire_provider: WireProvider,
    books: Books,
    name: str,
    own: int | None,
    decided: int,
    sent: int,
) -> None:
    field, make, call = FORMATS[name]
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.decision(seen.body["request_id"], max_output_tokens=decided)
    )
    call(tv.wrap(make(wire_provider.url), user_id="user_123"), {} if own is None else {field: own})
    assert cap_sent(wire_provider.seen[0].body) == sent
    assert books.only().status == "succeeded"


def test_a_cap_is_shared_out_among_several_answers(
    tv: TokVigil, wire_provider: WireProvider, books: Books
) -> None:
    client = tv.wrap(FORMATS["chat"][1](wire_provider.url), user_id="user_123")
    client.chat.completions.create(**CHAT, n=3, max_tokens=90)
    assert books.asked[0]["max_output_tokens"] == 270
    assert wire_provider.seen[0].body["max_tokens"] == 33


def test_what_the_caller_gave_is_not_changed(tv: TokVigil, wire_provider: WireProvider) -> None:
    request = {**CHAT, "messages": [dict(MESSAGES[0])], "stream": True}
    before = {**request, "messages": [dict(MESSAGES[0])]}
    list(tv.wrap(FORMATS["chat"][1](wire_provider.url), user_id="u").chat.completions.create(**request))
    assert request == before


def test_a_request_without_anything_to_change_goes_out_byte_for_byte(
    tv: TokVigil, control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, wire.decision(seen.body["request_id"], max_output_tokens=None)
    )
    bare = FORMATS["chat"][1](wire_provider.url)
    tv.wrap(bare, user_id="user_123").chat.completions.create(**CHAT)
    bare.chat.completions.create(**CHAT)
    assert wire_provider.seen[0].raw == wire_provider.seen[1].raw
