"""Granian's RSGI over a WSGI application."""

from __future__ import annotations

import asyncio
from typing import Protocol

from django.http.response import HttpResponse
from granian import rsgi

from tenants.api.problems import Problem
from tokvigil_site import errors
from tokvigil_site.serving import BODY_DEADLINE_S
from tokvigil_site.serving.bodies import Bodies, Sender
from tokvigil_site.serving.environ import Scope, UnreadablePath, environ_of
from tokvigil_site.serving.threads import Answering, Application, Threads, TooBusy

RETRY_AFTER_S = 1
TOO_SLOW = Problem(
    408,
    "REQUEST_TIMEOUT",
    f"The body did not arrive within {BODY_DEADLINE_S:.0f} s; nothing was recorded. Retry.",
)
TOO_BUSY = Problem(
    503, "UNAVAILABLE", "Too many calls wait here; nothing was recorded. Retry.", retry_after_s=RETRY_AFTER_S
)
UNREADABLE = Problem(400, "BAD_REQUEST", "The path is not percent-encoded UTF-8.")


class Exchange(Sender, Answering, Protocol):
    """One request's body and answer."""


class Bridge:
    """What granian calls: `__rsgi_init__` and `__rsgi_del__` once a process, `__rsgi__` for each request."""

    def __init__(self, application: Application) -> None:
        self._bodies = Bodies()
        self._threads = Threads(application)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._threads.start(loop)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._threads.stop()

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        try:
            environ = environ_of(scope)
            body = await self._bodies.read(environ, exchange)
            await self._threads.answer(environ, body, exchange)
        except TimeoutError:
            _refuse(scope, exchange, TOO_SLOW)
        except TooBusy:
            _refuse(scope, exchange, TOO_BUSY)
        except UnreadablePath:
            _refuse(scope, exchange, UNREADABLE)
        except rsgi.ProtocolClosed:  # type: ignore[attr-defined]
            # The client left; there is nobody to answer to.
            return


def _refuse(scope: Scope, exchange: Exchange, problem: Problem) -> None:
    response: HttpResponse = errors.refusal(scope.path, problem)
    exchange.response_bytes(response.status_code, list(response.items()), response.content)
