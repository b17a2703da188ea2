"""The connections to the control plane. Each carries one request at a time; they outlive forks and event loops.

A connection is a pool of the HTTP library with room for one: a larger pool looks at all its idle connections at each
request, which costs a question more than a millisecond after a burst. The connection that was used last is used first.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from tokvigil import containing, forking
from tokvigil.certificates import Verify, context_of
from tokvigil.connections import CLOSED, close_at_exit
from tokvigil.errors import ConfigurationError, UnreachableError, UnreachableReason, causes_of
from tokvigil.event_loops import PerLoop

# At once, of a process or an event loop. Others wait for one: at 100 ms an answer, 2,000 questions take a second.
LINKS_MAX = 200
# When they are idle.
KEPT_MAX = 100
KEPT_S = 60.0
# A time-out that is noticed so late is this process's own: it had no time to read the answer.
LATE_S = 0.25
# As is one of an event loop that others held up for such a part of the time. It is looked at so often.
STALLED_SHARE = 0.5
LOOK_S = 0.05
# What this process, or its machine, has run out of.
OWN_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
# Of a question's time, so that a connection that does not come about is told from an answer that does not.
CONNECT_SHARE = 0.9
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`path` has its query, `deadline` and `asked_at` are of time.monotonic."""

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes | None = None
    deadline: float
    asked_at: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    link: _Link | None = field(default=None, repr=False)

    def reject(self) -> None:
        """It answers another request: its connection is out of step, and is not used again."""
        if self.link is not None:
            self.link.is_out_of_step = True

    def header(self, name: str) -> str | None:
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)


@dataclass(slots=True)
class _Link:
    """A connection, open or not. `backend` keeps the deadline of code that blocks."""

    pool: Any
    backend: Any = None
    used_at: float = 0.0
    is_out_of_step: bool = False


class Links:
    """Safe to share between threads, event loops and forked children.

    `proxy` is an address; None: as the environment says. `verify` is False, a file or directory of certificates, or a
    context. Raises `ConfigurationError` for what can never work, and for a request once it is closed.
    """

    def __init__(self, base_url: str, *, proxy: str | None = None, verify: Verify = True) -> None:
        core, self._backend, self._async_backend = _libraries()
        self._core = core
        self._errors = (core.TimeoutException, core.NetworkError, core.ProtocolError, core.ProxyError)
        self._base_url = base_url
        try:
            parts = urlsplit(base_url)
            host = (parts.hostname or "").encode("idna")
            self._origin: dict[str, Any] = {"scheme": parts.scheme, "host": host, "port": parts.port}
            self._core.URL(**self._origin, target="/")
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"base_url is not an address: {error}") from None
        self._prefix = parts.path.rstrip("/")
        self._options = {
            # Read here, and not by the first call, perhaps in an event loop.
            "ssl_context": context_of(verify) if parts.scheme == "https" else None,
            "proxy": self._proxy(proxy or proxy_of_the_environment(parts.scheme, parts.hostname or "")),
            "max_connections": 1,
            "keepalive_expiry": KEPT_S,
        }
        self._is_closed = False
        # When a time-out was noticed late, the last time.
        self._late_at = 0.0
        self._of_loops = PerLoop(_AsyncLinks, _AsyncLinks.close)
        self._begin()
        forking.register(self)
        close_at_exit(self)

    def send(self, request: Request) -> Answer:
        """Raises `UnreachableError` if no whole answer came until the deadline."""
        if self._is_closed:
            raise ConfigurationError(CLOSED)
        places = self._places
        try:
            places.get(timeout=request.left_s())
        except Empty:
            raise _all_in_use(self._base_url) from None
        try:
            link = _top_of(self._idle)
            if link is None:
                backend = self._backend()
                link = _Link(self._core.ConnectionPool(**self._options, network_backend=backend), backend)
            elif link.is_out_of_step:
                link.is_out_of_step = False
                link.pool.close()
            link.backend.deadline = request.deadline
            try:
                response = link.pool.request(**self._written(request))
            except Exception as error:
                raise self._failure(error, request) from error
            surplus = link if self._is_closed else _keep(self._idle, link)
        finally:
            places.put(None)
        if surplus is not None:
            surplus.pool.close()
        return Answer(status=response.status, headers=response.headers, body=response.content, link=link)

    async def send_async(self, request: Request) -> Answer:
        """As `send`, in the running event loop, which a connection cannot leave."""
        if self._is_closed:
            raise ConfigurationError(CLOSED)
        links = self._of_loops.here()
        link = None
        stalled_s = links.begin()
        try:
            async with asyncio.timeout(request.left_s()), links.places:
                link = _top_of(links.idle) or _Link(
                    self._core.AsyncConnectionPool(**self._options, network_backend=self._async_backend())
                )
                if link.is_out_of_step:
                    link.is_out_of_step = False
                    await link.pool.aclose()
                try:
                    response = await link.pool.request(**self._written(request))
                except Exception as error:
                    raise self._failure(error, request, links.stalled_s - stalled_s) from error
                surplus = link if links.is_closed else _keep(links.idle, link)
        except TimeoutError as error:
            if link is None:
                raise _all_in_use(self._base_url) from error
            lost_s = links.stalled_s - stalled_s
            raise self._unreachable("no answer in time", "timeout", request, lost_s=lost_s) from error
        finally:
            links.end()
        if surplus is not None:
            await surplus.pool.aclose()
        return Answer(status=response.status, headers=response.headers, body=response.content, link=link)

    def close(self) -> None:
        self._is_closed = True
        while (link := _top_of(self._idle)) is not None:
            link.pool.close()
        self._of_loops.close_all()

    async def close_async(self) -> None:
        await self._of_loops.close_here()
        self.close()

    def restart_in_child(self) -> None:
        # No thread of the parent uses an idle one, so its locks are free. Its peer does not notice.
        for link in self._idle:
            link.pool.close()
        self._of_loops.restart_in_child()
        self._begin()

    def _begin(self) -> None:
        # Unlike a semaphore, a signal handler can use it while this thread does.
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(LINKS_MAX):
            self._places.put(None)
        self._idle: deque[_Link] = deque()

    def _written(self, request: Request) -> dict[str, Any]:
        """The request as the HTTP library takes it. Its other time-outs are those of the whole request."""
        return {
            "method": request.method,
            "url": self._core.URL(**self._origin, target=self._prefix + request.path),
            "headers": request.headers,
            "content": request.body,
            "extensions": {"timeout": {"connect": CONNECT_SHARE * request.left_s()}},
        }

    def _failure(self, error: Exception, request: Request, lost_s: float = 0.0) -> UnreachableError:
        core = self._core
        if not isinstance(error, self._errors):
            containing.say("TokVigil cannot be asked", error)
        reason: UnreachableReason = "timeout" if isinstance(error, core.TimeoutException) else "connect"
        has_left = not isinstance(error, core.ConnectTimeout | core.ConnectError | core.ProxyError)
        if reason == "connect" and _is_short_of_something(error):
            reason = "busy"
        return self._unreachable(repr(error), reason, request, has_left=has_left, lost_s=lost_s)

    def _unreachable(
        self,
        said: str,
        reason: UnreachableReason,
        request: Request,
        *,
        has_left: bool = True,
        lost_s: float = 0.0,
    ) -> UnreachableError:
        if reason == "timeout" and self._had_no_time(request, lost_s):
            reason, said = "busy", f"{said}, because this process had too much to do"
        return UnreachableError(
            f"TokVigil cannot be reached at {self._base_url}: {said}",
            reason=reason,
            may_have_arrived=has_left,
        )

    def _had_no_time(self, request: Request, lost_s: float) -> bool:
        """This process, to read an answer; or it had none for another question at the same time."""
        now = time.monotonic()
        if now - request.deadline > LATE_S:
            self._late_at = now
        return (
            self._late_at >= request.asked_at
            or lost_s > (request.deadline - request.asked_at) * STALLED_SHARE
        )

    def _proxy(self, address: str | None) -> Any:
        if address is None:
            return None
        try:
            parts = urlsplit(address)
            url = self._core.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target="/")
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"proxy is not an address: {error}") from None
        if parts.scheme not in PROXY_SCHEMES or not parts.hostname:
            raise ConfigurationError(f"proxy is an address that begins with {' or '.join(PROXY_SCHEMES)}://")
        if parts.scheme.startswith("socks") and find_spec("socksio") is None:
            raise ConfigurationError("proxy is a SOCKS proxy: `pip install socksio` for it")
        named = parts.username is not None or parts.password is not None
        auth = (unquote(parts.username or ""), unquote(parts.password or "")) if named else None
        return self._core.Proxy(url, auth=auth)


class _AsyncLinks:
    """Those of one event loop."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(LINKS_MAX)
        self.idle: deque[_Link] = deque()
        self.is_closed = False
        # While there were questions: so long in all the loop came too late to what was due.
        self.stalled_s = 0.0
        self._questions = 0
        self._is_looking = False

    def begin(self) -> float:
        """A question; returns `stalled_s`."""
        self._questions += 1
        if not self._is_looking:
            self._look_again()
        return self.stalled_s

    def end(self) -> None:
        self._questions -= 1

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_looking = True
        loop.call_later(LOOK_S, self._look, loop.time() + LOOK_S)

    def _look(self, due: float) -> None:
        self.stalled_s += asyncio.get_running_loop().time() - due
        self._is_looking = False
        if self._questions:
            self._look_again()

    async def close(self) -> None:
        self.is_closed = True
        while (link := _top_of(self.idle)) is not None:
            await link.pool.aclose()


def _libraries() -> tuple[ModuleType, Any, Any]:
    """All that requests need. None of them imports anything: a fork while a thread imports leaves the child with a
    lock on the module that nobody will ever release. Not at the top, so that `import tokvigil` stays light."""
    import encodings.idna  # noqa: F401

    import httpcore2

    from tokvigil.deadlines import DeadlineBackend, LookUpBackend

    return httpcore2, DeadlineBackend, LookUpBackend


def _is_short_of_something(error: BaseException) -> bool:
    errnos = {cause.errno for cause in causes_of(error) if isinstance(cause, OSError)}
    return not OWN_SHORTAGES.isdisjoint(errnos) or _lacks_descriptors()


def _lacks_descriptors() -> bool:
    """A look-up of a name fails in many ways then."""
    try:
        socket.socket().close()
    except OSError:
        return True
    return False


def _top_of(idle: deque[_Link]) -> _Link | None:
    try:
        return idle.pop()
    except IndexError:
        return None


def _keep(idle: deque[_Link], link: _Link) -> _Link | None:
    """Puts it on top. Returns one that is to be closed: unused for too long, or one too many."""
    link.used_at = time.monotonic()
    idle.append(link)
    try:
        if len(idle) > KEPT_MAX or idle[0].used_at < link.used_at - KEPT_S:
            return idle.popleft()
    except IndexError:
        # Other threads took them.
        pass
    return None


def _all_in_use(base_url: str) -> UnreachableError:
    return UnreachableError(
        f"all {LINKS_MAX} connections to TokVigil at {base_url} were in use", reason="busy"
    )


def proxy_of_the_environment(scheme: str, host: str) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(scheme) or proxies.get("all")
