"""Counting tokens without a network. The text counted may come from anyone: no text makes these functions raise or take
long."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

from tokvigil.message_reading import Reading, read_messages
from tokvigil.token_weights import estimated

# OpenAI's chat format (cookbook, "How to count tokens with tiktoken"): checked by the cookbook's own six messages.
TOKENS_PER_MESSAGE = 4  # one of them is its role
TOKENS_PER_NAME = 1
TOKENS_PER_REPLY = 3
# A picture, sound or file costs what its provider says, by size. Unknown here: taken high rather than as zero.
TOKENS_PER_FILE = 1_600

DEFAULT_ENCODING = "o200k_base"
CL100K_MODELS = ("gpt-4-", "gpt-3.5", "text-embedding-")
# Vendors without a public tokenizer, in percent of o200k, as others measured it (sammcj/ingest#65 for Claude,
# alehatsman/dex#183 for Gemini). Opus 4.7 and the fifth generation of Claude have a tokenizer of their own.
CLAUDE_PERCENT = 118
CLAUDE_NEW_PERCENT = 153
GEMINI_PERCENT = 108
CLAUDE_VERSION = re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(?:-(?P<minor>\d{1,2}))?(?!\d)")

MODELS_KEPT = 500
# Of longer text, chunks that are spread evenly are counted. Estimated: 20 ms. Exactly: a second, in chunks because a
# million spaces make tiktoken's regular expression fail; they change a count by 0.003 %.
ESTIMATED_CHUNK_CHARS, ESTIMATED_CHUNKS_MAX = 5_000, 40
EXACT_CHUNK_CHARS, EXACT_CHUNKS_MAX = 100_000, 40


def count_tokens(text_or_messages: str | Iterable[Any], *, model: str, exact: bool = False) -> int:
    """Input tokens of a text, or of the messages of a chat.

    Messages are dicts in the shape of OpenAI, Anthropic or Google, or the objects that the providers' SDKs answer with.
    Any model name will do. The count is an estimate, as a rule within 15 % (see `token_weights`). With `exact` it is
    that of OpenAI's own encoding, for plain text to OpenAI's models; for other vendors' models it is scaled. A file
    counts as TOKENS_PER_FILE.

    Raises `ConfigurationError` for what are no messages and, with `exact`, where tiktoken is not installed.
    """
    if isinstance(text_or_messages, str):
        return count_text(text_or_messages, model, exact=exact)
    return count_reading(read_messages(text_or_messages), model, exact=exact)


def count_text(text: str, model: str, *, exact: bool = False) -> int:
    """Tokens of a text, without any message around it."""
    return _scaled(_count([text], model, exact), model)


def count_reading(reading: Reading, model: str, *, exact: bool = False) -> int:
    """Tokens of what a model reads of a request."""
    tokens = _count(reading.texts, model, exact) + reading.tokens
    if reading.messages:
        tokens += reading.messages * TOKENS_PER_MESSAGE + reading.names * TOKENS_PER_NAME + TOKENS_PER_REPLY
    return _scaled(tokens, model) + reading.files * TOKENS_PER_FILE


def is_counted_exactly(reading: Reading, model: str) -> bool:
    """Whether an exact count is no estimate: plain text, in the encoding that OpenAI names for the model."""
    from tiktoken.model import encoding_name_for_model

    try:
        has_own_encoding = encoding_name_for_model(_bare(model)) == encoding_name(model)
    except KeyError:
        return False
    chars_max = EXACT_CHUNK_CHARS * EXACT_CHUNKS_MAX
    return has_own_encoding and reading.is_plain and all(len(text) <= chars_max for text in reading.texts)


@lru_cache(maxsize=MODELS_KEPT)
def encoding_name(model: str) -> str:
    """The encoding of a model name; prefixes such as "openai/" and "ft:" do not matter."""
    name = _bare(model)
    return "cl100k_base" if name == "gpt-4" or name.startswith(CL100K_MODELS) else DEFAULT_ENCODING


def _bare(model: str) -> str:
    return model.lower().rsplit("/", 1)[-1].removeprefix("ft:").split(":", 1)[0]


def _count(texts: list[str], model: str, exact: bool) -> int:
    """Tokens in the encoding of a model."""
    name = encoding_name(model)
    if not exact:
        estimate = partial(estimated, encoding=name)
        return _sampled("\n".join(texts), estimate, ESTIMATED_CHUNK_CHARS, ESTIMATED_CHUNKS_MAX)
    from tokvigil.token_encodings import encoding

    # Text that spells a special token ("<|endoftext|>") is text: the default would raise.
    encode = partial(encoding(name).encode, disallowed_special=())
    return sum(
        _sampled(text, lambda chunk: len(encode(chunk)), EXACT_CHUNK_CHARS, EXACT_CHUNKS_MAX)
        for text in texts
    )


def _sampled(text: str, count: Callable[[str], float], chunk_chars: int, chunks_max: int) -> int:
    if len(text) <= chunk_chars:
        return max(1, round(count(text))) if text else 0
    starts = range(0, len(text), chunk_chars)
    if len(starts) > chunks_max:
        starts = starts[:: math.ceil(len(starts) / chunks_max)]
    chunks = [text[at : at + chunk_chars] for at in starts]
    return round(sum(map(count, chunks)) * len(text) / sum(map(len, chunks)))


def _scaled(tokens: int, model: str) -> int:
    """Tokens of the model, from those in the encoding."""
    return -(-tokens * _vendor_percent(model) // 100)


@lru_cache(maxsize=MODELS_KEPT)
def _vendor_percent(model: str) -> int:
    name = _bare(model)
    if name.startswith("gemini"):
        return GEMINI_PERCENT
    if "claude" not in name:  # Bedrock's names begin with region and vendor
        return 100
    version = CLAUDE_VERSION.search(name)
    if version is None:
        return CLAUDE_PERCENT
    major, minor = int(version["major"]), int(version["minor"] or 0)
    new = major >= 5 or (version["family"] == "opus" and (major, minor) >= (4, 7))
    return CLAUDE_NEW_PERCENT if new else CLAUDE_PERCENT
