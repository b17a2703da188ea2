"""Two ways through Django: pages pass all middleware, the API none.

Sessions, CSRF, messages and static files mean nothing to a call with an API key, yet each would take its time. The API
is a handler of its own, so that no middleware of the pages is skipped by mistake: what is not below /v1/ passes all.
"""

from collections.abc import Callable, Iterable
from typing import Any

from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler

API_PREFIX = "/v1/"


class ApiHandler(WSGIHandler):
    """Django's request handling (signals, URL resolution, error answers, connection care) without middleware."""

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = convert_exception_to_response(self._get_response)  # type: ignore[attr-defined]


class Application:
    """The WSGI application."""

    def __init__(self) -> None:
        self._pages = WSGIHandler()
        self._api = ApiHandler()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        handler = self._api if environ.get("PATH_INFO", "").startswith(API_PREFIX) else self._pages
        return handler(environ, start_response)
