"""The HTTP API of policies: evaluate, reservations, limits, decisions, policies, end users."""
