"""A request as granian's RSGI hands it over, as the WSGI environ that granian's WSGI would have made of it.

Two things differ. A header whose name has an underscore is left out: it would pass for the one with a hyphen, which a
proxy may have set. And a path that is not UTF-8 is refused: RSGI no longer tells which bytes were sent.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any, Protocol

Environ = dict[str, Any]

# What bytes that are no UTF-8 were replaced by before the path came here.
REPLACEMENT = "\ufffd"
ONCE = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})
_FIXED: Environ = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SCRIPT_NAME": "",
    "SERVER_SOFTWARE": "Granian",
    "HTTP_HOST": "",
    "wsgi.errors": sys.stderr,
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}


class Headers(Protocol):
    def items(self) -> list[tuple[str, str]]: ...
    def keys(self) -> list[str]: ...


class Scope(Protocol):
    """A request without its body."""

    http_version: str
    server: str
    client: str
    scheme: str
    method: str
    path: str
    query_string: str
    authority: str | None
    headers: Headers


class UnreadablePath(Exception):
    """The path is no UTF-8 text: what was sent can no longer be told."""


def environ_of(scope: Scope) -> Environ:
    """All but `wsgi.input`. Raises UnreadablePath."""
    host, port = _address(scope.server)
    environ = _FIXED | {
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "REMOTE_ADDR": _address(scope.client)[0],
        "REQUEST_METHOD": scope.method,
        "PATH_INFO": _path(scope.path),
        "QUERY_STRING": _latin(scope.query_string),
        "wsgi.url_scheme": scope.scheme,
    }
    environ |= _headers(scope.headers)
    if not environ["HTTP_HOST"] and scope.authority:
        environ["HTTP_HOST"] = scope.authority
    return environ


def _headers(headers: Headers) -> Environ:
    found: Environ = {}
    for name, value in headers.items():
        key = _variable(name)
        if key is None:
            continue
        known = found.get(key)
        if known is None:
            found[key] = value
        elif key not in ONCE:
            # Cookies may hold commas.
            found[key] = f"{known};{value}" if key == "HTTP_COOKIE" else f"{known},{value}"
    for name in headers.keys():  # noqa: SIM118 (granian's own class)
        # A value that is not ASCII is not among the items.
        key = _variable(name)
        if key is not None and key not in found:
            found[key] = ""
    return found


@lru_cache(maxsize=1024)
def _variable(header: str) -> str | None:
    if "_" in header:
        return None
    name = header.upper().replace("-", "_")
    return name if name in ONCE else f"HTTP_{name}"


def _path(path: str) -> str:
    if path.isascii():
        return path
    if REPLACEMENT in path:
        raise UnreadablePath
    return _latin(path)


def _latin(text: str) -> str:
    """WSGI's text: a character for each byte."""
    return text if text.isascii() else text.encode().decode("latin-1")


def _address(peer: str) -> tuple[str, str]:
    """Host and port; of IPv6 without brackets and zone."""
    host, _, port = peer.rpartition(":")
    return host.strip("[]").partition("%")[0], port
