"""System checks: settings under which callers' addresses would be read wrongly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from tenants.api import addresses

DEFAULT_HEADER = "X-Forwarded-For"
_HEADER_NAME = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")


def check_proxies(app_configs: Any, **_: Any) -> list[CheckMessage]:
    return [*_check_networks(), *_check_header()]


def _check_networks() -> Iterator[CheckMessage]:
    for text in settings.TRUSTED_PROXIES:
        try:
            network = addresses.parse_network(text)
        except ValueError as error:
            yield Error(
                f"TRUSTED_PROXIES names {text!r}, which is no address or network: {error}.",
                hint="Write addresses or networks separated by commas, such as 10.0.0.0/8,2001:db8::/32.",
                id="tenants.E001",
            )
        else:
            if network.prefixlen == 0:
                yield Error(
                    f"TRUSTED_PROXIES names {text!r}, which is everyone: callers could choose their own address.",
                    hint="Name the networks of your proxies alone.",
                    id="tenants.E002",
                )


def _check_header() -> Iterator[CheckMessage]:
    header = settings.CLIENT_ADDRESS_HEADER
    if not _HEADER_NAME.fullmatch(header):
        yield Error(
            f"CLIENT_ADDRESS_HEADER is {header!r}, which is no name of a header.",
            hint=f"Write one as your proxy sends it, with hyphens, such as {DEFAULT_HEADER}, X-Real-IP or Forwarded.",
            id="tenants.E003",
        )
    elif header.lower() != DEFAULT_HEADER.lower() and not settings.TRUSTED_PROXIES:
        yield Warning(
            "CLIENT_ADDRESS_HEADER is set, but TRUSTED_PROXIES is not: the header is never read.",
            hint="Name your proxies' addresses or networks in TRUSTED_PROXIES.",
            id="tenants.W001",
        )
