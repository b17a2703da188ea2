"""One POST to a webhook: to a checked address, without redirects, within a deadline."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore2

from policies.alerting import targets
from policies.alerting.targets import RefusedTarget, Target, UnknownHost

# All in all, however slowly it answers.
SEND_S_MAX = 10.0
CONNECT_S_MAX = 5.0
# Of the answer's body, for people to read.
EXCERPT_BYTES = 300
_USER_AGENT = "TokVigil-Alerts/1"


class NotSent(Exception):
    """The message says why. `is_final`: another attempt would fail alike."""

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Answer:
    """`retry_after_s`: what the receiver asked for, if it did."""

    status: int
    excerpt: str
    retry_after_s: int | None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


def post(url: str, body: bytes, headers: Mapping[str, str], *, within_s: float = SEND_S_MAX) -> Answer:
    """Raises NotSent where there is no answer; an answer may still be a failure."""
    ends_at = time.monotonic() + within_s
    try:
        target = targets.parse(url)
        addresses = targets.addresses(target)
    except RefusedTarget as error:
        raise NotSent(str(error), is_final=True) from error
    except UnknownHost as error:
        raise NotSent(str(error)) from error
    sent = [(name.encode(), value.encode()) for name, value in _headers(target, body, headers).items()]
    # Knows no proxy of the environment, keeps nothing between calls, and follows no redirect.
    with httpcore2.ConnectionPool(
        ssl_context=ssl.create_default_context(), network_backend=_Pinned(addresses, ends_at)
    ) as pool:
        try:
            with pool.stream("POST", _url(target), headers=sent, content=body) as response:
                return Answer(response.status, _excerpt(response), _retry_after(response))
        except (httpcore2.TimeoutException, TimeoutError) as error:
            raise NotSent(f"{target.place} did not answer within {within_s:g} s.") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise NotSent(f"{target.place}: {error or type(error).__name__}.") from error


def _headers(target: Target, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    return {
        "host": target.place,
        "user-agent": _USER_AGENT,
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **headers,
    }


def _url(target: Target) -> httpcore2.URL:
    return httpcore2.URL(
        scheme=target.scheme.encode(),
        host=target.host.encode(),
        port=target.port,
        target=target.path.encode(),
    )


def _excerpt(response: httpcore2.Response) -> str:
    found = b""
    for chunk in response.iter_stream():
        found += chunk
        if len(found) >= EXCERPT_BYTES:
            break
    text = found[:EXCERPT_BYTES].decode(errors="replace")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _retry_after(response: httpcore2.Response) -> int | None:
    """In seconds; one that names a date is passed over."""
    for name, value in response.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return int(value[:9])
    return None


class _Pinned(httpcore2.NetworkBackend):
    """Connects to the checked addresses whatever the host is called; certificates are still those of the host."""

    def __init__(self, addresses: Iterable[str], ends_at: float) -> None:
        self._addresses = list(addresses)
        self._ends_at = ends_at
        self._network = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore2.NetworkStream:
        failed: Exception = httpcore2.ConnectError("no address")
        for address in self._addresses:
            try:
                within = min(CONNECT_S_MAX, _left(self._ends_at))
                stream = self._network.connect_tcp(address, port, within, local_address, socket_options)
                return _Bounded(stream, self._ends_at)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed


class _Bounded(httpcore2.NetworkStream):
    """Each step may take what is left until the end: a receiver that sends a byte now and then holds nobody up."""

    def __init__(self, stream: httpcore2.NetworkStream, ends_at: float) -> None:
        self._stream = stream
        self._ends_at = ends_at

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._ends_at))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._ends_at))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._ends_at))
        return _Bounded(stream, self._ends_at)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(ends_at: float) -> float:
    left = ends_at - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("too slow")
    return left
