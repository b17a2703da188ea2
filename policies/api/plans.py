"""`GET /v1/plans`, `PUT` and `DELETE /v1/plans/{name}`."""

from __future__ import annotations

import msgspec
from django.http import HttpResponse
from rest_framework.request import Request

from policies.api.policy_file import refused
from policies.changing import publishing
from policies.files.file_errors import PolicyFileError
from policies.models import Plan
from tenants import scopes
from tenants.api import editions, http, queries
from tenants.api.openapi import operation
from usage.api.key_view import KeyView


class PlanAnswer(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class PlansAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All, by name."""

    plans: tuple[PlanAnswer, ...]


_path = {"name": "Of the plan; percent-encoded, slashes included."}


class PlansView(KeyView):
    scope = scopes.MANAGE

    @operation("listPlans", "The plans", tag="plans", query=queries.NoParameters, answers={200: PlansAnswer})
    def get(self, request: Request) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        names = Plan.objects.filter(environment_id=self.environment_id).order_by("name")
        answer = PlansAnswer(
            plans=tuple(PlanAnswer(name=name) for name in names.values_list("name", flat=True))
        )
        return editions.tagged(http.json_response(answer), self.environment_id)


class PlanView(KeyView):
    scope = scopes.MANAGE

    @operation(
        "putPlan",
        "Offer a plan",
        tag="plans",
        description="Again changes nothing.",
        path=_path,
        query=queries.NoParameters,
        answers={200: PlanAnswer},
        problems=(412,),
    )
    def put(self, request: Request, name: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        name = queries.path_name("name", name)
        try:
            with editions.expected(request._request, self.environment_id) as environment:
                plan = publishing.add_plan(environment, name, actor=self.actor)
        except PolicyFileError as error:
            raise refused(error) from error
        return editions.tagged(http.json_response(PlanAnswer(name=plan.name)), self.environment_id)

    @operation(
        "deletePlan",
        "Stop offering a plan",
        tag="plans",
        description="Refused while an end user has it or a policy names it. Again changes nothing.",
        path=_path,
        query=queries.NoParameters,
        answers={204: None},
        problems=(412,),
    )
    def delete(self, request: Request, name: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        name = queries.path_name("name", name)
        try:
            with editions.expected(request._request, self.environment_id) as environment:
                plan = environment.plans.filter(name=name).first()
                if plan is not None:
                    publishing.remove_plan(plan, actor=self.actor)
        except PolicyFileError as error:
            raise refused(error) from error
        return editions.tagged(HttpResponse(status=204), self.environment_id)
