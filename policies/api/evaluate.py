"""`POST /v1/evaluate`."""

from __future__ import annotations

import msgspec
from django.http import HttpRequest, HttpResponse

from policies.api import examples
from policies.deciding import evaluate_answer, evaluation
from policies.deciding.evaluate_answer import EvaluateAnswer
from policies.deciding.evaluate_request import EvaluateRequest
from tenants import scopes
from tenants.api import http
from tenants.api.callers import Caller
from tenants.api.direct_post import DirectPost
from tenants.api.openapi import operation

_body = msgspec.json.Decoder(EvaluateRequest)


class EvaluateView(DirectPost):
    """Lets callers in by the snapshot, which the reserve script then verifies: no query on the way."""

    # What DRF asks for before it refuses another verb than POST.
    scope = scopes.EVALUATE

    @operation(
        "evaluate",
        "Decide about one AI call, and hold what it may use",
        tag="evaluate",
        body=EvaluateRequest,
        answers={200: EvaluateAnswer},
        problems=(409,),
        examples=examples.EVALUATE,
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Decide about one AI call, and hold what it may use."""
        # Before the body is looked at: a stranger's is not decoded.
        admitted = evaluation.admit(Caller.of(request, scopes.EVALUATE))
        body = http.decode(request, _body)
        evaluated = evaluation.evaluate(body, admitted)
        return http.json_response(evaluate_answer.answer(evaluated, explain=body.explain))
