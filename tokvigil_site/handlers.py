"""Three ways through Django, by how often they are gone.

Pages pass all middleware. The API has no use for sessions, CSRF, messages and static files, which would take their
time on every call: it is a handler of its own without middleware, so none of the pages' is skipped by mistake.
Evaluate, which comes before every AI call, goes to its view at once: no URL to resolve, no signals.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.db import close_old_connections, connection
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from policies.api.evaluate import EvaluateView, respond
from tokvigil_site import errors

logger = logging.getLogger("tokvigil.api")

API_PREFIX = "/v1/"
EVALUATE_PATH = "/v1/evaluate"


class ApiHandler(WSGIHandler):
    """Django's request handling (signals, URL resolution, error answers, connection care) without middleware."""

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = convert_exception_to_response(self._get_response)  # type: ignore[attr-defined]


class EvaluateHandler:
    """The view, and what a handler owes it: an answer to every exception, and connections put in order."""

    def __init__(self) -> None:
        self._view: Callable[[HttpRequest], HttpResponseBase] = EvaluateView.as_view()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = WSGIRequest(environ)
        response: HttpResponseBase
        try:
            response = respond(request) if request.method == "POST" else self._view(request)
        except Exception:
            logger.exception("evaluate failed")
            response = errors.server_error(request)
        finally:
            # A warm evaluate opens none.
            if connection.connection is not None:
                close_old_connections()
        start_response(f"{response.status_code} {response.reason_phrase}", list(response.items()))
        return [response.getvalue()]


class Application:
    """The WSGI application."""

    def __init__(self) -> None:
        self._pages = WSGIHandler()
        self._api = ApiHandler()
        self._evaluate = EvaluateHandler()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == EVALUATE_PATH:
            return self._evaluate(environ, start_response)
        handler = self._api if path.startswith(API_PREFIX) else self._pages
        return handler(environ, start_response)
