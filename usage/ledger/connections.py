"""Connections of the ledger's own: autocommit, statements prepared at their first use, none checked before it is used.

Django's connection is bound to a request and prepares nothing; both cost more than the statement that writes a report.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import OperationalError, connections
from psycopg.types.numeric import Int8BinaryDumper

from usage.timebox.postgres.availability import PostgresAway
from usage.timebox.postgres.connection import TimedConnection

Row = tuple[Any, ...]


class OutcomeUnknown(OperationalError):
    """The connection was lost before the answer came: the statement may have taken effect."""


class LedgerConnections:
    """Idle connections, the one used last on top. There are never more than threads that write at once."""

    def __init__(self, alias: str = "default") -> None:
        self._alias = alias
        self._idle: deque[TimedConnection] = deque()

    def execute(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        """One statement, which is one transaction; its rows. Raises Django's database errors; OutcomeUnknown.

        If the connection was lost, the statement may have taken effect; it is said once more over a new one, so only
        statements that change nothing the second time may be given.
        """
        with connections[self._alias].wrap_database_errors:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._said(self._connect(), statement, parameters)
            try:
                return self._said(connection, statement, parameters)
            except OutcomeUnknown as error:
                if isinstance(error.__cause__, PostgresAway):
                    raise
                # Those kept beside it are as old.
                self.close_idle()
                try:
                    return self._said(self._connect(), statement, parameters)
                except psycopg.OperationalError as again:
                    raise OutcomeUnknown(str(again)) from again

    def close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def forget(self) -> None:
        """In a forked child, whose parent uses them."""
        self._idle = deque()

    def _connect(self) -> TimedConnection:
        parameters = connections[self._alias].get_connection_params()
        # Django's adapters are for its models. Integers go as bigint whatever their size: a statement is prepared anew
        # for each combination of types.
        parameters |= {
            "autocommit": True,
            "prepare_threshold": 0,
            "cursor_factory": psycopg.Cursor,
            "context": None,
        }
        connection = TimedConnection.connect(**parameters)
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        return connection

    def _said(self, connection: TimedConnection, statement: str, parameters: Sequence[Any]) -> list[Row]:
        try:
            with connection.cursor(binary=True) as cursor:
                # The statements are written in this room; no input is part of one.
                rows = cursor.execute(statement, parameters).fetchall()
        except BaseException as error:
            if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
                connection.close()
            if not connection.closed:
                self._idle.append(connection)
            elif isinstance(error, psycopg.OperationalError):
                raise OutcomeUnknown(str(error)) from error
            raise
        self._idle.append(connection)
        return rows


ledger_connections = LedgerConnections()
os.register_at_fork(after_in_child=ledger_connections.forget)
