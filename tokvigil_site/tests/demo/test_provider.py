from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tokvigil import count_tokens

from tokvigil_site.demo.conversations import load_conversations
from tokvigil_site.demo.provider.model import fit
from tokvigil_site.demo.provider.process import start_provider

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "tokvigil_site.demo.provider", "--port", "0"]
HELLO = [{"role": "user", "content": "Say hello"}]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with start_provider(latency_ms=0) as url:
        yield url


@pytest.fixture
def http(base_url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=base_url, headers={"Authorization": "Bearer sk-demo"}, timeout=30) as client:
        yield client


@pytest.fixture
def complete(http: httpx2.Client) -> Callable[..., Any]:
    def post(**changes: Any) -> Any:
        body = {"model": "gpt-4o-mini", "messages": HELLO} | changes
        return http.post("/chat/completions", json=body)

    return post


def events(response: httpx2.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_every_conversation_gets_its_own_answer_and_true_usage(complete: Any) -> None:
    for conversation in load_conversations():
        answer = complete(model=conversation.model, messages=conversation.messages).json()

        assert answer["choices"][0]["message"]["content"] == conversation.answer, conversation.id
        assert answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
        assert usage["prompt_tokens"] == count_tokens(
            conversation.messages, model=conversation.model, exact=True
        )
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        said = usage["completion_tokens"] - usage["completion_tokens_details"]["reasoning_tokens"]
        assert said == count_tokens(conversation.answer, model=conversation.model, exact=True)


def test_other_conversations_get_filler_that_is_the_same_every_time(complete: Any) -> None:
    first, second = complete().json(), complete().json()
    assert first["choices"] == second["choices"]
    assert first["id"] != second["id"]
    text = first["choices"][0]["message"]["content"]
    assert first["usage"]["completion_tokens"] == count_tokens(text, model="gpt-4o-mini", exact=True) > 10


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_cap_is_honoured(complete: Any, name: str) -> None:
    answer = complete(**{name: 7}).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 7


@pytest.mark.parametrize("tokens_max", [0, 1, 2, 3, 5, 8, 13, 40])
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4", "claude-haiku-4-5"])
def test_a_cut_text_has_the_tokens_it_is_said_to_have(model: str, tokens_max: int) -> None:
    for text in ("नमस्ते दुनिया " * 20, "👩‍👩‍👧‍👦" * 20, "a \n \n b   c " * 20, "서버가 멈췄습니다. " * 20):
        cut, tokens, was_cut = fit(text, model, tokens_max)
        assert was_cut
        assert tokens == count_tokens(cut, model=model, exact=True) <= tokens_max
        assert text.startswith(cut)


def test_reasoning_is_part_of_the_output_and_under_the_cap(complete: Any) -> None:
    free = complete(model="o3").json()["usage"]
    assert 0 < free["completion_tokens_details"]["reasoning_tokens"] < free["completion_tokens"]
    capped = complete(model="o3", max_completion_tokens=5).json()
    assert capped["usage"]["completion_tokens"] == 5
    assert capped["choices"][0] | {"message": None} == capped["choices"][0] | {
        "message": None,
        "finish_reason": "length",
    }


def test_a_repeated_long_prefix_is_cached_in_steps_of_128(complete: Any) -> None:
    long = [{"role": "system", "content": "Be brief. " * 600}, {"role": "user", "content": "One?"}]
    longer = [*long, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Two?"}]

    def cached(messages: Any, model: str = "gpt-4.1") -> int:
        usage = complete(model=model, messages=messages).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached(long) == 0
    again = cached(longer)
    assert again >= 1_024
    assert again % 128 == 0
    assert cached(longer, "gpt-4o") == 0
    assert [cached(HELLO), cached(HELLO)] == [0, 0]


def test_several_choices_are_all_paid_for(complete: Any) -> None:
    one, three = complete().json(), complete(n=3).json()
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]


def test_a_stream_is_the_same_answer_in_pieces(complete: Any) -> None:
    whole = complete().json()
    response = complete(stream=True, stream_options={"include_usage": True})
    assert response.headers["Content-Type"].startswith("text/event-stream")
    *chunks, last = events(response)
    assert len(chunks) > 5
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert {chunk["object"] for chunk in [*chunks, last]} == {"chat.completion.chunk"}


def test_a_stream_says_nothing_of_usage_unless_asked(complete: Any) -> None:
    assert all("usage" not in chunk and chunk["choices"] for chunk in events(complete(stream=True)))


def test_a_client_that_hangs_up_does_not_disturb_the_others(http: httpx2.Client, complete: Any) -> None:
    body = {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}
    with http.stream("POST", "/chat/completions", json=body) as response:
        next(response.iter_bytes())
    assert complete().status_code == 200


def test_models_are_listed(http: httpx2.Client) -> None:
    listed = http.get("/models").json()
    assert listed["object"] == "list"
    assert {conversation.model for conversation in load_conversations()} <= {m["id"] for m in listed["data"]}


@pytest.mark.parametrize("path", ["/models", "/chat/completions"])
@pytest.mark.parametrize("header", [None, "Bearer", "Basic sk-demo", "Bearer wrong"])
def test_a_missing_or_wrong_key_is_a_401(base_url: str, path: str, header: str | None) -> None:
    method = "GET" if path == "/models" else "POST"
    headers = {} if header is None else {"Authorization": header}
    response = httpx2.request(method, base_url + path, headers=headers, json={} if method == "POST" else None)
    assert response.status_code == 401
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("broken-model", 500, None),
        ("busy-model", 429, "rate_limit_exceeded"),
        ("missing-model", 404, "model_not_found"),
    ],
)
def test_some_models_always_fail(complete: Any, model: str, status: int, code: str | None) -> None:
    response = complete(model=model)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert ("Retry-After" in response.headers) == (status == 429)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ""},
        {"model": 4},
        {"messages": []},
        {"messages": "hi"},
        {"messages": ["hi"]},
        {"messages": HELLO * 3_000},
        {"max_tokens": 0},
        {"max_tokens": "many"},
        {"max_completion_tokens": True},
        {"n": 9},
        {"messages": [{"role": "user", "content": "word " * 130_000}]},
    ],
)
def test_a_bad_request_is_a_400_that_names_the_fault(complete: Any, changes: dict[str, Any]) -> None:
    response = complete(**changes)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object_is_a_400(http: httpx2.Client, body: bytes) -> None:
    assert http.post("/chat/completions", content=body).status_code == 400


def test_an_unknown_path_is_a_404(http: httpx2.Client) -> None:
    assert http.post("/embeddings", json={}).status_code == 404
    assert http.get("/nothing").status_code == 404


def test_many_clients_at_once(base_url: str) -> None:
    statuses: list[int] = []

    def ask() -> None:
        with httpx2.Client(headers={"Authorization": "Bearer sk-demo"}, timeout=30) as client:
            for _ in range(10):
                answer = client.post(
                    base_url + "/chat/completions", json={"model": "gpt-4o", "messages": HELLO}
                )
                statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 160


def test_latency_and_failures_can_be_set() -> None:
    with start_provider(latency_ms=200, failure_rate=1) as url:
        started = time.monotonic()
        response = httpx2.post(
            url + "/chat/completions",
            headers={"Authorization": "Bearer sk-demo"},
            json={"model": "gpt-4o-mini", "messages": HELLO},
        )
    assert response.status_code == 500
    assert time.monotonic() - started >= 0.2


def test_nothing_listens_after_the_block() -> None:
    with start_provider() as url:
        assert httpx2.get(url + "/models").status_code == 401
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url + "/models")


def test_the_provider_does_not_outlive_a_killed_parent() -> None:
    code = (
        "import os, signal\n"
        "from tokvigil_site.demo.provider.process import start_provider\n"
        "with start_provider() as url:\n"
        "    print(url, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert parent.returncode == -signal.SIGKILL
    url = parent.stdout.strip()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            httpx2.get(url + "/models")
        except httpx2.TransportError:
            return
        time.sleep(0.05)
    pytest.fail("the provider still answers")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_its_url_and_stops_cleanly(stop: signal.Signals) -> None:
    process = subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/v1")
        process.send_signal(stop)
        assert process.wait(5) == 0
        assert process.stderr.read() == ""


def test_the_provider_needs_no_django() -> None:
    code = "import sys, tokvigil_site.demo.provider.__main__; print('django' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
