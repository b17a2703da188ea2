"""The local provider is one that the providers' own SDKs take for theirs."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anthropic
import httpx2
import openai
import pytest
from google import genai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from tokvigil import read_usage

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.content import EMBEDDING, TEXT, THOUGHT, TOOL_TRIGGER

OPENAI_2 = Path(sys.prefix) / "openai-2"
MESSAGES: Any = [{"role": "user", "content": "Say hello to Ada"}]
TOOL_MESSAGES: Any = [{"role": "user", "content": f"Please {TOOL_TRIGGER}"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
CLAUDE: Any = {"model": "claude-haiku-4-5", "max_tokens": 500}


class Person(BaseModel):
    name: str
    age: int
    friends: list[str]


@pytest.fixture
def openai_client(wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk-caller", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(wire_provider: WireProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=wire_provider.url, api_key="sk-ant", max_retries=0) as client:
        yield client


@pytest.fixture
def gemini_client(wire_provider: WireProvider) -> genai.Client:
    return genai.Client(api_key="AIza", http_options={"base_url": wire_provider.url})


def test_openai_answers_a_chat(openai_client: openai.OpenAI, wire_provider: WireProvider) -> None:
    answer = openai_client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, n=2)
    assert [choice.message.content for choice in answer.choices] == [TEXT, TEXT]
    assert answer.model == "gpt-4o-mini-2024-07-18"
    assert read_usage(answer) == wire_provider.openai.USAGE
    assert answer._request_id == "req_1"
    (seen,) = wire_provider.seen
    assert (seen.method, seen.path, seen.body["n"]) == ("POST", "/v1/chat/completions", 2)
    assert seen.headers["authorization"] == "Bearer sk-caller"


def test_openai_tells_usage_in_a_stream_to_those_who_ask(openai_client: openai.OpenAI) -> None:
    def chunks(**options: Any) -> list[Any]:
        return list(
            openai_client.chat.completions.create(
                model="gpt-4o-mini", messages=MESSAGES, stream=True, **options
            )
        )

    silent = chunks()
    assert "usage" not in silent[-1].model_fields_set
    told = chunks(stream_options={"include_usage": True}, n=2)
    assert [chunk.usage for chunk in told[:-1]] == [None] * (len(told) - 1)
    assert (told[-1].choices, told[-1].usage.completion_tokens) == ([], 90)
    for number in (0, 1):
        deltas = [c.delta.content or "" for chunk in told for c in chunk.choices if c.index == number]
        assert "".join(deltas) == TEXT


def test_openai_parses_what_it_was_given_a_schema_for(openai_client: openai.OpenAI) -> None:
    chat = openai_client.chat.completions.parse(
        model="gpt-4o-mini", messages=MESSAGES, response_format=Person
    )
    response = openai_client.responses.parse(model="gpt-4o-mini", input="Who?", text_format=Person)
    ada = Person(name="Ada", age=36, friends=["Ada"])
    assert chat.choices[0].message.parsed == response.output_parsed == ada


def test_openai_calls_a_tool(openai_client: openai.OpenAI) -> None:
    request: Any = {"model": "gpt-4o-mini", "messages": TOOL_MESSAGES, "tools": CHAT_TOOLS}
    answer = openai_client.chat.completions.create(**request)
    assert answer.choices[0].finish_reason == "tool_calls"
    with openai_client.chat.completions.stream(**request) as stream:
        streamed = stream.get_final_completion()
    for message in (answer.choices[0].message, streamed.choices[0].message):
        (call,) = message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Ada"}')


def test_openai_answers_a_response(openai_client: openai.OpenAI, wire_provider: WireProvider) -> None:
    answer = openai_client.responses.create(model="gpt-5-mini", input="Say hello to Ada")
    assert answer.output_text == TEXT
    assert read_usage(answer) == wire_provider.openai.USAGE


@pytest.mark.parametrize("calls_tool", [False, True])
def test_openai_streams_a_response(openai_client: openai.OpenAI, calls_tool: bool) -> None:
    request: Any = {"model": "gpt-5-mini", "input": "Say hello"}
    if calls_tool:
        tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
        request = {"model": "gpt-5-mini", "input": TOOL_TRIGGER, "tools": [tool]}
    events = list(openai_client.responses.create(stream=True, **request))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    with openai_client.responses.stream(**request) as stream:
        stream.until_done()
        final = stream.get_final_response()
    assert final.output[1].type == ("function_call" if calls_tool else "message")
    assert final.output_text == ("" if calls_tool else TEXT)
    assert final.usage is not None
    assert final.usage.total_tokens == 1_290


@pytest.mark.parametrize(("options", "on_the_wire"), [({}, str), ({"encoding_format": "float"}, list)])
def test_openai_embeds(
    openai_client: openai.OpenAI, wire_provider: WireProvider, options: Any, on_the_wire: type
) -> None:
    raw = openai_client.embeddings.with_raw_response.create(
        model="text-embedding-3-small", input=["a", "b"], **options
    )
    answer = raw.parse()
    assert [entry.embedding for entry in answer.data] == [list(EMBEDDING)] * 2
    assert isinstance(raw.http_response.json()["data"][0]["embedding"], on_the_wire)
    assert read_usage(answer) == wire_provider.openai.EMBEDDING_USAGE


def test_openai_serves_its_smaller_endpoints(
    openai_client: openai.OpenAI, wire_provider: WireProvider
) -> None:
    completion = openai_client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello")
    assert (completion.choices[0].text, read_usage(completion)) == (TEXT, wire_provider.openai.LEGACY_USAGE)
    stream = openai_client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == TEXT
    assert {model.id for model in openai_client.models.list()} >= {"gpt-4o-mini"}
    assert openai_client.models.retrieve("gpt-4o-mini").object == "model"
    images = openai_client.images.generate(model="gpt-image-1", prompt="Ada", n=2)
    assert len(images.data or []) == 2
    assert read_usage(images) == wire_provider.openai.IMAGE_USAGE
    assert (
        not openai_client.moderations.create(input="Hello", model="omni-moderation-latest").results[0].flagged
    )


def test_openai_answers_its_async_client(wire_provider: WireProvider) -> None:
    async def talk() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as client:
            answer = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
            streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return answer.choices[0].message.content, "".join(streamed)

    assert asyncio.run(talk()) == (TEXT, TEXT)


def test_openai_refuses_what_openai_refuses(openai_client: openai.OpenAI) -> None:
    create: Callable[..., Any] = openai_client.chat.completions.create
    for wrong in (
        {"stream_options": {"include_usage": True}},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"max_tokens": 0},
    ):
        with pytest.raises(openai.BadRequestError):
            create(model="gpt-4o-mini", messages=MESSAGES, **wrong)
    with pytest.raises(openai.BadRequestError, match=">= 16"):
        openai_client.responses.create(model="gpt-5-mini", input="Hello", max_output_tokens=15)
    with pytest.raises(openai.NotFoundError):
        openai_client.post("/unknown", body={"model": "m"}, cast_to=object)
    answer = httpx2.post(str(openai_client.base_url) + "chat/completions", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


OPENAI_2_TALK = """
import sys, openai
assert openai.__version__.startswith("2."), openai.__version__
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="sk")
ask = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
print(client.chat.completions.create(**ask).choices[0].message.content)
stream = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
chunks = list(stream)
print("".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]))
with client.responses.stream(model="gpt-5-mini", input="Hello") as stream:
    print(stream.get_final_response().output_text)
print(chunks[-1].usage.prompt_tokens_details.cached_tokens, chunks[-1].usage.completion_tokens)
print(client.embeddings.create(model="text-embedding-3-small", input="Hello").data[0].embedding)
"""


def test_openai_answers_the_major_version_before(wire_provider: WireProvider) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENAI_2_TALK, wire_provider.url],
        env={**os.environ, "PYTHONPATH": str(OPENAI_2), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [TEXT, TEXT, TEXT, "1024 90", str(list(EMBEDDING))]


def test_langchain_talks_to_openai(wire_provider: WireProvider) -> None:
    address: Any = {"base_url": wire_provider.url + "/v1", "api_key": "sk"}
    chat = ChatOpenAI(model="gpt-4o-mini", stream_usage=True, **address)
    answer = chat.invoke("Hello")
    assert answer.content == TEXT
    *_, told = [chunk.usage_metadata for chunk in chat.stream("Hello") if chunk.usage_metadata]
    for usage in (answer.usage_metadata, told):
        assert usage is not None
        assert (usage["input_tokens"], usage["output_tokens"]) == (1_200, 90)
    # Else it would fetch a tokenizer.
    embeddings = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False, **address)
    assert embeddings.embed_documents(["a", "b"]) == [list(EMBEDDING)] * 2


def test_azure_names_the_model_in_the_path_and_its_stream_begins_without_choices(
    wire_provider: WireProvider,
) -> None:
    client = openai.AzureOpenAI(
        azure_endpoint=wire_provider.url, api_key="azure", api_version="2024-10-21", max_retries=0
    )
    ask: Any = {"model": "my-deployment", "messages": MESSAGES}
    assert client.chat.completions.create(**ask).choices[0].message.content == TEXT
    first, second, *_ = client.chat.completions.create(**ask, stream=True)
    assert (first.choices, len(second.choices)) == ([], 1)
    (seen, _) = wire_provider.seen
    assert seen.path == "/openai/deployments/my-deployment/chat/completions"
    assert (seen.query, seen.headers["api-key"]) == ({"api-version": "2024-10-21"}, "azure")
    wire_provider.fail(429)
    with pytest.raises(openai.RateLimitError) as failure:
        client.chat.completions.create(**ask)
    assert failure.value.code == "429"


def test_anthropic_answers_a_message(
    anthropic_client: anthropic.Anthropic, wire_provider: WireProvider
) -> None:
    answer = anthropic_client.messages.create(messages=MESSAGES, **CLAUDE)
    assert answer.content[0].text == TEXT
    assert (answer.stop_reason, answer._request_id) == ("end_turn", "req_1")
    assert read_usage(answer) == wire_provider.anthropic.USAGE
    counted = anthropic_client.messages.count_tokens(model="claude-haiku-4-5", messages=MESSAGES)
    assert counted.input_tokens == 1_200


def test_anthropic_streams_a_message(
    anthropic_client: anthropic.Anthropic, wire_provider: WireProvider
) -> None:
    with anthropic_client.messages.stream(messages=MESSAGES, **CLAUDE) as stream:
        assert "".join(stream.text_stream) == TEXT
        final = stream.get_final_message()
    assert read_usage(final) == wire_provider.anthropic.USAGE
    raw = list(anthropic_client.messages.create(messages=MESSAGES, stream=True, **CLAUDE))
    assert [raw[0].type, raw[1].type, raw[-3].type, raw[-2].type, raw[-1].type] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_anthropic_thinks_and_calls_a_tool(anthropic_client: anthropic.Anthropic) -> None:
    tool: Any = {"name": "weather", "input_schema": SCHEMA}
    ask: Any = {"messages": TOOL_MESSAGES, "tools": [tool], "model": "claude-haiku-4-5", "max_tokens": 2_000}
    ask["thinking"] = {"type": "enabled", "budget_tokens": 1_024}
    answer = anthropic_client.messages.create(**ask)
    with anthropic_client.messages.stream(**ask) as stream:
        streamed = stream.get_final_message()
    for message in (answer, streamed):
        thought, call = message.content
        assert (thought.type, call.type, message.stop_reason) == ("thinking", "tool_use", "tool_use")
        assert thought.thinking == THOUGHT  # type: ignore[union-attr]
        assert call.input == {"city": "Ada"}  # type: ignore[union-attr]
        assert message.usage.output_tokens_details is not None
        assert message.usage.output_tokens_details.thinking_tokens == 40
    with pytest.raises(anthropic.BadRequestError, match="budget_tokens"):
        anthropic_client.messages.create(**{**ask, "max_tokens": 1_024})


def test_anthropic_parses_what_it_was_given_a_schema_for(anthropic_client: anthropic.Anthropic) -> None:
    answer = anthropic_client.messages.parse(messages=MESSAGES, output_format=Person, **CLAUDE)
    assert answer.parsed_output == Person(name="Ada", age=36, friends=["Ada"])


def test_anthropic_answers_its_async_client(wire_provider: WireProvider) -> None:
    async def talk() -> tuple[Any, str]:
        async with anthropic.AsyncAnthropic(base_url=wire_provider.url, api_key="sk-ant") as client:
            answer = await client.messages.create(messages=MESSAGES, **CLAUDE)
            async with client.messages.stream(messages=MESSAGES, **CLAUDE) as stream:
                streamed = [text async for text in stream.text_stream]
        return answer.content[0].text, "".join(streamed)

    assert asyncio.run(talk()) == (TEXT, TEXT)


def test_gemini_answers(gemini_client: genai.Client, wire_provider: WireProvider) -> None:
    answer = gemini_client.models.generate_content(model="gemini-2.5-flash", contents="Hello")
    assert answer.text == TEXT
    assert read_usage(answer) == wire_provider.gemini.USAGE
    beta = genai.Client(api_key="AIza", http_options={"base_url": wire_provider.url, "api_version": "v1beta"})
    beta.models.generate_content(model="gemini-2.5-flash", contents="Hello")
    assert [seen.path for seen in wire_provider.seen] == [
        "/v1/models/gemini-2.5-flash:generateContent",
        "/v1beta/models/gemini-2.5-flash:generateContent",
    ]


def test_gemini_streams_with_usage_in_each_chunk(
    gemini_client: genai.Client, wire_provider: WireProvider
) -> None:
    chunks = list(gemini_client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hello"))
    assert "".join(chunk.text or "" for chunk in chunks) == TEXT
    assert wire_provider.seen[0].query == {"alt": "sse"}
    used = [read_usage(chunk) for chunk in chunks]
    assert used[-1] == wire_provider.gemini.USAGE
    output = [usage.output_tokens for usage in used if usage is not None]
    assert output == sorted(output)
    assert len(set(output)) == len(chunks)


def test_gemini_calls_a_tool_counts_embeds_and_parses(gemini_client: genai.Client) -> None:
    def weather(city: str) -> str:
        """The weather there."""
        return f"fine in {city}"

    model: Any = {"model": "gemini-2.5-flash"}
    answer = gemini_client.models.generate_content(
        **model, contents=TOOL_TRIGGER, config={"tools": [weather]}
    )
    assert answer.text == TEXT
    history = answer.automatic_function_calling_history or []
    assert history[-1].parts[0].function_response.response == {"result": "fine in Ada"}  # type: ignore
    assert gemini_client.models.count_tokens(**model, contents="Hello").total_tokens == 1_200
    embedded = gemini_client.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
    assert [entry.values for entry in embedded.embeddings or []] == [list(EMBEDDING)] * 2
    parsed = gemini_client.models.generate_content(
        **model, contents="Who?", config={"response_schema": Person, "candidate_count": 2}
    )
    assert parsed.parsed == Person(name="Ada", age=36, friends=["Ada"])
    assert len(parsed.candidates or []) == 2


def test_gemini_answers_its_async_client(wire_provider: WireProvider) -> None:
    async def talk() -> tuple[str | None, str]:
        client = genai.Client(api_key="AIza", http_options={"base_url": wire_provider.url}).aio
        ask: Any = {"model": "gemini-2.5-flash", "contents": "Hello"}
        answer = await client.models.generate_content(**ask)
        stream = await client.models.generate_content_stream(**ask)
        streamed = [chunk.text or "" async for chunk in stream]
        await client.aclose()
        return answer.text, "".join(streamed)

    assert asyncio.run(talk()) == (TEXT, TEXT)


class Talk(NamedTuple):
    """How each provider's SDK asks, streams, and fails."""

    ask: Callable[[], Any]
    stream: Callable[[], Any]
    overloaded: type[Exception]
    broken: type[Exception]


@pytest.fixture(params=["openai", "responses", "anthropic", "gemini"])
def talk(
    request: pytest.FixtureRequest,
    openai_client: openai.OpenAI,
    anthropic_client: anthropic.Anthropic,
    gemini_client: genai.Client,
) -> Talk:
    chat = openai_client.chat.completions.create
    respond = openai_client.responses.create
    message = anthropic_client.messages.create
    models = gemini_client.models
    hello: Any = {"model": "gpt-4o-mini", "messages": MESSAGES}
    input_: Any = {"model": "gpt-5-mini", "input": "Hello"}
    claude: Any = {"messages": MESSAGES, **CLAUDE}
    gemini: Any = {"model": "gemini-2.5-flash", "contents": "Hello"}
    talks = {
        "openai": Talk(
            lambda: chat(**hello),
            lambda: chat(**hello, stream=True),
            openai.InternalServerError,
            openai.APIConnectionError,
        ),
        "responses": Talk(
            lambda: respond(**input_),
            lambda: respond(**input_, stream=True),
            openai.InternalServerError,
            openai.APIConnectionError,
        ),
        "anthropic": Talk(
            lambda: message(**claude),
            lambda: message(**claude, stream=True),
            anthropic.InternalServerError,
            anthropic.APIConnectionError,
        ),
        "gemini": Talk(
            lambda: models.generate_content(**gemini),
            lambda: models.generate_content_stream(**gemini),
            genai.errors.ServerError,
            httpx2.RemoteProtocolError,
        ),
    }
    talked: Talk = talks[request.param]
    return talked


def test_it_fails_as_often_as_it_is_told(talk: Talk, wire_provider: WireProvider) -> None:
    wire_provider.fail(503, times=2, headers={"x-marked": "yes"}, retry_after=7)
    for _ in range(2):
        with pytest.raises(talk.overloaded) as failure:
            talk.ask()
        response = failure.value.response  # type: ignore[attr-defined]
        assert (response.headers["retry-after"], response.headers["x-marked"]) == ("7", "yes")
        assert "fails as the test wants" in str(failure.value)
    talk.ask()
    assert len(wire_provider.seen) == 3


def test_it_hangs_up(talk: Talk, wire_provider: WireProvider) -> None:
    wire_provider.hang_up()
    with pytest.raises(talk.broken):
        talk.ask()
    talk.ask()
    assert len(wire_provider.seen) == 2


def test_a_stream_waits_until_it_may_go_on(talk: Talk, wire_provider: WireProvider) -> None:
    whole = len(list(talk.stream()))
    wire_provider.pause_after(3)
    with ThreadPoolExecutor() as pool:
        events = pool.submit(lambda: list(talk.stream()))
        assert wire_provider.paused.wait(timeout=5)
        assert wait([events], timeout=0.1).not_done
        wire_provider.resume()
        assert len(events.result(timeout=5)) == whole
    assert wire_provider.aborted == []


def test_a_client_that_leaves_in_mid_stream_is_seen(talk: Talk, wire_provider: WireProvider) -> None:
    wire_provider.pause_after(3)
    stream = talk.stream()
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while not wire_provider.aborted and time.monotonic() < deadline:
        time.sleep(0.005)
    assert wire_provider.aborted == wire_provider.seen


def test_a_stream_is_cut(talk: Talk, wire_provider: WireProvider) -> None:
    wire_provider.cut_after(4)
    stream = talk.stream()
    next(stream)
    with pytest.raises((talk.broken, httpx2.RemoteProtocolError)):
        list(stream)


def test_a_stream_ends_in_the_providers_own_error(talk: Talk, wire_provider: WireProvider) -> None:
    wire_provider.error_after(4)
    stream = talk.stream()
    next(stream)
    with pytest.raises((openai.APIError, anthropic.APIStatusError, genai.errors.ServerError)):
        list(stream)
    list(talk.stream())


@pytest.mark.parametrize("gzip_streams", [False, True])
def test_a_stream_may_be_cut_into_single_bytes(
    talk: Talk, wire_provider: WireProvider, gzip_streams: bool
) -> None:
    def events() -> list[Any]:
        return [event.model_dump(exclude={"sdk_http_response"}) for event in talk.stream()]

    whole = events()
    wire_provider.fragment_bytes = 1
    wire_provider.gzip_streams = gzip_streams
    assert events() == whole


def test_a_request_may_come_in_chunks(wire_provider: WireProvider) -> None:
    pieces = iter([b'{"model": "m", ', b'"messages": [{}]}'])
    with httpx2.Client(headers={"authorization": "Bearer sk"}) as client:
        for content in (pieces, b'{"model": "m", "messages": []}'):
            answer = client.post(wire_provider.url + "/v1/chat/completions", content=content)
            assert answer.status_code == 200
    assert wire_provider.seen[0].body == {"model": "m", "messages": [{}]}


def test_fragments_are_as_small_as_they_should_be(wire_provider: WireProvider) -> None:
    wire_provider.fragment_bytes = 7
    body = b'{"model": "m", "messages": [{}], "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer sk\r\nConnection: close\r\n"
    address = urlsplit(wire_provider.url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        _, chunks = connection.makefile("rb").read().split(b"\r\n\r\n", 1)
    assert chunks.startswith(b"7\r\ndata: {\r\n7\r\n")


def test_answers_are_compressed_for_those_who_take_it(wire_provider: WireProvider) -> None:
    def ask(encoding: str) -> Any:
        headers = {"authorization": "Bearer sk", "accept-encoding": encoding}
        return httpx2.get(wire_provider.url + "/v1/models", headers=headers)

    compressed, plain = ask("gzip"), ask("identity")
    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert compressed.json() == plain.json()


def test_an_answer_may_take_its_time(openai_client: openai.OpenAI, wire_provider: WireProvider) -> None:
    wire_provider.delay_s = 0.3
    begun = time.monotonic()
    openai_client.models.list()
    assert time.monotonic() - begun >= 0.3
    wire_provider.delay_s = 30
    with pytest.raises(openai.APITimeoutError):
        openai_client.models.list(timeout=0.05)
