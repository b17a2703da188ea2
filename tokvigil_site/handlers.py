"""Three request paths, from the rarest to the hottest.

Pages pass all middleware. The API has no use for sessions, CSRF, messages and static files, which would take their
time on every call: it is a handler of its own without middleware, so none of the pages' is skipped by mistake.
Evaluate and usage reports, of which every AI call has one each, go to their views at once: no URL to resolve, no
signals.

Evaluate finds a thread however long PostgreSQL lets the others wait: so many of its threads, no more, wait for it.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.db import close_old_connections, connection
from django.http.response import HttpResponseBase

from policies.api.evaluate import EvaluateView
from tenants.api.direct_post import DirectPost
from tokvigil_site import errors
from tokvigil_site.pages import is_api
from usage.api.usage import UsageBatchView, UsageView
from usage.timebox import patience
from usage.timebox.gate import Gate

logger = logging.getLogger("tokvigil.api")

EVALUATE_PATH = "/v1/evaluate"
# So many threads of a web process (serving.threads.THREADS) may wait for PostgreSQL: for evaluates, and for all others.
EVALUATES_WAITING_MAX, OTHERS_WAITING_MAX = 3, 9
# And so many evaluates for what another thread compiles or sums up.
EVALUATES_WAITING_FOR_WORK_MAX = 3
# For a place to become free, an evaluate's as long as it may wait at all. Calls of a site that is well take less.
PLACE_WAIT_S = 0.2
# What a page may wait for PostgreSQL, all in all.
PAGE_WAIT_S = 30.0
# What each AI call asks and tells.
DIRECT: dict[str, type[DirectPost]] = {
    EVALUATE_PATH: EvaluateView,
    "/v1/usage": UsageView,
    "/v1/usage/batch": UsageBatchView,
}


class ApiHandler(WSGIHandler):
    """Django's request handling (signals, URL resolution, error answers, connection care) without middleware."""

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = convert_exception_to_response(self._get_response)  # type: ignore[attr-defined]


class DirectHandler:
    """A view's POST without Django's handler, and what that owes: an answer to every exception, tidy connections."""

    def __init__(self, view: type[DirectPost]) -> None:
        self._direct = view()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = WSGIRequest(environ)
        response: HttpResponseBase
        try:
            response = self._direct.respond(request)
        except SuspiciousOperation as error:
            response = errors.bad_request(request, error)
        except Exception:
            logger.exception("%s failed", type(self._direct).__name__)
            response = errors.server_error(request)
        finally:
            # A warm call opens none.
            if connection.connection is not None:
                close_old_connections()
        start_response(f"{response.status_code} {response.reason_phrase}", list(response.items()))
        return [response.getvalue()]


class Application:
    """The WSGI application."""

    def __init__(self) -> None:
        self._pages = WSGIHandler()
        self._api = ApiHandler()
        self._direct = {path: DirectHandler(view) for path, view in DIRECT.items()}
        self._evaluates_waiting = Gate(EVALUATES_WAITING_MAX, settings.EVALUATE_WAIT_S)
        self._evaluates_waiting_for_work = Gate(EVALUATES_WAITING_FOR_WORK_MAX, settings.EVALUATE_WAIT_S)
        self._others_waiting = Gate(OTHERS_WAITING_MAX, PLACE_WAIT_S)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        direct = self._direct.get(path) if environ["REQUEST_METHOD"] == "POST" else None
        handler = direct or (self._api if is_api(path) else self._pages)
        with self._time_for(path):
            return handler(environ, start_response)

    def _time_for(self, path: str) -> AbstractContextManager[None]:
        if path == EVALUATE_PATH:
            return patience.within(
                settings.EVALUATE_WAIT_S, self._evaluates_waiting, self._evaluates_waiting_for_work
            )
        wait_s = settings.API_WAIT_S if is_api(path) else PAGE_WAIT_S
        return patience.within(wait_s, self._others_waiting)
