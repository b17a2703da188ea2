"""The caller's address: that of the connection or, behind trusted proxies, the one that they report.

Each proxy appends the address that called it, so the last entry comes from the nearest proxy. Entries are read from
the last to the first; the first address that is not a trusted proxy is the caller. Entries before it come from the
caller and are not believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED = "forwarded"
# Never inside an allow-list.
UNKNOWN = ""

_MAPPED_PREFIX = 0xFFFF << 32
# An address with a port: 192.0.2.7:4711, [2001:db8::7]:4711, [2001:db8::7].
_WITH_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[0-9.]+))(?::[0-9]{1,5})?")
# RFC 7239: pairs separated by semicolons, one element for each proxy, separated by commas.
_PAIR = re.compile(
    r"[ \t]*(?P<name>[^\s\",;=]+)="
    r"(?:(?P<token>[^\s\",;=]*)|\"(?P<quoted>[^\"\\]*)\")"
    r"[ \t]*(?P<end>[,;]|\Z)"
)


def address_of(request: HttpRequest) -> str:
    """The caller's address; UNKNOWN if a trusted proxy sent a header without a readable one."""
    peer = str(request.META.get("REMOTE_ADDR", UNKNOWN))
    if not settings.TRUSTED_PROXIES:
        return peer
    trusted = _networks(tuple(settings.TRUSTED_PROXIES))
    told = request.META.get(f"HTTP_{settings.CLIENT_ADDRESS_HEADER.upper().replace('-', '_')}")
    if told is None or not is_in(peer, trusted):
        return peer
    return _nearest_untrusted(_entries(told), trusted)


def is_in(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of the networks, both read alike as IPv4 and as IPv6 (`::ffff:10.0.0.1`).

    A socket that serves both kinds sees IPv4 callers as IPv6 ones; no list should depend on which socket it was.
    """
    found = parse(address)
    if found is None:
        return False
    forms = _forms(found)
    return any(form in network for form in forms for network in networks)


def parse(text: str) -> Address | None:
    """The address in a text, with or without a port. IPv4-mapped IPv6 becomes IPv4. None if there is none."""
    text = text.strip()
    if (with_port := _WITH_PORT.fullmatch(text)) is not None:
        text = with_port["v6"] or with_port["v4"] or ""
    try:
        return _plain(ip_address(text))
    except ValueError:
        return None


def parse_network(text: str) -> Network:
    """Raises ValueError, saying what is wrong."""
    return ip_network(text.strip())


def _nearest_untrusted(entries: list[str], trusted: tuple[Network, ...]) -> str:
    for entry in reversed(entries):
        address = parse(entry)
        if address is None:
            return UNKNOWN
        if not is_in(str(address), trusted):
            return str(address)
    # All entries are proxies: one of them made the call itself.
    return UNKNOWN if not entries else str(parse(entries[0]))


def _entries(told: str) -> list[str]:
    """The header's entries, the nearest proxy's last."""
    if settings.CLIENT_ADDRESS_HEADER.lower() != FORWARDED:
        return told.split(",") if told else []
    return list(_forwarded(told))


def _forwarded(told: str) -> Iterator[str]:
    """The `for` of each element. If any part is malformed the whole header counts as unreadable: a quote that the
    caller left open must not hide what a proxy appended."""
    place, element = 0, UNKNOWN
    while pair := _PAIR.match(told, place):
        if pair["name"].lower() == "for":
            element = pair["token"] if pair["quoted"] is None else pair["quoted"]
        if pair["end"] != ";":
            yield element
            element = UNKNOWN
        if not pair["end"]:
            return
        place = pair.end()
    yield UNKNOWN


def _plain(address: Address) -> Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _forms(address: Address) -> tuple[Address, ...]:
    if isinstance(address, IPv4Address):
        return address, IPv6Address(_MAPPED_PREFIX | int(address))
    return (address,)


@lru_cache(maxsize=8)
def _networks(named: tuple[str, ...]) -> tuple[Network, ...]:
    """The networks that can be parsed. The others are not trusted; a system check names them."""
    found = []
    for text in named:
        try:
            found.append(parse_network(text))
        except ValueError:
            continue
    return tuple(found)
