"""`GET /v1/limits`: the usage meter."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.views import APIView

from policies.deciding import evaluation
from policies.standing import limits_in_force
from policies.standing.limits_in_force import MeterAnswer, MeterQuery
from tenants import scopes
from tenants.api import http, queries
from tenants.api.callers import Caller
from tenants.api.openapi import operation


class LimitsView(APIView):
    """The evaluation underneath authenticates the caller and counts the call."""

    authentication_classes = ()
    permission_classes = ()

    @operation(
        "getLimits",
        "The policies in force and what their limits leave",
        tag="evaluate",
        description="For a usage meter. Holds and records nothing.",
        query=MeterQuery,
        answers={200: MeterAnswer},
    )
    def get(self, request: Request) -> HttpResponse:
        django_request = request._request
        admitted = evaluation.admit(Caller.of(django_request, scopes.USAGE_READ))
        query = queries.decode(django_request, MeterQuery)
        return http.json_response(limits_in_force.read(query, admitted))
