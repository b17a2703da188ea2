"""What a client is made from: read, checked, complete."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Self

from tokvigil.availability import ON_UNAVAILABLE, OnUnavailable
from tokvigil.credentials import clean_key, key_name
from tokvigil.errors import ConfigurationError
from tokvigil.retries import RETRIES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """`timeout_s` is of an attempt, and of an evaluate with all its retries."""

    api_key: str = field(repr=False)
    base_url: str
    timeout_s: float
    retries_max: int
    on_unavailable: OnUnavailable

    @classmethod
    def read(
        cls,
        api_key: str | None,
        base_url: str | None,
        *,
        timeout: float,
        max_retries: int,
        on_unavailable: OnUnavailable,
    ) -> Self:
        """Raises `ConfigurationError` for what can never work."""
        api_key = clean_key(api_key or os.environ.get("TOKVIGIL_API_KEY"))
        base_url = (base_url or os.environ.get("TOKVIGIL_BASE_URL") or "").strip()
        if not api_key:
            raise ConfigurationError("no API key: pass api_key or set TOKVIGIL_API_KEY")
        if not base_url.startswith(("http://", "https://")):
            raise ConfigurationError("no http(s) address: pass base_url or set TOKVIGIL_BASE_URL")
        if on_unavailable not in ON_UNAVAILABLE:
            raise ConfigurationError(f"on_unavailable is one of {', '.join(ON_UNAVAILABLE)}")
        if not isinstance(timeout, int | float) or not timeout > 0:
            raise ConfigurationError("timeout is a positive number of seconds")
        if not isinstance(max_retries, int) or not 0 <= max_retries <= RETRIES_MAX:
            raise ConfigurationError(f"max_retries is from 0 to {RETRIES_MAX}")
        return cls(
            api_key=api_key,
            # Providers' addresses end in their version, and hands write it here too.
            base_url=base_url.rstrip("/").removesuffix("/v1"),
            timeout_s=timeout,
            retries_max=max_retries,
            on_unavailable=on_unavailable,
        )

    @property
    def destination(self) -> str:
        """Whose usage it is: the control plane and the API key, without its secret."""
        return f"{self.base_url} {key_name(self.api_key)}"
