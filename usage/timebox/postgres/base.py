"""Django's backend for PostgreSQL on `TimedConnection`s. What one thread closes is kept for the next."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql import base
from django.db.backends.postgresql.psycopg_any import IsolationLevel

from usage.timebox import patience
from usage.timebox.patience import GRACE_S, Patience
from usage.timebox.postgres.connection import TimedConnection
from usage.timebox.postgres.kept import kept


class DatabaseWrapper(base.DatabaseWrapper):
    connection: TimedConnection | None
    _made_with: dict[str, Any]

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        bearing = patience.of_thread()
        # What the address itself says holds.
        params["options"] = f"{_server_options(bearing)} {params.get('options', '')}"
        params["patience_s"] = bearing.statement_s + GRACE_S
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> TimedConnection:
        self.isolation_level = IsolationLevel.READ_COMMITTED
        self._made_with = conn_params
        return kept.take(conn_params) or TimedConnection.connect(**conn_params)

    def _close(self) -> None:
        if self.connection is None:
            return
        with self.wrap_database_errors:
            if self.alias == NO_DB_ALIAS:
                self.connection.close()
            else:
                kept.give_back(self.connection, self._made_with)

    def close_pool(self) -> None:
        """Django's own word: before a database is dropped, for instance."""
        kept.close_all()

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
