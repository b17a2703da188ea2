"""What callers say of a call, checked where they say it: a report must not be refused when it is too late to ask.

The bounds are the server's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from operator import index
from typing import Any
from uuid import UUID

from tokvigil.errors import ConfigurationError

NAME_CHARS_MAX = 255
REQUEST_ID_CHARS_MAX = 128
COST_USD_MAX = 9_000_000
COST_CHARS_MAX = 40
METADATA_KEYS_MAX = 16
METADATA_KEY_CHARS_MAX = 64
METADATA_CHARS_MAX = 512
METADATA_NUMBER_MAX = 2**53
# Of one call.
TOKENS_MAX = 100_000_000
LATENCY_MS_MAX = 24 * 3600 * 1000


def user_id(value: Any) -> str:
    """As `name`, of the one that every call must have."""
    said = name("user_id", value)
    if said is None:
        raise ConfigurationError("user_id is missing: say whose call it is")
    return said


def name(field: str, value: Any) -> str | None:
    """A user, feature, plan, run or provider. Numbers and UUIDs, as databases have them, are written out; "" says
    nothing.

    Raises `ConfigurationError` for anything else that is no string, and for strings that the server does not take.
    """
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"{field} is a string, and this is a {type(value).__name__}")
    _check_text(field, value, NAME_CHARS_MAX)
    return value


def model(value: Any) -> str:
    """Raises `ConfigurationError` for what cannot be the name of one."""
    if value is None or value == "":
        raise ConfigurationError("model is missing: name it as its provider calls it")
    if not isinstance(value, str):
        raise ConfigurationError(f"model is a string, and this is a {type(value).__name__}")
    _check_text("model", value, NAME_CHARS_MAX)
    return value


def request_id(value: Any) -> str:
    """Raises `ConfigurationError` for what cannot be one."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError("request_id is a string of at least one character")
    _check_text("request_id", value, REQUEST_ID_CHARS_MAX)
    return value


def count(field: str, value: Any, most: int | None = None) -> int:
    """As an int, whatever kind of whole number it is. Raises `ConfigurationError` for any other, and below 0."""
    if not isinstance(value, bool):
        with suppress(TypeError):
            whole = index(value)
            if most is not None and whole > most:
                raise ConfigurationError(f"{field} is at most {most}, and this is more")
            if whole >= 0:
                return whole
    raise ConfigurationError(f"{field} is a whole number from 0 on, and this is {value!r}")


def one_of(field: str, value: Any, known: Collection[str]) -> None:
    """Raises `ConfigurationError` for anything else."""
    if not isinstance(value, str) or value not in known:
        raise ConfigurationError(f"{field} is one of {', '.join(sorted(known))}, and this is {value!r}")


def cost_usd(field: str, value: Any) -> Decimal:
    """Of a Decimal, a whole number or a decimal string. Raises `ConfigurationError`, for a float too: it is inexact."""
    try:
        usd = Decimal(value) if isinstance(value, Decimal | str) else Decimal(index(value))
    except (InvalidOperation, TypeError):
        usd = None
    if usd is None or isinstance(value, bool):
        raise ConfigurationError(f'{field} is a Decimal or a string such as "0.25", and this is {value!r}')
    if not usd.is_finite() or usd.is_signed() or usd > COST_USD_MAX:
        raise ConfigurationError(f"{field} is from 0 to {COST_USD_MAX} USD, and this is {usd}")
    # The exponent first: written out, 1E-999999 has a million digits.
    if -int(usd.as_tuple().exponent) > COST_CHARS_MAX or len(f"{usd:f}") > COST_CHARS_MAX:
        raise ConfigurationError(f"{field} has more than {COST_CHARS_MAX} digits: round it")
    return usd


def instant(field: str, value: Any) -> None:
    """Without a zone it is local time. Raises `ConfigurationError` for what is none, or none in UTC."""
    if not isinstance(value, datetime):
        raise ConfigurationError(f"{field} is a datetime, and this is a {type(value).__name__}")
    try:
        value.astimezone(UTC)
    except (OverflowError, ValueError, OSError):
        raise ConfigurationError(f"{field} is beyond all years that UTC has: {value}") from None


def metadata(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A copy, because the caller's may change before the report. Raises `ConfigurationError`, which names the key."""
    if said is None:
        return None
    if not isinstance(said, Mapping):
        raise ConfigurationError(f"metadata is a mapping, and this is a {type(said).__name__}")
    if len(said) > METADATA_KEYS_MAX:
        raise ConfigurationError(f"metadata has at most {METADATA_KEYS_MAX} keys, and this has {len(said)}")
    for key, value in said.items():
        if not isinstance(key, str) or not key:
            raise ConfigurationError(f"the keys of metadata are strings, and {key!r} is none")
        _check_text("a key of metadata", key, METADATA_KEY_CHARS_MAX)
        _check_value(f"metadata[{key!r}]", value)
    return dict(said)


def _check_value(field: str, value: Any) -> None:
    if isinstance(value, str):
        _check_text(field, value, METADATA_CHARS_MAX)
    elif isinstance(value, int):
        if abs(value) > METADATA_NUMBER_MAX:
            raise ConfigurationError(f"{field} is a number beyond {METADATA_NUMBER_MAX}: pass it as a string")
    elif value is not None:
        raise ConfigurationError(
            f"{field} is a {type(value).__name__}: pass a string, an integer, a bool or None"
        )


def is_name(value: Any) -> bool:
    """Whether TokVigil takes it as one: what providers say is left out if not."""
    try:
        model(value)
    except ConfigurationError:
        return False
    return True


def _check_text(field: str, value: str, chars_max: int) -> None:
    if len(value) > chars_max:
        raise ConfigurationError(f"{field} has {len(value)} characters, and at most {chars_max} are taken")
    if "\0" in value:
        raise ConfigurationError(f"{field} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{field} holds half a character (a lone surrogate)") from None
