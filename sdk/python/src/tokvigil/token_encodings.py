"""OpenAI's encodings, for exact counts: built by tiktoken, an extra, from the ranks that the SDK ships.

tiktoken would download its ranks at first use, without a time-out and holding a lock. Those here (see ranks/NOTICE) are
checked by the SHA-256 that tiktoken expects.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
from base64 import b64decode
from importlib.resources import files
from typing import TYPE_CHECKING

from tokvigil.errors import ConfigurationError, TokVigilError

if TYPE_CHECKING:
    from tiktoken import Encoding

RANKS_SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
# The split patterns of tiktoken_ext.openai_public, which only hands them out after a download. Its special tokens are
# not here: text that spells one is text.
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
NOT_INSTALLED = "exact counts need tiktoken: pip install tiktoken"

_built: dict[str, Encoding] = {}
_building = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits for an encoding that another thread builds, a third of a second at most. Its child would find the
    # lock held for ever, and tiktoken half imported.
    os.register_at_fork(
        before=_building.acquire, after_in_parent=_building.release, after_in_child=_building.release
    )


def encoding(name: str) -> Encoding:
    """The named encoding: about 0.3 s and 75 MB the first time, then free.

    Raises `ConfigurationError` where tiktoken is not installed, and `TokVigilError` for damaged ranks.
    """
    with _building:
        if name not in _built:
            _built[name] = _build(name)
        return _built[name]


def _build(name: str) -> Encoding:
    try:
        from tiktoken import Encoding
    except ImportError:
        raise ConfigurationError(NOT_INSTALLED) from None
    ranks = gzip.decompress(files("tokvigil").joinpath("ranks", f"{name}.tiktoken.gz").read_bytes())
    if hashlib.sha256(ranks).hexdigest() != RANKS_SHA256[name]:
        raise TokVigilError(f"the rank file of {name} is damaged: reinstall tokvigil")
    return Encoding(
        name=name,
        pat_str=PATTERNS[name],
        mergeable_ranks={b64decode(token): int(rank) for token, rank in map(bytes.split, ranks.splitlines())},
        special_tokens={},
    )
