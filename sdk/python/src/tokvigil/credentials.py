"""API keys, the caller's and TokVigil's: never shown, never sent in a form that a header cannot carry."""

from __future__ import annotations

from hashlib import sha256

from tokvigil.errors import ConfigurationError


def clean_key(key: str | None) -> str | None:
    """The key without the line break that files and shells leave at its end; None if it is missing or empty.

    Raises `ConfigurationError` for a key that no header can carry. The HTTP library would refuse it too, but
    later and with the key in its message.
    """
    key = (key or "").strip()
    if not key.isascii() or not key.isprintable() or not {*" '\""}.isdisjoint(key):
        raise ConfigurationError(
            "the API key has characters that no API key has: copy it again, without spaces and quotes"
        )
    return key or None


def key_name(key: str) -> str:
    """The key without its secret. One that is not made as TokVigil's are is named by its digest."""
    prefix, _, secret = key.rpartition("_")
    return prefix if prefix.startswith("tv_") and secret else sha256(key.encode()).hexdigest()[:16]
