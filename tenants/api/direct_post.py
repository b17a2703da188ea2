"""Views whose POST is answered around what DRF does for every request."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.views import APIView

from tenants.api import problems


class DirectPost(APIView):
    """Its `post` takes Django's request, lets the caller in by itself, and reads nothing of `self`.

    DRF's wrapping, negotiation and authentication classes would cost as much again as the work (`make bench` prints
    the ratio). Other verbs go through DRF.
    """

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return (
            self.respond(request) if request.method == "POST" else super().dispatch(request, *args, **kwargs)
        )

    def respond(self, request: HttpRequest) -> HttpResponse:
        """The answer to a POST. Raises what is a defect of ours."""
        try:
            return self.post(request)
        except Exception as error:
            problem = problems.of(error)
            if problem is None:
                raise
            return problem.response()

    def post(self, request: HttpRequest) -> HttpResponse:
        raise NotImplementedError
