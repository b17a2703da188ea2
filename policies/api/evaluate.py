"""`POST /v1/evaluate`."""

from __future__ import annotations

from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.views import APIView

from policies import evaluate_answer, evaluation, examples
from policies.evaluate_answer import EvaluateAnswer
from policies.evaluate_request import EvaluateRequest
from tenants import scopes
from tenants.api import http, problems
from tenants.api.callers import Caller
from tenants.api.openapi import operation

_body = msgspec.json.Decoder(EvaluateRequest)


class EvaluateView(APIView):
    """Authenticates against the snapshot, which the reserve script then verifies: no query on the way.

    A POST is answered by `respond`, around what DRF does for every request (wrapping, negotiation, authentication
    classes): it needs none of it, and that would cost as much again as the decision (`make bench` prints the ratio).
    """

    # What DRF asks for before it refuses another verb than POST.
    scope = scopes.EVALUATE

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return respond(request) if request.method == "POST" else super().dispatch(request, *args, **kwargs)

    @operation(
        "evaluate",
        "Decide about one AI call, and hold what it may use",
        tag="evaluate",
        body=EvaluateRequest,
        answers={200: EvaluateAnswer},
        problems=(409,),
        examples=examples.EVALUATE,
    )
    def post(self, request: Request) -> HttpResponse:
        """Decide about one AI call, and hold what it may use."""
        return evaluate(request._request)


def respond(request: HttpRequest) -> HttpResponse:
    try:
        return evaluate(request)
    except Exception as error:
        problem = problems.of(error)
        if problem is None:
            raise
        return problem.response()


def evaluate(request: HttpRequest) -> HttpResponse:
    caller = Caller.of(request, scopes.EVALUATE)
    body = http.decode(request, _body)
    evaluated = evaluation.evaluate(body, caller)
    return http.json_response(evaluate_answer.answer(evaluated, explain=body.explain))
