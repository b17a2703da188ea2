"""The API keys of an environment, over the API.

`GET` and `POST /v1/api-keys`, `GET` and `DELETE /v1/api-keys/{key_id}`, `POST /v1/api-keys/{key_id}/rotate`,
`DELETE /v1/api-keys/{key_id}/old-secret`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from django.core.exceptions import ValidationError
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample
from msgspec import Meta
from rest_framework.request import Request

from audit import log as audit_log
from tenants import scopes
from tenants.api import cursors, editions, http, problems, queries
from tenants.api.openapi import operation
from tenants.api.queries import PAGE_DEFAULT, CursorText, PageSize
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.models import NETWORK_LENGTH_MAX, ApiKey
from usage.api.key_view import KeyView
from usage.ledger.periods import Instant, checked

NETWORKS_MAX = 100
PER_MINUTE_MAX = 2**31 - 1
OLD_LASTS_MAX_S = 7 * 24 * 3600

_Network = Annotated[str, Meta(min_length=1, max_length=NETWORK_LENGTH_MAX, pattern=r"^[^\x00]+\Z")]
_Scope = Annotated[str, Meta(max_length=32, description=f"One of {', '.join(scopes.SCOPES)}.")]


class ApiKeyQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/api-keys`."""

    revoked: Annotated[bool, Meta(description="true: those that are, instead of those that are not.")] = False
    limit: PageSize = PAGE_DEFAULT
    cursor: CursorText | None = None


class ApiKeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Either a preset or scopes."""

    name: Annotated[str, Meta(min_length=1, max_length=TITLE_LENGTH_MAX, pattern=r"^[^\x00]+\Z")]
    preset: Literal["server", "viewer", "management"] | None = None
    scopes: list[_Scope] | None = None
    expires_at: Annotated[Instant | None, Meta(description="Without it: never.")] = None
    allowed_networks: Annotated[
        list[_Network],
        Meta(max_length=NETWORKS_MAX, description="Addresses or networks (10.0.0.0/8); none: from anywhere."),
    ] = []
    requests_per_minute: Annotated[
        Annotated[int, Meta(ge=1, le=PER_MINUTE_MAX)] | None,
        Meta(description="Without it: as many as it likes."),
    ] = None


class RotateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    old_ends_in_s: Annotated[
        int,
        Meta(
            ge=0,
            le=OLD_LASTS_MAX_S,
            description="How long the old secret still works; 0: not at all.",
        ),
    ]


class ApiKeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Never its secret. `old_secret_ends_at`: until when that of before the last rotation works, too."""

    key_id: str
    name: str
    scopes: tuple[str, ...]
    expires_at: Instant | None
    allowed_networks: tuple[str, ...]
    requests_per_minute: int | None
    created_at: Instant
    last_used_at: Instant | None
    old_secret_ends_at: Instant | None
    revoked_at: Instant | None


class IssuedKeyAnswer(ApiKeyAnswer, frozen=True, kw_only=True):
    """`key` is stored nowhere: it is in this answer alone."""

    key: str


class ApiKeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first."""

    api_keys: tuple[ApiKeyAnswer, ...]
    next_cursor: str | None


KEY_REQUEST = {"name": "chat-backend", "preset": "server", "requests_per_minute": 6000}
KEY_ANSWER = {
    "key_id": "0Jk3xPq9TzLm",
    "name": "chat-backend",
    "scopes": [*scopes.PRESETS["server"]],
    "expires_at": None,
    "allowed_networks": [],
    "requests_per_minute": 6000,
    "created_at": "2026-11-23T10:15:00Z",
    "last_used_at": None,
    "old_secret_ends_at": None,
    "revoked_at": None,
}
ISSUED_ANSWER = {**KEY_ANSWER, "key": "tv_prod_0Jk3xPq9TzLm_..."}
ROTATE_REQUEST = {"old_ends_in_s": 3600}
_asked = OpenApiExample("key", KEY_REQUEST, summary="For a server", request_only=True)
_rotating = OpenApiExample("rotate", ROTATE_REQUEST, summary="Both work for an hour", request_only=True)
_known = OpenApiExample("known", KEY_ANSWER, summary="A key", response_only=True)
_listed = OpenApiExample(
    "listed", {"api_keys": [KEY_ANSWER], "next_cursor": None}, summary="One key", response_only=True
)
_issued = OpenApiExample(
    "issued", ISSUED_ANSWER, summary="Its text, once", response_only=True, status_codes=["200", "201"]
)
_body = msgspec.json.Decoder(ApiKeyRequest)
_rotate_body = msgspec.json.Decoder(RotateRequest)
_path = {"key_id": "The part of a key after tv_<env>_."}


class _KeysView(KeyView):
    scope = scopes.MANAGE

    def _key(self, key_id: str) -> ApiKey:
        """Raises Problem 404, for one of another environment, too."""
        rows = ApiKey.objects.select_related("environment").filter(environment_id=self.environment_id)
        key = rows.filter(key_id=queries.path_name("key_id", key_id)).first()
        if key is None:
            raise problems.not_found("API key")
        return key

    def _may_give(self, wanted: Iterable[str]) -> None:
        """Raises Problem 403: nobody gets rights by a key that it does not have itself."""
        lacking = sorted({*wanted} - self.credential.scopes)
        if lacking:
            detail = f"An API key gives only scopes that it has itself; this one lacks {', '.join(lacking)}."
            raise problems.Problem(403, "INSUFFICIENT_SCOPE", detail)

    def _ended(self, request: Request, key_id: str, end: Callable[[ApiKey], object]) -> HttpResponse:
        """What ends a key or a secret of it answers the same however often it is asked."""
        queries.decode(request._request, queries.NoParameters)
        with audit_log.acting_as(self.actor), editions.expected(request._request, self.environment_id):
            end(self._key(key_id))
        return editions.tagged(HttpResponse(status=204), self.environment_id)

    def _issued(self, key: ApiKey, text: str, status: int) -> HttpResponse:
        answer = IssuedKeyAnswer(**msgspec.structs.asdict(_answer(key)), key=text)
        response = http.json_response(answer, status)
        response["Cache-Control"] = "no-store"
        return editions.tagged(response, self.environment_id)


class ApiKeysView(_KeysView):
    @operation(
        "listApiKeys",
        "The API keys of the environment",
        tag="API keys",
        description="Those that are not revoked, or with `revoked=true` those that are. `ETag` is the revision.",
        query=ApiKeyQuery,
        answers={200: ApiKeyPage},
        examples=[_listed],
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, ApiKeyQuery)
        found = ApiKey.objects.filter(
            environment_id=self.environment_id, revoked_at__isnull=not query.revoked
        )
        if query.cursor is not None:
            found = found.filter(TupleLessThan(Tuple("created_at", "id"), cursors.read(query.cursor)))
        page = cursors.page(
            found.order_by("-created_at", "-id"), query.limit, lambda key: (key.created_at, key.pk)
        )
        answer = ApiKeyPage(api_keys=tuple(map(_answer, page.rows)), next_cursor=page.next_cursor)
        return editions.tagged(http.json_response(answer), self.environment_id)

    @operation(
        "issueApiKey",
        "Make an API key",
        tag="API keys",
        description="`key` is its text; it is answered once. It may have no scope that yours lacks. Sent again it "
        "makes another one: `If-Match` keeps a retry from that.",
        query=queries.NoParameters,
        body=ApiKeyRequest,
        answers={201: IssuedKeyAnswer},
        problems=(412,),
        examples=[_asked, _issued],
    )
    def post(self, request: Request) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        body = http.decode(request._request, _body)
        wanted, expires_at = _scopes(body), _future(body.expires_at)
        self._may_give(wanted)
        try:
            with (
                audit_log.acting_as(self.actor),
                editions.expected(request._request, self.environment_id) as environment,
            ):
                key, text = ApiKey.issue(
                    environment,
                    body.name,
                    wanted,
                    expires_at=expires_at,
                    allowed_networks=body.allowed_networks,
                    requests_per_minute=body.requests_per_minute,
                )
        except ValidationError as error:
            raise problems.refused(error) from error
        return self._issued(key, text, 201)


class ApiKeyView(_KeysView):
    @operation(
        "getApiKey",
        "One API key, be it revoked",
        tag="API keys",
        path=_path,
        query=queries.NoParameters,
        answers={200: ApiKeyAnswer},
        problems=(404,),
        examples=[_known],
    )
    def get(self, request: Request, key_id: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        return editions.tagged(http.json_response(_answer(self._key(key_id))), self.environment_id)

    @operation(
        "revokeApiKey",
        "Revoke an API key",
        tag="API keys",
        description="It is refused from its next call on, which cannot be undone; your own, too. Again is no error.",
        path=_path,
        query=queries.NoParameters,
        answers={204: None},
        problems=(404, 412),
    )
    def delete(self, request: Request, key_id: str) -> HttpResponse:
        return self._ended(request, key_id, ApiKey.revoke)


class RotateView(_KeysView):
    @operation(
        "rotateApiKey",
        "Give an API key a new secret",
        tag="API keys",
        description="`key` is its new text; it is answered once. Only for a key without scopes that yours lacks.",
        path=_path,
        query=queries.NoParameters,
        body=RotateRequest,
        answers={200: IssuedKeyAnswer},
        problems=(404, 412),
        examples=[_rotating, _issued],
    )
    def post(self, request: Request, key_id: str) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        body = http.decode(request._request, _rotate_body)
        try:
            with audit_log.acting_as(self.actor), editions.expected(request._request, self.environment_id):
                key = self._key(key_id)
                self._may_give(key.scopes)
                lasts = timedelta(seconds=body.old_ends_in_s)
                text = key.rotate(old_ends_at=timezone.now() + lasts if lasts else None)
        except ValidationError as error:
            raise problems.refused(error) from error
        return self._issued(key, text, 200)


class OldSecretView(_KeysView):
    @operation(
        "endOldSecret",
        "End the old secret of an API key",
        tag="API keys",
        description="That of before the last rotation is refused from its next call on, whenever it would have ended. "
        "The new one goes on. Without an old secret that works it does nothing, which is no error.",
        path=_path,
        query=queries.NoParameters,
        answers={204: None},
        problems=(404, 412),
    )
    def delete(self, request: Request, key_id: str) -> HttpResponse:
        return self._ended(request, key_id, ApiKey.end_old_secret)


def _scopes(body: ApiKeyRequest) -> tuple[str, ...]:
    """Raises Problem 422."""
    if (body.preset is None) == (body.scopes is None):
        raise problems.invalid_field("scopes", f"give either these or a preset: {', '.join(scopes.PRESETS)}")
    if body.preset is not None:
        return scopes.PRESETS[body.preset]
    wanted = tuple(dict.fromkeys(body.scopes or ()))
    if not wanted or not {*wanted} <= {*scopes.SCOPES}:
        raise problems.invalid_field("scopes", f"give some of {', '.join(scopes.SCOPES)}")
    return wanted


def _future(at: datetime | None) -> datetime | None:
    """Raises Problem 422."""
    at = checked("expires_at", at)
    if at is not None and at <= timezone.now():
        raise problems.invalid_field("expires_at", "it must be in the future")
    return at


def _answer(key: ApiKey) -> ApiKeyAnswer:
    return ApiKeyAnswer(
        key_id=key.key_id,
        name=key.name,
        scopes=tuple(key.scopes),
        expires_at=key.expires_at,
        allowed_networks=tuple(key.allowed_networks),
        requests_per_minute=key.requests_per_minute,
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        old_secret_ends_at=key.previous_ends_at,
        revoked_at=key.revoked_at,
    )
