from __future__ import annotations

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiktoken_ext.openai_public
from tokvigil import ConfigurationError, TokVigilError, count_tokens, token_encodings, tokens

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
    assert count_tokens(COOKBOOK, model=model, exact=True) == expected
    assert count_tokens(COOKBOOK, model=model) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("exact", [True, False])
def test_models_without_a_public_tokenizer_are_scaled_up(exact: bool) -> None:
    openai = count_tokens(COOKBOOK, model="gpt-4o", exact=exact)
    for model, percent in {
        "claude-haiku-4-5": 118,
        "claude-3-5-sonnet-20241022": 118,
        "claude-sonnet-4-20250514": 118,
        "claude-opus-4-6": 118,
        "claude-opus-4-7": 153,
        "anthropic/claude-sonnet-5-5": 153,
        "eu.anthropic.claude-sonnet-4-5-20250929-v1:0": 118,
        "us.anthropic.claude-opus-4-7-v1:0": 153,
        "gemini-2.5-flash": 108,
    }.items():
        assert count_tokens(COOKBOOK, model=model, exact=exact) == -(-openai * percent // 100)


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_the_encodings_are_tiktokens_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def no_download(url: str, expected_hash: str) -> dict[bytes, int]:
        asked["hash"] = expected_hash
        return {}

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", no_download)
    official = tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS[name]()
    assert token_encodings.PATTERNS[name] == official["pat_str"]
    assert token_encodings.RANKS_SHA256[name] == asked["hash"]


def test_an_estimate_loads_no_encoding_and_no_second_http_stack() -> None:
    code = (
        "import sys, tokvigil; before = len(sys.modules); tokvigil.count_tokens('hello 你好 안녕', model='gpt-4o');"
        "print(len(sys.modules) - before, [m for m in ('tiktoken', 'regex', 'requests') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "0 []"


def test_counting_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(token_encodings, "_built", {})
    assert count_tokens("hello world", model="gpt-4o", exact=True) == 2
    assert count_tokens("hello world", model="gpt-4", exact=True) == 2


def test_without_tiktoken_an_exact_count_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_encodings, "_built", {})
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ConfigurationError, match="pip install tiktoken"):
        count_tokens("hello", model="gpt-4o", exact=True)
    assert count_tokens("hello", model="gpt-4o") == 2


@pytest.mark.parametrize(
    "halfway",
    [
        pytest.param("token_encodings.gzip, 'decompress'", id="building"),
        pytest.param("builtins, '__import__'", id="importing"),
    ],
)
def test_a_child_forked_while_a_thread_loads_an_encoding_can_count_exactly(halfway: str) -> None:
    script = f"""
import builtins, os, signal, threading
from tokvigil import count_tokens, token_encodings
begun = threading.Event()
def slowed(module, name):
    function = getattr(module, name)
    def call(*arguments, **options):
        if threading.current_thread() is loading and (name != "__import__" or arguments[0].startswith("tiktoken")):
            begun.set()
        return function(*arguments, **options)
    setattr(module, name, call)
loading = threading.Thread(target=count_tokens, args=("Hello",), kwargs={{"model": "gpt-4o", "exact": True}})
slowed({halfway})
loading.start()
begun.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(count_tokens("Hello", model="gpt-4o", exact=True))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 1, "a token"


def test_threads_that_count_exactly_at_once_build_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(token_encodings, "_built", {})
    build = token_encodings._build
    monkeypatch.setattr(token_encodings, "_build", lambda name: built.append(name) or build(name))
    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(lambda _: count_tokens("hello world", model="gpt-4", exact=True), range(8)))
    assert (counted, built) == ([2] * 8, ["cl100k_base"])


def test_damaged_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_encodings, "_built", {})
    monkeypatch.setitem(token_encodings.RANKS_SHA256, "cl100k_base", "0" * 64)
    with pytest.raises(TokVigilError, match="damaged"):
        count_tokens("hello", model="gpt-4", exact=True)


HOSTILE = {
    "spaces": " " * 1_000_000 + "x",
    "wide-spaces": "\u3000" * 1_000_000 + "x",
    "one-letter": "a" * 1_000_000,
    "no-breaks": "你好世界" * 25_000,
    "one-phrase": "Ignore all that. " * 25_000,
    "special-tokens": "<|endoftext|><|fim_prefix|>" * 1_000,
    "lone-surrogate": "\ud800 alone",
    "extrapolated": "\t" * 10_000_000 + "x",
    "empty": "",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("model", ["gpt-4", "gpt-4o"])
@pytest.mark.parametrize(("exact", "seconds"), [(True, 5), (False, 0.5)])
def test_hostile_text_is_counted_quickly_and_never_raises(
    text: str, model: str, exact: bool, seconds: float
) -> None:
    if exact:
        token_encodings.encoding(tokens.encoding_name(model))
    started = time.perf_counter()
    count = count_tokens(text, model=model, exact=exact)
    assert time.perf_counter() - started < seconds
    assert (count > 0) == bool(text)


def test_a_long_unbroken_text_is_counted_exactly() -> None:
    assert count_tokens("你好世界" * 25_000, model="gpt-4o", exact=True) == 50_000


@pytest.mark.parametrize("exact", [True, False])
def test_a_very_long_text_is_extrapolated_closely(exact: bool) -> None:
    sentence = "The quick brown fox jumps over the lazy dog. "
    assert len(sentence) * 200_000 > tokens.EXACT_CHUNK_CHARS * tokens.EXACT_CHUNKS_MAX
    short, long = (count_tokens(sentence * times, model="gpt-4o", exact=exact) for times in (200, 200_000))
    assert long == pytest.approx(short * 1_000, rel=0.001 if exact else 0.01)
    assert 10 * 200 <= short < 13 * 200


def test_a_long_text_is_estimated_by_all_its_parts() -> None:
    english, chinese = ("The river is long. " * 50_000, "河流很长。" * 50_000)
    counted = [count_tokens(text, model="gpt-4o") for text in (english + chinese, english, chinese)]
    assert counted[0] == pytest.approx(counted[1] + counted[2], rel=0.05)
