from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

import pytest
import tiktoken_ext.openai_public
from tokvigil import ConfigurationError, TokVigilError, token_encodings, tokens

# The six messages of OpenAI's cookbook; it prints 129 for gpt-4, as the API does.
COOKBOOK = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into "
        "plain English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for "
        "increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4", 129),
        ("gpt-4-turbo", 129),
        ("gpt-3.5-turbo", 129),
        ("azure/gpt-4", 129),
        ("ft:gpt-4:acme::x", 129),
        ("gpt-4o-mini", 124),
        ("gpt-4.1", 124),
        ("ft:gpt-4.1-mini:acme::x", 124),
        ("o3", 124),
        ("some-model-of-tomorrow", 124),
    ],
)
def test_the_cookbooks_messages(model: str, expected: int) -> None:
    assert tokens.count_messages(COOKBOOK, model) == expected


def test_models_without_a_public_tokenizer_are_scaled_up() -> None:
    assert tokens.count_messages(COOKBOOK, "claude-haiku-4-5") == 147
    assert tokens.count_messages(COOKBOOK, "claude-3-5-sonnet-20241022") == 147
    assert tokens.count_messages(COOKBOOK, "claude-sonnet-4-20250514") == 147
    assert tokens.count_messages(COOKBOOK, "claude-opus-4-6") == 147
    assert tokens.count_messages(COOKBOOK, "claude-opus-4-7") == 190
    assert tokens.count_messages(COOKBOOK, "anthropic/claude-sonnet-5-5") == 190
    assert tokens.count_messages(COOKBOOK, "gemini-2.5-flash") == 134


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_the_encodings_are_tiktokens_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def no_download(url: str, expected_hash: str) -> dict[bytes, int]:
        asked["hash"] = expected_hash
        return {}

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", no_download)
    official = tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[name]()
    assert token_encodings.PATTERNS[name] == official["pat_str"]
    assert token_encodings.SPECIAL_TOKENS[name] == official["special_tokens"]
    assert token_encodings.RANKS_SHA256[name] == asked["hash"]


def test_counting_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(token_encodings, "_encodings", token_encodings.Encodings())
    assert tokens.count_text("hello world", "gpt-4o") == 2
    assert tokens.count_text("hello world", "gpt-4") == 2


def test_a_child_forked_while_a_thread_counts_for_the_first_time_can_count() -> None:
    script = """
import os, signal, threading
from tokvigil import count_text, token_encodings
read, begun = token_encodings.gzip.decompress, threading.Event()
def read_and_say_so(data):
    begun.set()
    return read(data)
token_encodings.gzip.decompress = read_and_say_so
threading.Thread(target=count_text, args=("Hello", "gpt-4o")).start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(count_text("Hello", "gpt-4o"))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 1, "a token"


def test_damaged_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_encodings, "_encodings", token_encodings.Encodings())
    monkeypatch.setitem(token_encodings.RANKS_SHA256, "cl100k_base", "0" * 64)
    with pytest.raises(TokVigilError, match="damaged"):
        tokens.count_text("hello", "gpt-4")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(" " * 1_000_000 + "x", id="spaces"),
        pytest.param("\u3000" * 1_000_000 + "x", id="wide-spaces"),
        pytest.param("a" * 1_000_000, id="one-word"),
        pytest.param("你好世界" * 25_000, id="no-breaks"),
        pytest.param("<|endoftext|><|fim_prefix|>" * 1_000, id="special-tokens"),
        pytest.param("\ud800 alone", id="lone-surrogate"),
        pytest.param("\t" * 10_000_000 + "x", id="extrapolated"),
        pytest.param("", id="empty"),
    ],
)
@pytest.mark.parametrize("model", ["gpt-4", "gpt-4o"])
def test_hostile_text_is_counted_quickly_and_never_raises(text: str, model: str) -> None:
    token_encodings.encoding(tokens.encoding_name(model))
    started = time.perf_counter()
    count = tokens.count_text(text, model)
    assert time.perf_counter() - started < 5
    assert (count > 0) == bool(text)


def test_a_long_unbroken_text_is_counted_exactly() -> None:
    assert tokens.count_text("你好世界" * 25_000, "gpt-4o") == 50_000


def test_a_very_long_text_is_extrapolated_closely() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 200_000
    assert len(text) > tokens.CHUNK_CHARS * tokens.COUNTED_CHUNKS_MAX
    assert tokens.count_text(text, "gpt-4o") == pytest.approx(10 * 200_000, rel=0.001)


def test_content_parts_attachments_and_tool_calls_count() -> None:
    plain = tokens.count_messages([{"role": "user", "content": "hello"}], "gpt-4o")
    parts: list[dict[str, Any]] = [{"type": "text", "text": "hello"}]
    assert tokens.count_messages([{"role": "user", "content": parts}], "gpt-4o") == plain
    parts.append({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}})
    assert (
        tokens.count_messages([{"role": "user", "content": parts}], "gpt-4o")
        == plain + tokens.TOKENS_PER_ATTACHMENT
    )
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Paris"}'}}]
    called = [{"role": "assistant", "content": None, "tool_calls": calls}]
    assert tokens.count_messages(called, "gpt-4o") > 20


def test_an_application_may_know_better_how_a_vendor_counts() -> None:
    counted = tokens.count_text("Ada Lovelace wrote the first program.", "gpt-4o")
    shipped = tokens.count_text("Ada Lovelace wrote the first program.", "claude-haiku-4-5")
    try:
        tokens.set_token_factor("claude", 2)
        tokens.set_token_factor("anthropic/claude-haiku-4", 3)
        assert tokens.count_text("Ada Lovelace wrote the first program.", "claude-haiku-4-5") == 3 * counted
        assert tokens.count_text("Ada Lovelace wrote the first program.", "claude-opus-4-8") == 2 * counted
        assert tokens.count_text("Ada Lovelace wrote the first program.", "gpt-4o") == counted
    finally:
        tokens.set_token_factor("claude", None)
        tokens.set_token_factor("claude-haiku-4", None)
    assert tokens.count_text("Ada Lovelace wrote the first program.", "claude-haiku-4-5") == shipped


@pytest.mark.parametrize("factor", [0, -1, float("nan"), 101])
def test_a_token_factor_that_makes_no_sense_is_refused(factor: float) -> None:
    with pytest.raises(ConfigurationError, match="token factor"):
        tokens.set_token_factor("claude", factor)
