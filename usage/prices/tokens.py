"""Counts the tokens of a text, offline: with tiktoken and the ranks in `ranks/`, never with a download.

The count is exact for OpenAI's models and an estimate for others. The text is a stranger's: whatever it
holds, the count returns, in bounded time, and treats names of special tokens as text.
"""

import base64
import gzip
import hashlib
import re
import threading
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import tiktoken

RANKS = Path(__file__).parent / "ranks"

# tiktoken's regular expression engine gives up on runs of about a million characters. Cutting every 100,000
# changes a count by 0.003 % at most (measured on English, code and mixed languages).
CHUNK_CHARACTERS = 100_000
# Longer texts are counted by chunks taken from all over the text, and extrapolated.
COUNTED_CHARACTERS_MAX = 4_000_000

# Tokens of a family per token of o200k_base, measured by github.com/sammcj/ingest (#65) and, for Gemini,
# github.com/alehatsman/dex (#183): no public tokenizer exists for either. Opus 4.7 and the fifth generation
# of Claude have a tokenizer of their own that makes about 30 % more.
CLAUDE_FACTOR = Fraction(118, 100)
CLAUDE_NEW_FACTOR = Fraction(153, 100)
GEMINI_FACTOR = Fraction(108, 100)
_ONE = Fraction(1)
_CLAUDE_NEW_OPUS = (4, 7)
_CLAUDE_NEW = (5, 0)

_ENDOFTEXT = "<|endoftext|>"
_ENDOFPROMPT = "<|endofprompt|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """What an encoding is made of; pattern and special tokens are those of tiktoken_ext.openai_public."""

    sha256: str
    pattern: str
    special_tokens: dict[str, int]


_RECIPES: Final = {
    "o200k_base": _Recipe(
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        pattern="|".join(
            (
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            )
        ),
        special_tokens={_ENDOFTEXT: 199999, _ENDOFPROMPT: 200018},
    ),
    "cl100k_base": _Recipe(
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        pattern=(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
            r"|\s*[\r\n]|\s+(?!\S)|\s"
        ),
        special_tokens={
            _ENDOFTEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            _ENDOFPROMPT: 100276,
        },
    ),
}

# The models before gpt-4o. gpt-4.1 and gpt-4.5 are later ones; all others, known or not, use the newer
# encoding.
_CL100K_MODEL = re.compile(r"gpt-4(?:-.*)?|gpt-3\.5.*|gpt-35.*|text-embedding-(?:ada-002|3-.*)")
_FINE_TUNED = "ft:"
# "4-5" of claude-sonnet-4-5-20250929, "4" of claude-sonnet-4-20250514, "3.5" of claude-3.5-haiku
_CLAUDE_VERSION = re.compile(r"(?<![0-9])([0-9])(?:[-.]([0-9])(?![0-9]))?(?![0-9])")

_encodings: dict[str, tiktoken.Encoding] = {}
_loading = threading.Lock()


class RanksDamaged(RuntimeError):
    """A file in `ranks/` is not the one that was shipped; reinstall TokVigil."""


def count_tokens(text: str, model: str) -> int:
    """The tokens that the model reads for a text: exact for OpenAI, else estimated by family and rounded up.

    Bare text, without what a chat format adds per message. The first call of a process loads an encoding
    (about 0.3 s). Raises RanksDamaged.
    """
    name = _bare(model)
    encoding = encoding_of(encoding_name(name))
    sample = _sample(text)
    tokens = sum(len(encoding.encode(chunk, disallowed_special=())) for chunk in sample)
    counted = sum(map(len, sample))
    factor = _family_factor(name)
    if counted < len(text):
        factor *= Fraction(len(text), counted)
    return -(-tokens * factor.numerator // factor.denominator)


def encoding_name(model: str) -> str:
    """The encoding to count a model's text with, whatever provider prefix or `ft:` its name has."""
    return "cl100k_base" if _CL100K_MODEL.fullmatch(_bare(model)) else "o200k_base"


def encoding_of(name: str) -> tiktoken.Encoding:
    """The encoding, built once per process from the shipped ranks. Raises RanksDamaged, KeyError."""
    encoding = _encodings.get(name)
    if encoding is None:
        with _loading:
            encoding = _encodings.get(name)
            if encoding is None:
                encoding = _encodings[name] = _build(name)
    return encoding


def _build(name: str) -> tiktoken.Encoding:
    recipe = _RECIPES[name]
    path = RANKS / f"{name}.tiktoken.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise RanksDamaged(f"{path.name} cannot be read ({error}); reinstall TokVigil.") from error
    if hashlib.sha256(content).hexdigest() != recipe.sha256:
        raise RanksDamaged(f"{path.name} has another SHA-256 than tiktoken's ranks; reinstall TokVigil.")
    ranks = {
        base64.b64decode(token): int(rank)
        for token, rank in (line.split() for line in content.splitlines() if line)
    }
    return tiktoken.Encoding(
        name, pat_str=recipe.pattern, mergeable_ranks=ranks, special_tokens=recipe.special_tokens
    )


def _sample(text: str) -> list[str]:
    """The text in chunks; of one that is too long, evenly spread chunks up to COUNTED_CHARACTERS_MAX."""
    starts = range(0, len(text), CHUNK_CHARACTERS)
    chunks_max = COUNTED_CHARACTERS_MAX // CHUNK_CHARACTERS
    if len(starts) > chunks_max:
        starts_taken = [starts[number * len(starts) // chunks_max] for number in range(chunks_max)]
        return [text[start : start + CHUNK_CHARACTERS] for start in starts_taken]
    return [text[start : start + CHUNK_CHARACTERS] for start in starts]


def _bare(model: str) -> str:
    name = model.strip().lower().rpartition("/")[2]
    if name.startswith(_FINE_TUNED):
        name = name.removeprefix(_FINE_TUNED).partition(":")[0]
    return name


def _family_factor(name: str) -> Fraction:
    if "claude" in name:
        return _claude_factor(name)
    return GEMINI_FACTOR if "gemini" in name else _ONE


def _claude_factor(name: str) -> Fraction:
    """A name without a version is taken for a new one: the hold is an upper bound."""
    version = _CLAUDE_VERSION.search(name)
    if version is None:
        return CLAUDE_NEW_FACTOR
    number = (int(version[1]), int(version[2] or 0))
    first_new = _CLAUDE_NEW_OPUS if "opus" in name else _CLAUDE_NEW
    return CLAUDE_NEW_FACTOR if number >= first_new else CLAUDE_FACTOR
