"""Who calls: a key as presented, checked against what this process knows of its environment instead of PostgreSQL.

What the process knows may be out of date. So whoever lets a caller in by it must have the counter store verify the
environment's revision before anything is held or recorded, and check the key again if another one is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import msgspec
from django.http import HttpRequest

from tenants import keys
from tenants.api import addresses, authentication, problems
from tenants.api.authentication import Credential


class KnowsKeys(Protocol):
    """An environment at one of its revisions, with its API keys by key id."""

    @property
    def credentials(self) -> Mapping[str, Credential]: ...


class Admits(Protocol):
    """Who calls, to be checked again against what is in force."""

    def credential(self, known: KnowsKeys) -> Credential: ...


Known = TypeVar("Known", bound=KnowsKeys)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    presented: keys.Presented
    address: str
    # What the key must be allowed to do.
    scope: str

    @classmethod
    def of(cls, request: HttpRequest, scope: str) -> Caller:
        """Raises Problem 401 without a well-formed key."""
        return cls(
            presented=authentication.presented(request),
            address=addresses.address_of(request),
            scope=scope,
        )

    def credential(self, known: KnowsKeys) -> Credential:
        """Raises Problem 401, 403."""
        found = known.credentials.get(self.presented.key_id)
        credential = authentication.check(found, self.presented.secret, self.address)
        credential.require(self.scope)
        return credential

    def admitted(
        self, of_key: Callable[[str], Known | None], latest: Callable[[Known], Known]
    ) -> tuple[Known, Credential]:
        """What the process knows, if that lets the caller in.

        Nothing verifies a refusal later, so it is made by what PostgreSQL says now: the key may be a new one. Raises
        Problem 401, 403.
        """
        # An unknown id is not remembered as one: a key is in force from its first call on, whoever tried its id before.
        # It costs a query each time, as a wrong secret of a known id does.
        known = of_key(self.presented.key_id)
        if known is None:
            raise authentication.unknown_key(self.presented.secret)
        try:
            return known, self.credential(known)
        except problems.Problem:
            known = latest(known)
            return known, self.credential(known)
