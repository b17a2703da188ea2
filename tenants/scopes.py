"""What an API key may do."""

from collections.abc import Iterable

EVALUATE = "evaluate"
USAGE_WRITE = "usage:write"
USAGE_READ = "usage:read"
POLICIES_READ = "policies:read"
END_USERS_WRITE = "end_users:write"
# Policies, plans, boosts, freezes, keys and prices.
MANAGE = "manage"

SCOPES = (EVALUATE, USAGE_WRITE, USAGE_READ, POLICIES_READ, END_USERS_WRITE, MANAGE)

IN_WORDS = {
    EVALUATE: "ask before calls",
    USAGE_WRITE: "report usage",
    USAGE_READ: "read usage, limits and decisions",
    POLICIES_READ: "read policies and prices",
    END_USERS_WRITE: "change end users",
    MANAGE: "change policies, boosts, freezes, keys and prices",
}

PRESETS = {
    "server": (EVALUATE, USAGE_WRITE, USAGE_READ, POLICIES_READ),
    "viewer": (USAGE_READ, POLICIES_READ),
    "management": SCOPES,
}

PRESET_TITLES = {"server": "Server", "viewer": "Viewer", "management": "Management"}


def in_words(scopes: Iterable[str]) -> str:
    return ", ".join(IN_WORDS.get(scope, scope) for scope in scopes)


def title(scopes: Iterable[str]) -> str:
    """Of the preset that has exactly these."""
    asked = set(scopes)
    return next((PRESET_TITLES[name] for name, preset in PRESETS.items() if set(preset) == asked), "Custom")
