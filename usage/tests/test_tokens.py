import gzip
import importlib
import socket
import threading
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from usage.prices import tokens
from usage.prices.tokens import CHUNK_CHARACTERS, RanksDamaged, count_tokens, encoding_name, encoding_of

ENCODINGS = ["o200k_base", "cl100k_base"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("counting tokens opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(tokens, "_encodings", {})


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_encoding_is_what_tiktoken_itself_would_build(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes: list[str] = []

    def ranks_expecting(url: str, expected_hash: str) -> dict[bytes, int]:
        hashes.append(expected_hash)
        return {}

    openai_public = importlib.import_module("tiktoken_ext.openai_public")
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", ranks_expecting)
    theirs = getattr(openai_public, name)()
    recipe = tokens._RECIPES[name]
    assert hashes == [recipe.sha256]
    assert recipe.pattern == theirs["pat_str"]
    assert recipe.special_tokens == theirs["special_tokens"]


@pytest.mark.parametrize(
    ("text", "model", "count"),
    [
        ("", "gpt-4o", 0),
        ("hello world", "gpt-4o", 2),
        ("tiktoken is great!", "gpt-4", 6),
        ("tiktoken is great!", "gpt-4o", 6),
        ("你好世界" * 25_000, "gpt-4o", 50_000),
    ],
)
def test_openai_counts_are_exact(text: str, model: str, count: int) -> None:
    assert count_tokens(text, model) == count


def test_the_cookbooks_messages_count_as_openai_bills_them() -> None:
    """The six messages of OpenAI's cookbook: 129 tokens on gpt-4 and 124 on gpt-4o, as its API answers."""
    messages = [
        {
            "role": "system",
            "content": "You are a helpful, pattern-following assistant that translates corporate jargon into "
            "plain English.",
        },
        {
            "role": "system",
            "name": "example_user",
            "content": "New synergies will help drive top-line growth.",
        },
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
            "content": "This late pivot means we don't have time to boil the ocean for the client "
            "deliverable.",
        },
    ]

    def billed(model: str) -> int:
        per_message = sum(
            3 + sum(count_tokens(value, model) for value in message.values()) + ("name" in message)
            for message in messages
        )
        return per_message + 3

    assert billed("gpt-4") == 129
    assert billed("gpt-4o") == 124


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@pytest.mark.parametrize(
    "text",
    [
        " " * 1_000_000 + "x",
        "\t" * 1_000_000 + "x",
        "\u3000" * 1_000_000 + "x",
        "a" * 1_000_000,
        "<|endoftext|><|endofprompt|><|fim_prefix|>",
        "\ud800",
        "\udc00 \ud83d" * 1_000,
        "\x00\ufeff\u202e" * 1_000,
    ],
    ids=[
        "spaces",
        "tabs",
        "ideographic spaces",
        "one word",
        "special tokens",
        "surrogate",
        "surrogates",
        "controls",
    ],
)
def test_hostile_text_is_counted_not_raised(text: str, model: str) -> None:
    assert count_tokens(text, model) > 0


def test_the_name_of_a_special_token_is_text() -> None:
    assert count_tokens("<|endoftext|>", "gpt-4o") > 1


@settings(max_examples=100)
@given(st.text(alphabet=st.characters(), max_size=500))
def test_any_text_counts_at_most_its_bytes(text: str) -> None:
    assert 0 <= count_tokens(text, "gpt-4o") <= len(text.encode("utf-8", "surrogatepass"))


def test_a_very_long_text_is_extrapolated_within_a_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"Line {number} says that the quick brown fox jumps.\n" for number in range(20_000))
    exact = count_tokens(text, "gpt-4o")
    monkeypatch.setattr(tokens, "COUNTED_CHARACTERS_MAX", 3 * CHUNK_CHARACTERS)
    assert count_tokens(text, "gpt-4o") == pytest.approx(exact, rel=0.01)


def test_only_so_much_of_a_text_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(map(len, tokens._sample("x" * 9_000_001))) <= tokens.COUNTED_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("ft:gpt-3.5-turbo:acme::abc", "cl100k_base"),
        ("azure/gpt-4", "cl100k_base"),
        ("GPT-4", "cl100k_base"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("ft:gpt-4.1-mini-2025-04-14:acme::abc", "o200k_base"),
        ("gpt-6.1-sol", "o200k_base"),
        ("o3", "o200k_base"),
        ("some-new-model", "o200k_base"),
    ],
)
def test_each_model_is_counted_with_its_encoding(model: str, name: str) -> None:
    assert encoding_name(model) == name


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("some-llama", 1_000),
        ("gemini-2.5-flash", 1_080),
        ("claude-3-5-sonnet-20241022", 1_180),
        ("claude-sonnet-4-20250514", 1_180),
        ("claude-opus-4-6", 1_180),
        ("claude-haiku-4.5", 1_180),
        ("anthropic.claude-3-haiku-20240307-v1:0", 1_180),
        ("claude-opus-4-7", 1_530),
        ("claude-opus-4.8", 1_530),
        ("anthropic/claude-sonnet-5", 1_530),
        ("claude-fable-5-1", 1_530),
        ("claude-instant", 1_530),
    ],
)
def test_other_families_are_estimated_by_their_factor(model: str, count: int) -> None:
    assert count_tokens(" hello" * 1_000, model) == count


def test_estimates_are_rounded_up() -> None:
    assert count_tokens("hello", "gemini-2.5-flash") == 2


@pytest.mark.usefixtures("no_network")
def test_nothing_is_downloaded_and_an_encoding_is_built_once() -> None:
    encodings: list[tiktoken.Encoding] = []
    threads = [threading.Thread(target=lambda: encodings.append(encoding_of("o200k_base"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(encodings) == 4
    assert len({id(encoding) for encoding in encodings}) == 1


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"AA== 0\n"), b"no gzip", gzip.compress(b"x" * 100)[:-9]],
    ids=["other ranks", "no gzip", "cut off"],
)
def test_damaged_ranks_are_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "o200k_base.tiktoken.gz").write_bytes(content)
    monkeypatch.setattr(tokens, "RANKS", tmp_path)
    monkeypatch.setattr(tokens, "_encodings", {})
    with pytest.raises(RanksDamaged, match="reinstall"):
        count_tokens("hello", "gpt-4o")
