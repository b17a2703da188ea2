"""Who calls: the key behind `Authorization: Bearer tv_...`, and what it may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from tenants import keys, last_used, refusals
from tenants.api import addresses, problems
from tenants.api.addresses import Network
from tenants.models import ApiKey
from tenants.refusals import Refusal

BEARER = "bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """An API key without the database, as snapshots keep it."""

    id: int
    key_id: str
    name: str
    environment_id: int
    secret_hmac: bytes
    pepper_id: str
    # Of before the last rotation, accepted until it ends.
    previous_hmac: bytes | None = None
    previous_pepper_id: str = ""
    previous_ends_at: datetime | None = None
    scopes: frozenset[str]
    expires_at: datetime | None
    revoked: bool
    allowed_networks: tuple[Network, ...]
    requests_per_minute: int | None
    # The environment's when the key was read.
    edition: str

    @classmethod
    def of(cls, key: ApiKey) -> Credential:
        """Reads self.environment, which may cause a query."""
        return cls(
            id=key.pk,
            key_id=key.key_id,
            name=key.name,
            environment_id=key.environment_id,
            secret_hmac=bytes(key.secret_hmac),
            pepper_id=key.pepper_id,
            previous_hmac=None if key.previous_hmac is None else bytes(key.previous_hmac),
            previous_pepper_id=key.previous_pepper_id,
            previous_ends_at=key.previous_ends_at,
            scopes=frozenset(key.scopes),
            expires_at=key.expires_at,
            revoked=key.revoked_at is not None,
            allowed_networks=tuple(map(addresses.parse_network, key.allowed_networks)),
            requests_per_minute=key.requests_per_minute,
            edition=key.environment.edition,
        )

    def refusal(self, secret: str, address: str, now: datetime) -> Refusal | None:
        """Why the caller is refused; None: it is let in."""
        if self.revoked:
            return Refusal.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return Refusal.EXPIRED
        if self.allowed_networks and not addresses.is_in(address, self.allowed_networks):
            return Refusal.ADDRESS
        return None if self._is_proved_by(secret, now) else Refusal.SECRET

    def old_hmac_of(self, secret: str) -> bytes | None:
        """Of the old secret, if it is this one, which is known to be one of the two."""
        if self.previous_hmac is None or keys.proves(secret, self.pepper_id, self.secret_hmac):
            return None
        return self.previous_hmac

    def _is_proved_by(self, secret: str, now: datetime) -> bool:
        if keys.proves(secret, self.pepper_id, self.secret_hmac):
            return True
        if self.previous_hmac is None or self.previous_ends_at is None or self.previous_ends_at <= now:
            return False
        return keys.proves(secret, self.previous_pepper_id, self.previous_hmac)

    def require(self, scope: str) -> None:
        if scope not in self.scopes:
            refusals.note(self.environment_id, self.id, Refusal.SCOPE)
            raise problems.insufficient_scope(scope)


def key_in(environ: Mapping[str, Any]) -> keys.Presented | None:
    """The key that a request's WSGI environ carries; None if there is none of a key's form."""
    header = environ.get("HTTP_AUTHORIZATION", "")
    return keys.parse(header[len(BEARER) :]) if header[: len(BEARER)].lower() == BEARER else None


def presented(request: HttpRequest) -> keys.Presented:
    """The key the caller sent. Raises Problem 401."""
    found = key_in(request.META)
    if found is None:
        raise problems.invalid_api_key()
    return found


def check(credential: Credential | None, secret: str, address: str) -> Credential:
    """The credential if the caller proved it. Raises Problem 401, the same for every cause."""
    if credential is None:
        raise unknown_key(secret)
    if refusal := credential.refusal(secret, address, timezone.now()):
        refusals.note(credential.environment_id, credential.id, refusal)
        raise problems.invalid_api_key()
    last_used.note(credential.id, old_hmac=credential.old_hmac_of(secret))
    return credential


def unknown_key(secret: str) -> problems.Problem:
    """A Problem 401, after the work of checking a known key: the time does not reveal which ids exist."""
    keys.proves_nothing(secret)
    return problems.invalid_api_key()


def find(key_id: str) -> Credential | None:
    """The key as it is now; one query."""
    key = ApiKey.objects.select_related("environment").filter(key_id=key_id).first()
    return None if key is None else Credential.of(key)


def credential_of(request: Request) -> Credential:
    """The credential that ApiKeyAuthentication found."""
    credential: Any = request.auth
    assert isinstance(credential, Credential)
    return credential


class ApiKeyAuthentication(BaseAuthentication):
    """Reads the key from PostgreSQL on each call, so a revoked one is refused on its next. Sets `request.auth`.

    Evaluate authenticates against its snapshot instead (policies/deciding/evaluation.py).
    """

    def authenticate(self, request: Request) -> tuple[None, Credential]:
        found = presented(request._request)
        return None, check(find(found.key_id), found.secret, addresses.address_of(request._request))

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HasScope(BasePermission):
    """The view names the scope it needs: `scope = "usage:read"`, or None for any key."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if view.scope is not None:
            credential_of(request).require(view.scope)
        return True
