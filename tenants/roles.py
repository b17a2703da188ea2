"""What each role of a tenant may do. This table is all there is; the members page and docs/roles.md show it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from tenants.models import Role


class May(StrEnum):
    SEE = "see"
    SEE_AUDIT = "see_audit"
    EDIT_POLICIES = "edit_policies"
    EDIT_ALERTS = "edit_alerts"
    EDIT_END_USERS = "edit_end_users"
    EDIT_PRICES = "edit_prices"
    SAVE_VIEWS = "save_views"
    FREEZE = "freeze"
    EDIT_KEYS = "edit_keys"
    EDIT_ENVIRONMENTS = "edit_environments"
    EDIT_MEMBERS = "edit_members"
    EDIT_TENANT = "edit_tenant"


IN_WORDS: Mapping[May, str] = {
    May.SEE: "see policies, usage, blocked calls, keys and members",
    May.SEE_AUDIT: "see the audit log",
    May.EDIT_POLICIES: "change policies, plans, deployments and boosts",
    May.EDIT_ALERTS: "change alerts and where they go",
    May.EDIT_END_USERS: "change and block end users",
    May.EDIT_PRICES: "change the tenant's prices, and re-price calls by them",
    May.SAVE_VIEWS: "save and share views of the Explorer",
    May.FREEZE: "freeze and unfreeze",
    May.EDIT_KEYS: "issue, rotate and revoke API keys",
    May.EDIT_ENVIRONMENTS: "change environments, and compare and rebuild counters",
    May.EDIT_MEMBERS: "invite, change and remove members",
    May.EDIT_TENANT: "change the tenant's name and time zone",
}

_EDITOR = {
    May.SEE,
    May.EDIT_POLICIES,
    May.EDIT_ALERTS,
    May.EDIT_END_USERS,
    May.EDIT_PRICES,
    May.SAVE_VIEWS,
    May.FREEZE,
}

RIGHTS: Mapping[Role, frozenset[May]] = {
    Role.OWNER: frozenset(May),
    Role.ADMIN: frozenset(May) - {May.EDIT_MEMBERS, May.EDIT_TENANT},
    Role.EDITOR: frozenset(_EDITOR),
    Role.VIEWER: frozenset({May.SEE}),
    Role.AUDITOR: frozenset({May.SEE_AUDIT}),
}


def allows(role: str, what: May) -> bool:
    """Also of a role that is no longer one: it allows nothing."""
    return role in RIGHTS and what in RIGHTS[Role(role)]
