"""What is answered when no view can: problem+json below /v1/, Django's own pages elsewhere."""

from __future__ import annotations

import sys

from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views import defaults

from tenants.api.problems import RETRY_UNAVAILABLE_S, Problem
from tokvigil_site.pages import is_api


def refusal(path: str, problem: Problem) -> HttpResponse:
    """Of a request that no view gets to see."""
    if is_api(path):
        return problem.response()
    response = HttpResponse(f"{problem.detail}\n", content_type="text/plain", status=problem.status)
    if problem.retry_after_s is not None:
        response["Retry-After"] = str(problem.retry_after_s)
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if isinstance(exception, RequestDataTooBig):
        return refusal(request.path, Problem(413, "BODY_TOO_LARGE", "The body is too large; send less."))
    if is_api(request.path):
        return Problem(400, "BAD_REQUEST", "The request cannot be read.").response()
    return defaults.bad_request(request, exception)


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Called while the exception is being handled."""
    if isinstance(sys.exception(), (OperationalError, InterfaceError)):
        away = Problem(
            503,
            "UNAVAILABLE",
            "PostgreSQL cannot be reached in time. Try again in a moment.",
            retry_after_s=RETRY_UNAVAILABLE_S,
        )
        return refusal(request.path, away)
    if is_api(request.path):
        problem = Problem(
            500, "INTERNAL_ERROR", "TokVigil failed on this request; that is a defect. Retry, and report it."
        )
        return problem.response()
    return defaults.server_error(request)


def unknown_address(request: HttpRequest) -> HttpResponse:
    """For every path below /v1/ that is none; so also while DEBUG would show its own page."""
    return Problem(
        404, "NOT_FOUND", "There is nothing at this address; see /docs/ for those there are."
    ).response()
