"""`POST /v1/reservations/{request_id}/extend` and `DELETE /v1/reservations/{request_id}`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from tenants import scopes
from tenants.api import http, problems
from tenants.api.openapi import operation
from usage.api.key_view import KeyView
from usage.counting.extend import extend
from usage.counting.release import AlreadyCharged, NotOpen, release
from usage.counting.store import StoreUnavailable
from usage.limit_state import instant

EXTEND_DEFAULT_S = 600
EXTEND_MAX_S = 24 * 3600


class ExtendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long the hold shall last from now on."""

    seconds: Annotated[int, msgspec.Meta(ge=1, le=EXTEND_MAX_S)] = EXTEND_DEFAULT_S


class ReservationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    expires_at: datetime


_extend = msgspec.json.Decoder(ExtendRequest)
_path = {"request_id": "As evaluated; percent-encoded, slashes included."}


class ReservationView(KeyView):
    scope = scopes.EVALUATE

    @operation(
        "releaseReservation",
        "Drop the hold of a call that never went out",
        tag="evaluate",
        path=_path,
        answers={204: None},
        problems=(404, 409),
    )
    def delete(self, request: Request, request_id: str) -> HttpResponse:
        """Releases the hold; repeating it is no error. 409 if the call was reported: its hold has ended."""
        try:
            release(self.environment_id, request_id)
        except NotOpen as error:
            raise problems.not_found("open reservation") from error
        except AlreadyCharged as error:
            raise problems.already_settled("The call was reported; its hold has ended.") from error
        except StoreUnavailable as error:
            raise problems.unavailable("The counter store") from error
        return HttpResponse(status=204)


class ExtendView(ReservationView):
    """Addresses that end in `/extend`. POST extends a hold. DELETE releases the request whose id ends in `/extend`."""

    @operation(
        "extendReservation",
        "Keep the hold of a long call",
        tag="evaluate",
        path=_path,
        body=ExtendRequest,
        answers={200: ReservationAnswer},
        problems=(404,),
    )
    def post(self, request: Request, request_id: str) -> HttpResponse:
        body = http.decode(request._request, _extend) if http.has_body(request._request) else ExtendRequest()
        try:
            deadline_ms = extend(self.environment_id, request_id, body.seconds * 1000)
        except NotOpen as error:
            raise problems.not_found("open reservation") from error
        except StoreUnavailable as error:
            raise problems.unavailable("The counter store") from error
        expires_at = instant(deadline_ms)
        assert expires_at is not None
        return http.json_response(ReservationAnswer(request_id=request_id, expires_at=expires_at))

    @extend_schema(exclude=True)
    def delete(self, request: Request, request_id: str) -> HttpResponse:
        return super().delete(request, f"{request_id}/extend")
