"""Timeouts that hold for a request as a whole.

The HTTP library reads a timeout once and then waits that long for each piece that arrives, so a server that drips a
byte now and then could keep a caller for minutes. Here the timeout is a number that knows its deadline, and the streams
under the HTTP library ask it anew at each read and write.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import httpx2

# No wait is shorter: 0 would be "do not wait at all", which fails at once.
WAIT_S_MIN = 0.001


class Until(float):
    """The seconds that were left of a deadline (of time.monotonic) when it was made."""

    deadline: float

    def __new__(cls, deadline: float) -> Self:
        until = super().__new__(cls, _left_s(deadline))
        until.deadline = deadline
        return until


def hold_to_deadlines(client: httpx2.Client) -> None:
    """Have the client's connections obey `Until`, through a proxy or not. Any other timeout holds as before."""
    for transport in {client._transport, *client._mounts.values()}:
        pool: Any = getattr(transport, "_pool", None)
        if pool is not None and not isinstance(pool._network_backend, _Backend):
            pool._network_backend = _Backend(pool._network_backend)


def _left_s(deadline: float) -> float:
    return max(WAIT_S_MIN, deadline - time.monotonic())


def _now(timeout: float | None) -> float | None:
    return _left_s(timeout.deadline) if isinstance(timeout, Until) else timeout


class _Backend:
    """Of the HTTP library's core: what opens connections."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **options: Any
    ) -> _Stream:
        return _Stream(self._inner.connect_tcp(host, port, _now(timeout), *rest, **options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, *rest: Any, **options: Any
    ) -> _Stream:
        return _Stream(self._inner.connect_unix_socket(path, _now(timeout), *rest, **options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream:
    """Of the HTTP library's core: an open connection."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if isinstance(timeout, Until) and timeout.deadline <= time.monotonic():
            import httpcore2  # httpx2 has imported it

            raise httpcore2.ReadTimeout("no whole answer in time")
        data: bytes = self._inner.read(max_bytes, timeout=_now(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout=_now(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _now(timeout)))

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
