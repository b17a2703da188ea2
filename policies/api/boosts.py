"""`GET /v1/boosts`; `GET`, `PUT` and `DELETE /v1/boosts/{boost_id}`."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import UUID

import msgspec
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample
from msgspec import Meta
from rest_framework.request import Request

from policies import boosts
from policies.api import boost_listing
from policies.api.boost_listing import BoostAnswer, BoostPage, BoostQuery
from policies.models import Boost
from tenants import scopes
from tenants.api import editions, http, problems, queries
from tenants.api.http import Reason
from tenants.api.openapi import operation
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from usage.amounts import Per
from usage.api.key_view import KeyView
from usage.ledger.periods import Instant
from usage.metrics import Metric
from usage.money import NANO, USD_TEXT_LENGTH_MAX, parse_usd
from usage.windows import Window

_Count = Annotated[int, Meta(ge=1, le=int(boosts.COUNT_EXTRA_MAX))]
_Usd = Annotated[str, Meta(max_length=USD_TEXT_LENGTH_MAX)]


class BoostRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    per: Annotated[
        Per, Meta(description="It raises the limits that are counted per this: not user_feature, not run.")
    ]
    subject: Annotated[
        str,
        Meta(
            max_length=NAME_LENGTH_MAX,
            pattern=r"^[^\x00]*\Z",
            description="The user_id, feature or plan; empty for the whole environment.",
        ),
    ] = ""
    metric: Metric
    window: Annotated[Window, Meta(description="For concurrency: total.")]
    extra: Annotated[
        Annotated[int, Meta(ge=1, le=int(boosts.COUNT_EXTRA_MAX))]
        | Annotated[str, Meta(max_length=USD_TEXT_LENGTH_MAX)],
        Meta(description='A whole number; for cost_usd a decimal string in USD, such as "2.50".'),
    ]
    starts_at: Annotated[Instant | None, Meta(description="Without it: at once.")] = None
    ends_at: Instant
    reason: Reason


BOOST_REQUEST = {
    "per": "user",
    "subject": "user_123",
    "metric": "requests",
    "window": "day",
    "extra": 20,
    "ends_at": "2026-11-30T00:00:00Z",
    "reason": "Trial week",
}
BOOST_ANSWER = {
    "boost_id": "6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f",
    **BOOST_REQUEST,
    "starts_at": None,
    "state": "running",
    "given_at": "2026-11-23T10:15:00Z",
    "given_by": "key:0Jk3xPq9TzLm",
    "ended_at": None,
    "ended_by": None,
}
_asked = OpenApiExample(
    "boost", BOOST_REQUEST, summary="20 requests a day more for a user", request_only=True
)
_given = OpenApiExample("given", BOOST_ANSWER, summary="It runs", response_only=True)
_listed = OpenApiExample(
    "listed", {"boosts": [BOOST_ANSWER], "next_cursor": None}, summary="One runs", response_only=True
)
_body = msgspec.json.Decoder(BoostRequest)
_path = {"boost_id": "A UUID that whoever gives the boost chooses."}


class BoostsView(KeyView):
    scope = scopes.MANAGE

    @operation(
        "listBoosts",
        "The boosts that run or are to come",
        tag="boosts",
        description="Those that end last first. `ended=true`: those that are over. `ETag` is the revision.",
        query=BoostQuery,
        answers={200: BoostPage},
        examples=[_listed],
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, BoostQuery)
        found = boost_listing.page(self.environment_id, query)
        return editions.tagged(http.json_response(found), self.environment_id)


class BoostView(KeyView):
    scope = scopes.MANAGE

    @operation(
        "getBoost",
        "One boost, be it over",
        tag="boosts",
        path=_path,
        query=queries.NoParameters,
        answers={200: BoostAnswer},
        problems=(404,),
        examples=[_given],
    )
    def get(self, request: Request, boost_id: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        return self._answered(boost_listing.one(self.environment_id, boost_id))

    @operation(
        "giveBoost",
        "Give a boost",
        tag="boosts",
        description="It binds the very next call, or the first one after its start. Sent again (200) it is not given "
        "twice, nor anew when it is over. A boost is never changed: end it, and give another.",
        path=_path,
        query=queries.NoParameters,
        body=BoostRequest,
        answers={201: BoostAnswer, 200: BoostAnswer},
        problems=(409, 412),
        examples=[_asked, _given],
    )
    def put(self, request: Request, boost_id: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        chosen = _uuid(boost_id)
        body = http.decode(request._request, _body)
        try:
            with editions.expected(request._request, self.environment_id) as environment:
                boost, is_new = boosts.give_once(_boost(environment, chosen, body), actor=self.actor)
        except ValidationError as error:
            raise problems.refused(error) from error
        except boosts.AlreadyGiven as error:
            raise problems.idempotency_conflict(str(chosen), "boost_id") from error
        boost.refresh_from_db()
        return self._answered(boost, status=201 if is_new else 200)

    @operation(
        "endBoost",
        "End a boost now",
        tag="boosts",
        description="From the very next call on the limits are the policies' again. Again changes nothing.",
        path=_path,
        query=queries.NoParameters,
        answers={204: None},
        problems=(404, 412),
    )
    def delete(self, request: Request, boost_id: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        with editions.expected(request._request, self.environment_id) as environment:
            boost = boost_listing.one(environment.pk, boost_id)
            boosts.end_now(boost.pk, environment, actor=self.actor)
        return editions.tagged(HttpResponse(status=204), self.environment_id)

    def _answered(self, boost: Boost, status: int = 200) -> HttpResponse:
        response = http.json_response(boost_listing.answer(boost), status)
        return editions.tagged(response, self.environment_id)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise problems.invalid_field("boost_id", "choose a UUID") from error


def _boost(environment: Environment, boost_id: UUID, body: BoostRequest) -> Boost:
    return Boost(
        environment=environment,
        boost_id=boost_id,
        per=body.per,
        subject=body.subject,
        metric=body.metric,
        window=body.window,
        extra=_extra(body),
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        reason=body.reason,
    )


def _extra(body: BoostRequest) -> Decimal:
    """Raises Problem 422."""
    if (body.metric is Metric.COST_USD) != isinstance(body.extra, str):
        wanted = 'a decimal string in USD such as "2.50"' if isinstance(body.extra, int) else "a whole number"
        raise problems.invalid_field("extra", f"write {wanted} for {body.metric}")
    if isinstance(body.extra, int):
        return Decimal(body.extra)
    try:
        return Decimal(parse_usd(body.extra)) / NANO
    except ValueError as error:
        raise problems.invalid_field("extra", str(error)) from error
