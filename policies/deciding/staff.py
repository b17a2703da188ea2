"""Staff as callers of evaluate: they need no API key, for the console checks who may look into which environment."""

from __future__ import annotations

from policies.deciding import snapshot
from policies.deciding.evaluation import Admitted
from policies.deciding.snapshot import Snapshot
from tenants.api.authentication import Credential
from tenants.api.callers import KnowsKeys

_NO_KEY = Credential(
    id=0,
    key_id="",
    name="",
    environment_id=0,
    secret_hmac=b"",
    pepper_id="",
    scopes=frozenset(),
    expires_at=None,
    revoked=False,
    allowed_networks=(),
    requests_per_minute=None,
    edition="",
)


class _Staff:
    def credential(self, known: KnowsKeys) -> Credential:
        return _NO_KEY


def admitted(environment_id: int) -> Admitted:
    """To ask only what holds and records nothing. Raises OperationalError if PostgreSQL is away."""
    return with_snapshot(snapshot.current(environment_id))


def with_snapshot(known: Snapshot) -> Admitted:
    """As `admitted`, of an environment as it is supposed to be."""
    return Admitted(_Staff(), known, _NO_KEY)
