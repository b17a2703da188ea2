"""What an API key may do."""

EVALUATE = "evaluate"
USAGE_WRITE = "usage:write"
USAGE_READ = "usage:read"
POLICIES_READ = "policies:read"
END_USERS_WRITE = "end_users:write"

SCOPES = (EVALUATE, USAGE_WRITE, USAGE_READ, POLICIES_READ, END_USERS_WRITE)

PRESETS = {
    "server": (EVALUATE, USAGE_WRITE, USAGE_READ, POLICIES_READ),
    "viewer": (USAGE_READ, POLICIES_READ),
    "management": SCOPES,
}
