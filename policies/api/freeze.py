"""`GET` and `PUT /v1/freeze`: the emergency brake."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample
from msgspec import Meta
from rest_framework.request import Request

from policies import seen
from tenants import freezing, scopes
from tenants.api import editions, http, problems, queries
from tenants.api.http import Name, Reason
from tenants.api.openapi import operation
from tenants.models import FROZEN_FEATURES_MAX, Environment
from usage.amounts import Per
from usage.api.key_view import KeyView


class FreezeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of it: a feature that is not named is not frozen any more."""

    environment: Annotated[bool, Meta(description="Block every call.")]
    features: Annotated[
        list[Name],
        Meta(
            max_length=FROZEN_FEATURES_MAX, description="Block the calls of these, named as calls name them."
        ),
    ]
    reason: Annotated[
        Reason,
        Meta(description="Needed if anything is frozen. What was frozen before keeps the reason it has."),
    ] = ""


class FrozenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`feature` null: the whole environment. `since` null: not known."""

    feature: str | None
    reason: str
    by: str
    since: datetime | None


class FreezeAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`environment` and `features` as `PUT` takes them; `frozen`: why, by whom and since when each is."""

    environment: bool
    features: tuple[str, ...]
    frozen: tuple[FrozenAnswer, ...]
    warnings: Annotated[
        tuple[str, ...],
        Meta(
            description="Of features that are frozen though no call and no policy named them: they may be misspelt. "
            "Left out if there are none."
        ),
    ] = ()


FREEZE_REQUEST = {"environment": False, "features": ["chat"], "reason": "The provider answers for minutes"}
FREEZE_ANSWER = {
    "environment": False,
    "features": ["chat"],
    "frozen": [
        {
            "feature": "chat",
            "reason": "The provider answers for minutes",
            "by": "key:0Jk3xPq9TzLm",
            "since": "2026-11-23T10:15:00Z",
        }
    ],
}
_asked = OpenApiExample("freeze", FREEZE_REQUEST, summary="Freeze one feature", request_only=True)
_frozen = OpenApiExample("frozen", FREEZE_ANSWER, summary="One feature is frozen", response_only=True)
_body = msgspec.json.Decoder(FreezeRequest)


class FreezeView(KeyView):
    scope = scopes.MANAGE

    @operation(
        "getFreeze",
        "What is frozen",
        tag="freeze",
        description="`ETag` is the revision, for `If-Match`.",
        query=queries.NoParameters,
        answers={200: FreezeAnswer},
        examples=[_frozen],
    )
    def get(self, request: Request) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        return _answered(Environment.objects.get(pk=self.environment_id))

    @operation(
        "setFreeze",
        "Freeze exactly this",
        tag="freeze",
        description="It binds the very next call. Sent again it changes nothing.",
        query=queries.NoParameters,
        body=FreezeRequest,
        answers={200: FreezeAnswer},
        problems=(412,),
        examples=[_asked, _frozen],
    )
    def put(self, request: Request) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        body = http.decode(request._request, _body)
        if (body.environment or body.features) and not body.reason.strip():
            raise problems.invalid_field("reason", "say why; colleagues read it on every page of the console")
        try:
            with editions.expected(request._request, self.environment_id) as environment:
                freezing.set_frozen(
                    environment,
                    frozen=body.environment,
                    features=body.features,
                    reason=body.reason,
                    actor=self.actor,
                )
        except ValidationError as error:
            raise problems.refused(error) from error
        environment = Environment.objects.select_related("tenant").get(pk=self.environment_id)
        unseen = seen.unseen(environment, Per.FEATURE, environment.frozen_features)
        return _answered(environment, warnings=tuple(each.says for each in unseen))


def _answered(environment: Environment, *, warnings: tuple[str, ...] = ()) -> HttpResponse:
    answer = FreezeAnswer(
        environment=environment.frozen,
        features=tuple(environment.frozen_features),
        frozen=tuple(
            FrozenAnswer(feature=each.feature or None, reason=each.reason, by=each.by, since=each.since)
            for each in freezing.in_force(environment)
        ),
        warnings=warnings,
    )
    return editions.tagged(http.json_response(answer), environment.pk)
