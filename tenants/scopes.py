"""What an API key may do."""

EVALUATE = "evaluate"
USAGE_WRITE = "usage:write"
USAGE_READ = "usage:read"
POLICIES_READ = "policies:read"
END_USERS_WRITE = "end_users:write"
# Policies, plans, boosts, freezes, keys and prices.
MANAGE = "manage"

SCOPES = (EVALUATE, USAGE_WRITE, USAGE_READ, POLICIES_READ, END_USERS_WRITE, MANAGE)

PRESETS = {
    "server": (EVALUATE, USAGE_WRITE, USAGE_READ, POLICIES_READ),
    "viewer": (USAGE_READ, POLICIES_READ),
    "management": SCOPES,
}
