"""Where a webhook may go: not into the private network of the server.

Members of a tenant name URLs that this server then calls from inside its network. So a URL is https to a public name or
address, on a usual port; a host is resolved once for each attempt, each of its addresses must be public, and the
connection is made to one of these very addresses (alerting/sending.py), so that no second answer of the DNS can lead
elsewhere. Targets that ALERT_PRIVATE_TARGETS names may be private, on any port, and plain http.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from django.conf import settings

PORTS = frozenset({443, 8443})
HOST_LENGTH_MAX = 253
ADDRESSES_MAX = 32
_BY_HTTPS = "A webhook is called by https: the URL begins with https://."
_DEFAULT_PORTS = {"https": 443, "http": 80}
# Of the whole URL: what cannot be read in two ways.
_URL = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# What C libraries read as a part of an IPv4 address: 127, 0x7f, 0177.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Not public, beside what Python's own tables say. They differ between its versions, so what matters stands here too.
_PRIVATE_4 = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT; clouds have metadata in it
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, with the metadata of most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "168.63.129.16/32",  # metadata of Azure
        ),
    )
)
_PUBLIC_6 = ip_network("2000::/3")
_PRIVATE_6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16")))
# Addresses that carry one of IPv4, and how far it lies from the right.
_NAT64 = ip_network("64:ff9b::/96")
_6TO4 = ip_network("2002::/16")


class RefusedTarget(Exception):
    """It may not be called. The message says why, and the mend."""


class UnknownHost(Exception):
    """Its name has no address now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`is_named`: the setting allows it to be private. `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str
    is_named: bool

    @property
    def place(self) -> str:
        """What of it is no secret: `hooks.slack.com`, `localhost:9000`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Target:
    """Looks nothing up. Raises RefusedTarget."""
    target, faults = _read(url)
    if faults:
        raise RefusedTarget(" ".join(faults))
    return target


def check(url: str) -> None:
    """Looks the host up. Raises RefusedTarget, which says all that is wrong with a URL if it is one; UnknownHost."""
    target, faults = _read(url)
    if not target.is_named and not _literal(target.host):
        try:
            faults += _not_public(target.host, _resolved(target))
        except UnknownHost as error:
            if not faults:
                raise
            faults.append(str(error))
    if faults:
        raise RefusedTarget(" ".join(faults))


def _read(url: str) -> tuple[Target, list[str]]:
    """And why it may not be called. Raises RefusedTarget for what is no URL of a webhook at all."""
    if not _URL.fullmatch(url):
        raise RefusedTarget(
            "A URL has no spaces, backslashes, # or letters beyond ASCII; write a host as xn--…."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RefusedTarget(f"This is no URL: {error}.") from error
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise RefusedTarget(_BY_HTTPS)
    if "@" in parts.netloc:
        raise RefusedTarget("The URL has a user name or password; a webhook is proven by its signature.")
    host = _host(parts.netloc, parts.hostname)
    target = Target(
        scheme=scheme,
        host=host,
        port=_DEFAULT_PORTS[scheme] if port is None else port,
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        is_named=_is_named(host, _DEFAULT_PORTS[scheme] if port is None else port),
    )
    return target, [] if target.is_named else _faults(target, names_port=port is not None)


def _faults(target: Target, *, names_port: bool) -> list[str]:
    found = [] if target.scheme == "https" else [_BY_HTTPS]
    if names_port and target.port not in PORTS:
        listen = " or ".join(map(str, sorted(PORTS)))
        found.append(f"Port {target.port} is not called; webhooks listen on {listen}.")
    literal = _literal(target.host)
    return found + (_not_public(target.host, [literal]) if literal else [])


def addresses(target: Target) -> list[str]:
    """All of its addresses now, each of which may be called. Raises RefusedTarget, UnknownHost."""
    literal = _literal(target.host)
    found = [literal] if literal else _resolved(target)
    if not target.is_named and (faults := _not_public(target.host, found)):
        raise RefusedTarget(" ".join(faults))
    return [str(each) for each in found]


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it can only be a host of the internet, also where it carries an address of IPv4 in it."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _PRIVATE_4)
    if address.scope_id:
        return False
    if inner := _carried(address):
        return is_public(inner)
    return (
        address.is_global and address in _PUBLIC_6 and not any(address in network for network in _PRIVATE_6)
    )


def _carried(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _6TO4:
        return IPv4Address((int(address) >> 80) & 0xFFFF_FFFF)
    return None


def _not_public(host: str, addresses: Iterable[IPv4Address | IPv6Address]) -> list[str]:
    """Of the first one that is not; empty if all are."""
    address = next((each for each in addresses if not is_public(each)), None)
    if address is None:
        return []
    what = f"{host} is" if str(address) == host else f"{host} leads to {address}, which is"
    return [f"{what} no public address. Who runs TokVigil can allow it by ALERT_PRIVATE_TARGETS."]


def _host(netloc: str, hostname: str | None) -> str:
    host = (hostname or "").lower().removesuffix(".")
    if not host or len(host) > HOST_LENGTH_MAX or "%" in netloc:
        raise RefusedTarget("The URL has no host that can be read.")
    if "[" in netloc:
        try:
            return str(IPv6Address(host))
        except ValueError as error:
            raise RefusedTarget(f"[{host}] is no IPv6 address.") from error
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError as error:
            raise RefusedTarget(f"{host} is no IPv4 address; write four numbers from 0 to 255.") from error
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise RefusedTarget(f"{host} is no name of a host.")
    return host


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _resolved(target: Target) -> list[IPv4Address | IPv6Address]:
    try:
        infos = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnknownHost(
            f"No address is found for {target.host}: see whether the name is spelt right."
        ) from error
    texts = dict.fromkeys(str(info[4][0]) for info in infos)
    return [ip_address(text) for text in list(texts)[:ADDRESSES_MAX]]


def _is_named(host: str, port: int) -> bool:
    """`10.1.2.3`, `hooks.internal`, or either with its port; an IPv6 address in brackets if a port follows."""
    bracketed = f"[{host}]" if ":" in host else host
    return bool({host, bracketed, f"{bracketed}:{port}"} & _named(settings.ALERT_PRIVATE_TARGETS))


def _named(targets: Iterable[str]) -> set[str]:
    return {target.lower() for target in targets}
