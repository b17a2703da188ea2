"""`GET /v1/limits`: the usage meter."""

from __future__ import annotations

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.views import APIView

from policies import meter
from policies.evaluation import Caller
from policies.meter import MeterAnswer, MeterQuery
from tenants import authentication, http, queries, scopes
from tenants.openapi import operation


class LimitsView(APIView):
    """Authenticated, and its calls counted, by the evaluation it rests on."""

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
        caller = Caller(
            presented=authentication.presented(django_request),
            address=authentication.address_of(django_request),
            scope=scopes.USAGE_READ,
        )
        query = queries.decode(django_request, MeterQuery)
        return http.json_response(meter.read(query, caller))
