"""The Content-Security-Policy of every answer: what a page may load, and from where.

Settings, the override of a view and the order of directives are those of Django 6 (`SECURE_CSP`, `csp_override`), so
that this module goes when Django 6 comes. Nonces are not supported: no page has inline scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

Policy = Mapping[str, Sequence[str]]
View = TypeVar("View", bound=Callable[..., Any])

HEADER = "Content-Security-Policy"
SELF = "'self'"
NONE = "'none'"
UNSAFE_EVAL = "'unsafe-eval'"
UNSAFE_INLINE = "'unsafe-inline'"


class ContentSecurityPolicyMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.default = written(settings.SECURE_CSP)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault(HEADER, self.default)
        return response


def csp_override(policy: Policy) -> Callable[[View], View]:
    """The answers of this view have this policy, and nothing of SECURE_CSP."""
    header = written(policy)

    def decorate(view: View) -> View:
        @wraps(view)
        def overridden(*args: Any, **kwargs: Any) -> Any:
            response = view(*args, **kwargs)
            response.headers[HEADER] = header
            return response

        return overridden  # type: ignore[return-value]

    return decorate


def written(policy: Policy) -> str:
    return "; ".join(f"{directive} {' '.join(sources)}" for directive, sources in policy.items())
