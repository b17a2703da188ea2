"""`POST /v1/evaluate`."""

from __future__ import annotations

import msgspec
from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request
from rest_framework.views import APIView

from policies import answers, evaluation
from policies.evaluation import Caller, EvaluateRequest
from tenants import authentication, http

_body = msgspec.json.Decoder(EvaluateRequest)


class EvaluateView(APIView):
    """Authenticates against the snapshot, which the reserve script then verifies: no query on the way."""

    authentication_classes = ()
    permission_classes = ()

    def post(self, request: Request) -> HttpResponse:
        return evaluate(request._request)


def evaluate(request: HttpRequest) -> HttpResponse:
    caller = Caller(presented=authentication.presented(request), address=authentication.address_of(request))
    body = http.decode(request, _body)
    evaluated = evaluation.evaluate(body, caller)
    return http.json_response(answers.answer(evaluated, explain=body.explain))
