"""The encodings of OpenAI's models, built from what the SDK ships.

tiktoken downloads its ranks at first use, without a time-out and holding a lock. The SDK ships them instead (see
ranks/NOTICE), checks the SHA-256 that tiktoken expects, and builds the encodings from them.
"""

from __future__ import annotations

import gzip
import hashlib
import threading
from base64 import b64decode
from importlib.resources import files
from typing import TYPE_CHECKING

from tokvigil import forking
from tokvigil.errors import TokVigilError

if TYPE_CHECKING:
    from tiktoken import Encoding

RANKS_SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
# The split patterns and special tokens of tiktoken_ext.openai_public, which only hands them out after a
# download.
PATTERNS = {
    "o200k_base": "|".join(
        [
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}""",
            r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
            r"""\s*[\r\n]+""",
            r"""\s+(?!\S)""",
            r"""\s+""",
        ]
    ),
    "cl100k_base": (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
        r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
}
SPECIAL_TOKENS = {
    "o200k_base": {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    "cl100k_base": {
        "<|endoftext|>": 100257,
        "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259,
        "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276,
    },
}


class Encodings:
    """By name, each built once. A fork waits for one that is being built: the child would wait for it for ever."""

    def __init__(self) -> None:
        self._built: dict[str, Encoding] = {}
        self._building = threading.RLock()
        forking.register_quiet(self)

    def get(self, name: str) -> Encoding:
        with self._building:
            if name not in self._built:
                self._built[name] = _build(name)
            return self._built[name]

    def hold_for_fork(self) -> None:
        self._building.acquire()

    def go_on_in_parent(self) -> None:
        self._building.release()

    def restart_in_child(self) -> None:
        self._building = threading.RLock()


_encodings = Encodings()


def encoding(name: str) -> Encoding:
    """The named tiktoken encoding: about 0.3 s the first time, then free. Raises `TokVigilError` for damaged ranks."""
    return _encodings.get(name)


def _build(name: str) -> Encoding:
    from tiktoken import Encoding  # here, so that `import tokvigil` stays light

    ranks = gzip.decompress(files("tokvigil").joinpath("ranks", f"{name}.tiktoken.gz").read_bytes())
    if hashlib.sha256(ranks).hexdigest() != RANKS_SHA256[name]:
        raise TokVigilError(f"the rank file of {name} is damaged: reinstall tokvigil")
    return Encoding(
        name=name,
        pat_str=PATTERNS[name],
        mergeable_ranks={b64decode(token): int(rank) for token, rank in map(bytes.split, ranks.splitlines())},
        special_tokens=SPECIAL_TOKENS[name],
    )
