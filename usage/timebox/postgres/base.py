"""Django's backend for PostgreSQL on `TimedConnection`s. A thread keeps its connection for `CONN_MAX_AGE`."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base
from django.db.backends.postgresql.psycopg_any import IsolationLevel

from usage.timebox import patience
from usage.timebox.patience import GRACE_S, Patience
from usage.timebox.postgres.connection import TimedConnection


class DatabaseWrapper(base.DatabaseWrapper):
    connection: TimedConnection | None

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        bearing = patience.of_thread()
        # What the address itself says holds.
        params["options"] = f"{_server_options(bearing)} {params.get('options', '')}"
        params["patience_s"] = bearing.statement_s + GRACE_S
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> TimedConnection:
        self.isolation_level = IsolationLevel.READ_COMMITTED
        return TimedConnection.connect(**conn_params)

    def is_usable(self) -> bool:
        """Without asking the server."""
        return self.connection is not None and self.connection.is_alive


def _server_options(bearing: Patience) -> str:
    limits_s = {
        "statement_timeout": bearing.statement_s,
        "lock_timeout": bearing.lock_s,
        "idle_in_transaction_session_timeout": bearing.idle_s,
    }
    return " ".join(f"-c {name}={round(limit_s * 1000)}" for name, limit_s in limits_s.items())
