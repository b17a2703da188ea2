"""Who asks for a decision, checked against the snapshot instead of PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

from policies import snapshot
from policies.snapshot import Snapshot
from tenants import keys, scopes
from tenants.api import authentication, problems
from tenants.api.authentication import Credential


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: the key as presented, checked anew whenever the environment changed."""

    presented: keys.Presented
    address: str
    # What the key must be allowed to do.
    scope: str = scopes.EVALUATE

    def admitted(self) -> tuple[Snapshot, Credential]:
        """What the process knows, if that lets the caller in: then the reserve script verifies it.

        Nothing verifies a refusal later, so it is made by what PostgreSQL says now: the key may be a new one.
        """
        known = snapshot.of_key(self.presented.key_id)
        if known is None:
            raise problems.invalid_api_key()
        try:
            return known, self.credential(known)
        except problems.Problem:
            known = snapshot.latest(known)
            return known, self.credential(known)

    def credential(self, known: Snapshot) -> Credential:
        found = known.credentials.get(self.presented.key_id)
        credential = authentication.check(found, self.presented.secret, self.address)
        credential.require(self.scope)
        return credential
