"""HTTP clients that outlive forks and event loops: made when first used, one for each process and loop."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import TYPE_CHECKING, Any

from tokvigil import forking
from tokvigil.certificates import context_of
from tokvigil.errors import ConfigurationError
from tokvigil.event_loops import PerLoop

if TYPE_CHECKING:
    import httpx2


CLOSED = "this TokVigil client is closed, so nothing could be reported: make calls inside its `with`"


class Connections:
    """HTTP clients of httpx2 for `chat`. Safe to share between threads. `options` are those of the clients.

    Asking for a client raises `ConfigurationError` once this is closed.
    """

    _own: httpx2.Client | None

    def __init__(self, **options: Any) -> None:
        # Here, and not by the first request, perhaps of a thread: a fork while a thread imports leaves the child with
        # a lock on the module that nobody will ever release. And not at the top, so that `import tokvigil` is light.
        import httpx2

        self._library = httpx2
        self._options = options
        self._is_closed = False
        self._of_loops = PerLoop(
            lambda: httpx2.AsyncClient(**self._with_certificates()), lambda made: made.aclose()
        )
        self._begin()
        forking.register(self)
        close_at_exit(self)

    @property
    def blocking(self) -> httpx2.Client:
        self._check_is_open()
        if self._own is None:
            with self._making:
                self._own = self._own or self._library.Client(**self._with_certificates())
        return self._own

    @property
    def awaiting(self) -> httpx2.AsyncClient:
        """For the running event loop, which its connections cannot leave."""
        self._check_is_open()
        return self._of_loops.here()

    def close(self) -> None:
        self._is_closed = True
        if self._own is not None:
            self._own.close()
        self._of_loops.close_all()

    async def close_async(self) -> None:
        await self._of_loops.close_here()
        self.close()

    def restart_in_child(self) -> None:
        """The parent's connections are the parent's, and not to be closed here."""
        self._inherited = self._own
        self._of_loops.restart_in_child()
        self._begin()

    def _check_is_open(self) -> None:
        forking.notice()
        if self._is_closed:
            raise ConfigurationError(CLOSED)

    def _with_certificates(self) -> dict[str, Any]:
        """The options of a client. Certificates are read once, and not for each event loop."""
        with self._making:
            if not self._options.keys() & {"verify", "transport"}:
                self._options["verify"] = context_of()
        return self._options

    def _begin(self) -> None:
        self._making = threading.RLock()
        self._own = None


_to_close: weakref.WeakSet[Any] = weakref.WeakSet()


def close_at_exit(closable: Any) -> None:
    """After what is left to report was sent, as that is registered later."""
    _to_close.add(closable)


@atexit.register
def _close_at_exit() -> None:
    for each in list(_to_close):
        each.close()
