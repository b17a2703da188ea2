"""The policies that were in force in a past period, one edition after the other, by the versions that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from policies import policy_rows
from policies.files import documents
from policies.models import PolicyVersion
from policies.replaying.simulation import Edition
from usage.instants import to_ms


def in_force(environment_id: int, start: datetime, end: datetime) -> list[Edition]:
    """Two queries."""
    return list(_editions(environment_id, start, end))


def _editions(environment_id: int, start: datetime, end: datetime) -> Iterator[Edition]:
    current = {policy.ref.id: policy for policy in policy_rows.in_force_before(environment_id, start)}
    yield Edition(0, tuple(current.values()))
    versions = PolicyVersion.objects.filter(
        policy__environment_id=environment_id, created_at__gte=start, created_at__lt=end
    )
    for version in versions.select_related("policy").order_by("created_at", "id"):
        policy_id = str(version.policy_id)
        if version.document is None:
            current.pop(policy_id, None)
        else:
            current[policy_id] = policy_rows.stored_at(version, documents.rule_of(version.document))
        yield Edition(to_ms(version.created_at), tuple(current.values()))
