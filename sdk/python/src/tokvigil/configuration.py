"""What a client is made from: read, checked, complete."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Self
from urllib.parse import urlsplit

from tokvigil.availability import ON_UNREACHABLE, OnUnreachable
from tokvigil.credentials import clean_key, key_name
from tokvigil.errors import ConfigurationError
from tokvigil.retries import RETRIES_MAX

TIMEOUT_S_MIN, TIMEOUT_S_MAX = 0.001, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """`timeout_s` is of an attempt, and of an evaluate with all its retries."""

    api_key: str = field(repr=False)
    base_url: str
    timeout_s: float
    retries_max: int
    on_unreachable: OnUnreachable

    @classmethod
    def read(
        cls,
        api_key: str | None,
        base_url: str | None,
        *,
        timeout: float,
        max_retries: int,
        on_unreachable: OnUnreachable,
    ) -> Self:
        """What is None is read from the environment. Raises `ConfigurationError` for what can never work: it names
        the argument, what is wrong with it and what to do."""
        if on_unreachable not in ON_UNREACHABLE:
            known = ", ".join(map(repr, ON_UNREACHABLE))
            raise ConfigurationError(f"on_unreachable is {on_unreachable!r}: pass one of {known}")
        return cls(
            api_key=_api_key(api_key),
            base_url=_base_url(base_url),
            timeout_s=_number("timeout", timeout, int | float, TIMEOUT_S_MIN, TIMEOUT_S_MAX),
            retries_max=_number("max_retries", max_retries, int, 0, RETRIES_MAX),
            on_unreachable=on_unreachable,
        )

    @property
    def destination(self) -> str:
        """Whose usage it is: the control plane and the API key, without its secret."""
        return f"{self.base_url} {key_name(self.api_key)}"


def _api_key(said: str | None) -> str:
    name, value = _said("api_key", said, "TOKVIGIL_API_KEY")
    try:
        key = clean_key(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None
    if key is None:
        raise ConfigurationError("there is no API key: pass api_key or set TOKVIGIL_API_KEY")
    return key


def _base_url(said: str | None) -> str:
    name, value = _said("base_url", said, "TOKVIGIL_BASE_URL")
    value = value.strip()
    if not value:
        raise ConfigurationError("there is no address of TokVigil: pass base_url or set TOKVIGIL_BASE_URL")
    # In front of the last @ is what must not be shown.
    shown = value.rpartition("@")[2]
    try:
        parts = urlsplit(value)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ConfigurationError(f"{name} is {shown!r}, which is no address: {error}") from None
    if parts.username is not None or parts.password is not None:
        # The HTTP libraries send it in place of the API key.
        raise ConfigurationError(
            f"{name} has a user or password before {shown!r}: leave it out, the API key is enough"
        )
    if (
        parts.scheme not in ("http", "https")
        or not host
        or port == 0
        or not value.isprintable()
        or " " in value
    ):
        raise ConfigurationError(
            f"{name} is {value!r}: it must begin with https:// (or http://), and a host must follow"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(f"{name} is {value!r}: leave out what follows the path")
    # Providers' addresses end in their version, so it is often written here too.
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


def _said(argument: str, said: str | None, variable: str) -> tuple[str, str]:
    """Who said it, and what."""
    if said is None or said == "":
        return variable, os.environ.get(variable, "")
    if not isinstance(said, str):
        raise ConfigurationError(f"{argument} is a {type(said).__name__}: pass a string")
    return argument, said


def _number(name: str, value: float, kinds: type | UnionType, least: float, most: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        what = "a whole number" if kinds is int else "seconds"
        raise ConfigurationError(f"{name} is {value!r}: pass {what} from {least:g} to {most:g}")
    return value
