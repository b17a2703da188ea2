"""Lists the policies in force as a policy file writes them, with the id and version that decisions name."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from policies import policy_rows
from policies.files import documents
from policies.models import Policy
from tenants.api import cursors, problems
from tenants.api.queries import PAGE_DEFAULT, CursorText, PageSize


class PolicyQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`GET /v1/policies`."""

    limit: PageSize = PAGE_DEFAULT
    cursor: CursorText | None = None


class PublishedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`document` is the policy as in a policy file: what says nothing is left out, money is a decimal string."""

    id: UUID
    name: str
    version: int
    scope: str
    document: dict[str, Any]


class PolicyPage(msgspec.Struct, frozen=True, kw_only=True):
    """The policies in force, the oldest first: among equals it wins."""

    policies: tuple[PublishedPolicy, ...]
    next_cursor: str | None


def page(environment_id: int, query: PolicyQuery) -> PolicyPage:
    """Raises Problem 422."""
    found = Policy.objects.in_force(environment_id).prefetch_related("limits")
    if query.cursor is not None:
        _, ordinal = cursors.read(query.cursor)
        found = found.filter(ordinal__gt=ordinal)
    page = cursors.page(found, query.limit, lambda row: (row.created_at, row.ordinal))
    return PolicyPage(policies=tuple(map(_published, page.rows)), next_cursor=page.next_cursor)


def one(environment_id: int, policy_id: str) -> PublishedPolicy:
    """Raises Problem 404 for an id that is none, unknown, archived or of another environment."""
    try:
        row = Policy.objects.in_force(environment_id).get(pk=UUID(policy_id))
    except (ValueError, Policy.DoesNotExist) as error:
        raise problems.not_found("policy in force") from error
    return _published(row)


def _published(row: Policy) -> PublishedPolicy:
    rule = policy_rows.rule_of(row)
    return PublishedPolicy(
        id=row.pk,
        name=row.name,
        version=row.version,
        scope=rule.scope.label,
        document=documents.document(rule),
    )
