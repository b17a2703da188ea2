"""Alerts: what fires (conditions), once of each window (firing), and how it reaches an endpoint (delivering)."""
