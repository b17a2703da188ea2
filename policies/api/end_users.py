"""`GET`, `PUT` and `DELETE /v1/end-users/{user_id}`."""

from __future__ import annotations

import msgspec
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from rest_framework.request import Request

from policies import end_users
from policies.models import EndUser
from tenants import scopes
from tenants.api import http, problems, queries
from tenants.api.http import Name
from tenants.api.openapi import operation
from tenants.models import Environment
from usage.api.key_view import KeyView


class EndUserRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Both are required, so that naming the plan alone never lifts a block. `plan` null: the one in each request."""

    plan: Name | None
    blocked: bool


class EndUserAnswer(msgspec.Struct, frozen=True, kw_only=True):
    user_id: str
    plan: str | None
    blocked: bool


_body = msgspec.json.Decoder(EndUserRequest)
_path = {"user_id": "The application's own id of its user; percent-encoded, slashes included."}


class EndUserView(KeyView):
    scope = scopes.END_USERS_WRITE

    @operation(
        "getEndUser",
        "The stored plan and block of a user",
        tag="end users",
        path=_path,
        query=queries.NoParameters,
        answers={200: EndUserAnswer},
        problems=(404,),
    )
    def get(self, request: Request, user_id: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        user_id = queries.path_name("user_id", user_id)
        rows = EndUser.objects.select_related("plan").filter(
            environment_id=self.environment_id, user_id=user_id
        )
        user = rows.first()
        if user is None:
            raise problems.not_found("end user")
        return http.json_response(_answer(user))

    @operation(
        "setEndUser",
        "Store a user's plan and block",
        tag="end users",
        description="It binds the user's very next call.",
        path=_path,
        body=EndUserRequest,
        answers={200: EndUserAnswer},
    )
    def put(self, request: Request, user_id: str) -> HttpResponse:
        user_id = queries.path_name("user_id", user_id)
        body = http.decode(request._request, _body)
        try:
            user = end_users.set_end_user(
                self._environment(), user_id, plan_name=body.plan, blocked=body.blocked, actor=self.actor
            )
        except ValidationError as error:
            raise problems.refused(error) from error
        return http.json_response(_answer(user))

    @operation(
        "forgetEndUser",
        "Forget a user's plan and block",
        tag="end users",
        path=_path,
        query=queries.NoParameters,
        answers={204: None},
    )
    def delete(self, request: Request, user_id: str) -> HttpResponse:
        """Deleting again is no error."""
        queries.decode(request._request, queries.NoParameters)
        end_users.remove_end_user(
            self._environment(), queries.path_name("user_id", user_id), actor=self.actor
        )
        return HttpResponse(status=204)

    def _environment(self) -> Environment:
        return Environment.objects.select_related("tenant").get(pk=self.environment_id)


def _answer(user: EndUser) -> EndUserAnswer:
    return EndUserAnswer(
        user_id=user.user_id, plan=None if user.plan is None else user.plan.name, blocked=user.blocked
    )
