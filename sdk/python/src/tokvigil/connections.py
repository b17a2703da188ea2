"""HTTP clients that outlive forks and event loops: made when first used, one for each process and loop."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

from tokvigil import forking
from tokvigil.deadlines import hold_to_deadlines
from tokvigil.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx2


CLOSED = "this TokVigil client is closed, so nothing could be reported: make calls inside its `with`"


class Connections:
    """Safe to share between threads. `options` are those of httpx2's clients.

    `given` and `given_async` are clients to use instead; they stay their owner's to close. Asking for a client raises
    `ConfigurationError` once this, or the one that was given, is closed.
    """

    _own: httpx2.Client | None
    _by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient]

    def __init__(
        self,
        given: httpx2.Client | None = None,
        given_async: httpx2.AsyncClient | None = None,
        **options: Any,
    ) -> None:
        _import_all()
        self._given, self._given_async = given, given_async
        if given is not None:
            hold_to_deadlines(given)
        self._options = options
        self._is_closed = False
        self._begin()
        forking.register_quiet(self)
        _all.add(self)

    @property
    def blocking(self) -> httpx2.Client:
        self._check_is_open(self._given)
        if self._given is not None:
            return self._given
        if self._own is None:
            with self._making:
                import httpx2  # here, so that `import tokvigil` stays light

                if self._own is None:
                    made = httpx2.Client(**self._options)
                    hold_to_deadlines(made)
                    self._own = made
        return self._own

    @property
    def awaiting(self) -> httpx2.AsyncClient:
        """For the running event loop, which its connections cannot leave."""
        import httpx2

        self._check_is_open(self._given_async)
        if self._given_async is not None:
            return self._given_async
        loop = asyncio.get_running_loop()
        with self._making:
            if loop not in self._by_loop:
                self._by_loop[loop] = httpx2.AsyncClient(**self._options)
            return self._by_loop[loop]

    def close(self) -> None:
        """Those of event loops end with their loops."""
        self._is_closed = True
        if self._own is not None:
            self._own.close()

    async def close_async(self) -> None:
        self.close()
        mine = self._by_loop.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.aclose()

    def hold_for_fork(self) -> None:
        """No thread is reading certificates when this returns."""
        self._making.acquire()

    def go_on_in_parent(self) -> None:
        self._making.release()

    def restart_in_child(self) -> None:
        """The parent's connections are the parent's, and not to be closed here."""
        _inherited.append((self._own, dict(self._by_loop)))
        self._begin()

    def _check_is_open(self, given: httpx2.Client | httpx2.AsyncClient | None) -> None:
        if self._is_closed or (given is not None and given.is_closed):
            raise ConfigurationError(CLOSED)

    def _begin(self) -> None:
        self._making = threading.RLock()
        self._own = None
        self._by_loop = weakref.WeakKeyDictionary()


_inherited: list[object] = []
_all: weakref.WeakSet[Connections] = weakref.WeakSet()


@atexit.register
def _close_at_exit() -> None:
    """Those of clients that were not closed; after what is left to report was sent, as that is registered later."""
    for connections in list(_all):
        connections.close()


@cache
def _import_all() -> None:
    """What the first request would import, and looking up its host: a fork while a thread imports leaves the child
    with a lock on the module that nobody will ever release."""
    import encodings.idna  # noqa: F401

    import httpx2

    httpx2.HTTPTransport(verify=False).close()  # never connects; httpx2 imports httpcore2 here
