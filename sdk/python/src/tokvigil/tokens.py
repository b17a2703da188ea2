"""Counting tokens without a network. The text counted may come from anyone: no text makes these functions raise or take
minutes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tokvigil import message_reading
from tokvigil.errors import ConfigurationError
from tokvigil.token_encodings import encoding

if TYPE_CHECKING:
    from tiktoken import Encoding

# One million spaces make tiktoken's regular expression fail. Chunks of 100,000 change a count by 0.003 %.
CHUNK_CHARS = 100_000
# Above this much text the count is extrapolated from evenly spread chunks: 4 million characters take about a
# second.
COUNTED_CHUNKS_MAX = 40

# OpenAI's chat format (cookbook, "How to count tokens with tiktoken"): checked by the cookbook's own six
# messages.
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PER_REPLY = 3
# A picture, sound or file costs what its provider says, by size. Unknown here: taken high rather than as
# zero.
TOKENS_PER_ATTACHMENT = 1_600

DEFAULT_ENCODING = "o200k_base"
CL100K_MODELS = ("gpt-4-", "gpt-3.5", "text-embedding-")
# Vendors without a public tokenizer, in percent of o200k, as others measured it (sammcj/ingest#65 for Claude,
# alehatsman/dex#183 for Gemini). Opus 4.7 and the fifth generation of Claude have a tokenizer of their own.
CLAUDE_PERCENT = 118
CLAUDE_NEW_PERCENT = 153
GEMINI_PERCENT = 108
CLAUDE_VERSION = re.compile(r"claude-(?P<family>[a-z]+)-(?P<major>\d{1,2})(?:-(?P<minor>\d{1,2}))?(?!\d)")

# By the beginning of model names, in percent: what the application has measured itself.
_factors_percent: dict[str, int] = {}
FACTOR_MAX = 100


def encoding_name(model: str) -> str:
    """The encoding of a model name; prefixes such as "openai/" and "ft:" do not matter."""
    name = _bare(model)
    return "cl100k_base" if name == "gpt-4" or name.startswith(CL100K_MODELS) else DEFAULT_ENCODING


def count_text(text: str, model: str) -> int:
    """Tokens of a text, without any message around it."""
    tokens = _count(text, encoding(encoding_name(model)))
    return _vendor_scaled(tokens, model)


def count_messages(messages: Iterable[Any], model: str, *, tools: Sequence[Any] | None = None) -> int:
    """Input tokens of a chat request: exact for plain OpenAI messages, estimated for tools and files.

    Messages are dicts in OpenAI's or Anthropic's shape, or the objects that the providers' SDKs answer with. Raises
    `ConfigurationError` for what are no messages.
    """
    used = encoding(encoding_name(model))
    tokens, attachments = TOKENS_PER_REPLY, 0
    for message in message_reading.read_messages(messages):
        tokens += TOKENS_PER_MESSAGE
        tokens += TOKENS_PER_NAME if "name" in message else 0
        for piece in message_reading.pieces_of_message(message):
            if isinstance(piece, str):
                tokens += _count(piece, used)
            else:
                attachments += 1
    tokens += sum(_count(message_reading.compact(tool), used) for tool in tools or ())
    return _vendor_scaled(tokens, model) + attachments * TOKENS_PER_ATTACHMENT


def is_counted_exactly(messages: Iterable[Any], model: str) -> bool:
    """Whether `count_messages` is no estimate: plain text, in the encoding that OpenAI names for the model."""
    from tiktoken.model import encoding_name_for_model

    read = message_reading.read_messages(messages)
    try:
        has_own_encoding = encoding_name_for_model(_bare(model)) == encoding_name(model)
    except KeyError:
        return False
    return has_own_encoding and all(_is_plain(value) for message in read for value in message.values())


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        parts = [message_reading.fields(part) or {} for part in value]
        return all(part.get("type") == "text" and _is_plain(part.get("text")) for part in parts)
    return value is None or (isinstance(value, str) and len(value) <= CHUNK_CHARS * COUNTED_CHUNKS_MAX)


def _bare(model: str) -> str:
    return model.lower().rsplit("/", 1)[-1].removeprefix("ft:").split(":", 1)[0]


def _vendor_scaled(tokens: int, model: str) -> int:
    return -(-tokens * _vendor_percent(_bare(model)) // 100)


def set_token_factor(model_prefix: str, factor: float | None) -> None:
    """How many tokens a vendor bills for each one counted here, for models whose names begin so; None: as shipped.

    Any beginning is taken, also one that no known model has: a misspelt one changes nothing. Of several that fit, the
    longest counts. For the whole process. Raises `ConfigurationError` for a factor that is not above 0, or above
    FACTOR_MAX.
    """
    prefix = _bare(model_prefix)
    if factor is None:
        _factors_percent.pop(prefix, None)
        return
    if not 0 < factor <= FACTOR_MAX:
        raise ConfigurationError(f"a token factor is above 0 and at most {FACTOR_MAX}, and this is {factor}")
    _factors_percent[prefix] = round(factor * 100)


def _vendor_percent(name: str) -> int:
    own = max((prefix for prefix in _factors_percent if name.startswith(prefix)), key=len, default=None)
    return _shipped_percent(name) if own is None else _factors_percent[own]


def _shipped_percent(name: str) -> int:
    if name.startswith("gemini"):
        return GEMINI_PERCENT
    if not name.startswith("claude"):
        return 100
    version = CLAUDE_VERSION.match(name)
    if version is None:
        return CLAUDE_PERCENT
    major, minor = int(version["major"]), int(version["minor"] or 0)
    new = major >= 5 or (version["family"] == "opus" and (major, minor) >= (4, 7))
    return CLAUDE_NEW_PERCENT if new else CLAUDE_PERCENT


def _count(text: str, used: Encoding) -> int:
    starts = range(0, len(text), CHUNK_CHARS)
    if len(starts) <= COUNTED_CHUNKS_MAX:
        return sum(len(_encode(text[at : at + CHUNK_CHARS], used)) for at in starts)
    samples = starts[:: math.ceil(len(starts) / COUNTED_CHUNKS_MAX)]
    sampled_chars = sum(min(CHUNK_CHARS, len(text) - at) for at in samples)
    sampled_tokens = sum(len(_encode(text[at : at + CHUNK_CHARS], used)) for at in samples)
    return -(-sampled_tokens * len(text) // sampled_chars)


def _encode(chunk: str, used: Encoding) -> list[int]:
    # Text that spells a special token ("<|endoftext|>") is text: the default would raise.
    return used.encode(chunk, disallowed_special=())
