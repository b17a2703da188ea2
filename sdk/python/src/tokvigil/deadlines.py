"""How connections to the control plane are made: with one deadline for a whole request of code that blocks.

The HTTP library's timeouts are those of each read, so a server that drips a byte now and then could keep a caller for
minutes. Here each read and write of a connection gets what is left. Code that awaits has `asyncio.timeout` for that.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import httpcore2

from tokvigil import event_loops

# No wait is shorter: 0 would be "do not wait at all", which fails at once.
WAIT_S_MIN = 0.001


class DeadlineBackend(httpcore2.SyncBackend):
    """Opens connections that end at the `deadline` (of time.monotonic) of the request they carry."""

    deadline = 0.0

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **options: Any
    ) -> _Stream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        addresses = [str(address[0]) for *_, address in found]
        for number, address in enumerate(addresses):
            # Each has its share of the time, so that one that says nothing leaves some for the next.
            share_s = self.left_s() / (len(addresses) - number)
            try:
                return _Stream(super().connect_tcp(address, port, share_s, *rest, **options), self.left_s)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number == len(addresses) - 1:
                    raise
        raise httpcore2.ConnectError(f"{host} has no address")

    def left_s(self) -> float:
        return max(WAIT_S_MIN, self.deadline - time.monotonic())


class LookUpBackend(httpcore2.AnyIOBackend):
    """Has names looked up in threads of ours."""

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *rest: Any, **options: Any
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                found = await event_loops.waiting.run(
                    partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
                )
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"{host} was not looked up in time") from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        *others, last = (str(address[0]) for *_, address in found)
        share_s = None if timeout is None else timeout / len(found)
        for address in others:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await super().connect_tcp(address, port, share_s, *rest, **options)
        return await super().connect_tcp(last, port, share_s, *rest, **options)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream, left_s: Callable[[], float]) -> None:
        self._inner = inner
        self._left_s = left_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left_s = self._left_s()
        if left_s <= WAIT_S_MIN:
            raise httpcore2.ReadTimeout("no whole answer in time")
        try:
            return self._inner.read(max_bytes, left_s)
        except httpcore2.ReadTimeout as error:
            if self._left_s() > WAIT_S_MIN and error.__cause__ is not None:
                # Before its time: a signal handler's, which is the caller's.
                raise error.__cause__ from None
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left_s())

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: Any = None) -> _Stream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._left_s()), self._left_s)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
