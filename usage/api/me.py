"""`GET /v1/me`: whom a key belongs to and what it may do."""

from __future__ import annotations

from typing import Literal

import msgspec
from django.http import HttpResponse
from rest_framework.request import Request

from tenants.api import http, queries
from tenants.api.authentication import Credential
from tenants.api.openapi import operation
from tenants.models import Environment
from usage.api.key_view import KeyView
from usage.ledger.periods import Instant


class TenantAnswer(msgspec.Struct, frozen=True, kw_only=True):
    slug: str
    name: str
    timezone: str


class EnvironmentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`default_action`: what happens to a call that no override policy matches."""

    slug: str
    frozen: bool
    default_action: Literal["allow", "block"]


class KeyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    key_id: str
    scopes: tuple[str, ...]
    expires_at: Instant | None


class MeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    tenant: TenantAnswer
    environment: EnvironmentAnswer
    key: KeyAnswer


class MeView(KeyView):
    @operation(
        "getMe",
        "Whom this key belongs to, and what it may do",
        tag="account",
        query=queries.NoParameters,
        answers={200: MeAnswer},
    )
    def get(self, request: Request) -> HttpResponse:
        queries.decode(request._request, queries.NoParameters)
        environment = Environment.objects.select_related("tenant").get(pk=self.environment_id)
        return http.json_response(_answer(environment, self.credential))


def _answer(environment: Environment, credential: Credential) -> MeAnswer:
    tenant = environment.tenant
    return MeAnswer(
        tenant=TenantAnswer(slug=tenant.slug, name=tenant.name, timezone=tenant.timezone),
        environment=EnvironmentAnswer(
            slug=environment.slug,
            frozen=environment.frozen,
            default_action=environment.default_action,  # type: ignore[arg-type]
        ),
        key=KeyAnswer(
            name=credential.name,
            key_id=credential.key_id,
            scopes=tuple(sorted(credential.scopes)),
            expires_at=credential.expires_at,
        ),
    )
