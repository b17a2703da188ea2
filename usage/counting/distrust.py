"""Have every counter of an environment rebuilt from the ledger before its next use."""

from __future__ import annotations

from tenants.revisions import environment_key
from usage.counting.store import store


def distrust(environment_id: int) -> None:
    """Has every counter of the environment rebuilt from the ledger before its next use."""
    store.run("distrust", [environment_key(environment_id)], [])
