"""For Django, behind WSGI and ASGI.

    MIDDLEWARE = [..., "tokvigil.integrations.django.TokVigilMiddleware"]  # after AuthenticationMiddleware
    TOKVIGIL = {"feature": "chat", "plan": lambda request: request.user.plan}

The AI calls of a request are for its user, also those of its streaming response. A block that no view caught becomes a
429 or a 403.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from tokvigil.attribution import Attribution, begun_here
from tokvigil.errors import ConfigurationError
from tokvigil.integrations.web import answer_to, contexts

logger = logging.getLogger("tokvigil")


def signed_in(request: HttpRequest) -> Any:
    """The primary key of the request's user; None if nobody is signed in."""
    return getattr(getattr(request, "user", None), "pk", None)


@sync_and_async_middleware
class TokVigilMiddleware:
    """A context around each request, as the setting TOKVIGIL says it.

    Its keys are `user_id` (the user who is signed in), `feature`, `plan`, `run_id` and `metadata`: each a value, or a
    function of the request. The functions are called when the request makes its first AI call; they return None where
    there is no user. `turn_blocks_into_answers` (True) answers an `AIUsageBlockedError` that leaves a view as a problem
    (RFC 9457) with `Retry-After`.
    """

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        said = {"user_id": signed_in, "turn_blocks_into_answers": True, **getattr(settings, "TOKVIGIL", {})}
        self._turn_blocks_into_answers = said.pop("turn_blocks_into_answers")
        self._looks_up_the_user = said["user_id"] is signed_in
        if unknown := said.keys() - Attribution.__dataclass_fields__.keys():
            raise ImproperlyConfigured(f"TOKVIGIL has no {', '.join(sorted(unknown))}")
        try:
            self._context_of = contexts(**said)
        except ConfigurationError as error:
            raise ImproperlyConfigured(f"TOKVIGIL: {error}") from error

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._answer_async(request)
        with self._context_of(request):
            return _streaming_here(self.get_response(request))

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        if self._looks_up_the_user:
            await _look_up_the_user(request)
        with self._context_of(request):
            return _streaming_here(await self.get_response(request))

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        answer = answer_to(error) if self._turn_blocks_into_answers else None
        return answer and HttpResponse(answer.body, status=answer.status, headers=answer.headers)


async def _look_up_the_user(request: HttpRequest) -> None:
    """Before the view, because it may take a query, which an AI call cannot wait for.

    Only of who has a session: to look into that makes an answer differ by cookie, and caches keep it for one person. If
    it fails, the AI call will say so, should there be one.
    """
    if hasattr(request, "auser") and settings.SESSION_COOKIE_NAME in request.COOKIES:
        try:
            request.user = await request.auser()
        except Exception as error:
            logger.debug("the user of a request cannot be looked up: %r", error)


def _streaming_here(response: HttpResponseBase) -> HttpResponseBase:
    """The response. Django reads a stream after all middleware is over, and it is to be read in the context of here."""
    # Files may be sent by the web server itself.
    if isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse):
        response.streaming_content = (_pieces_async if response.is_async else _pieces)(
            response.streaming_content
        )
    return response


@begun_here
def _pieces(content: Any) -> Iterator[bytes]:
    yield from content


@begun_here
async def _pieces_async(content: Any) -> AsyncIterator[bytes]:
    async for piece in content:
        yield piece
