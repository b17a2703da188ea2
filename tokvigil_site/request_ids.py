"""Each request has a random id. The audit log keeps it with the client's address, and the answer says it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from audit.origin import Origin, coming_from
from tenants.api.addresses import address_of

HEADER = "X-Request-Id"


class RequestIdMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # Never the caller's own: two requests must not share one.
        request_id = uuid.uuid4().hex
        with coming_from(Origin(request_id=request_id, address=address_of(request))):
            response = self.get_response(request)
        response.headers[HEADER] = request_id
        return response
