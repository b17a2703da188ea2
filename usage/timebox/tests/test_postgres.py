"""Connections to a real server, and to one that takes what it is sent and never answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, close_old_connections, connection, connections, transaction
from django.test import override_settings

from usage.timebox import patience
from usage.timebox.gate import Gate
from usage.timebox.patience import Patience
from usage.timebox.postgres import connection as postgres
from usage.timebox.postgres.availability import Availability, PostgresAway
from usage.timebox.postgres.base import DatabaseWrapper
from usage.timebox.postgres.connection import TimedConnection
from usage.timebox.postgres.kept import KEPT_MAX

BUSY_MACHINE_S = 0.4
CHECKOUT = Path(__file__).resolve().parents[3]
HURRIED = Patience(statement_s=0.2, lock_s=0.1, idle_s=2)


@pytest.fixture(autouse=True)
def _close(transactional_db: None) -> Iterator[None]:
    yield
    connection.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """As of a server that hangs: the kernel takes connections and what is sent."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def hurried() -> Iterator[None]:
    connection.close()
    with override_settings(POSTGRES_PATIENCE=HURRIED):
        yield


def took_s(call: Callable[[], object], error: type[Exception] = OperationalError) -> float:
    begun = time.monotonic()
    with pytest.raises(error):
        call()
    return time.monotonic() - begun


def sleep(seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [seconds])


def answer(sql: str = "SELECT 1") -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    assert row is not None
    return row[0]


def is_open() -> bool:
    return postgres.availability._breaker.is_open


def test_a_block_ends_what_takes_longer_and_the_next_request_has_a_new_connection() -> None:
    backend = answer("SELECT pg_backend_pid()")

    with patience.within(0.2):
        assert 0.15 < took_s(lambda: sleep(5)) < 0.2 + BUSY_MACHINE_S

    close_old_connections()
    assert answer("SELECT pg_backend_pid()") != backend


def test_a_block_bounds_all_its_statements_together() -> None:
    def several() -> None:
        for _ in range(20):
            sleep(0.1)

    with patience.within(0.3):
        assert took_s(several) < 0.3 + BUSY_MACHINE_S


def test_when_the_time_is_over_nothing_is_asked_and_the_connection_stays() -> None:
    backend = answer("SELECT pg_backend_pid()")
    with patience.within(0.01):
        time.sleep(0.02)
        assert took_s(answer) < BUSY_MACHINE_S

    close_old_connections()
    assert answer("SELECT pg_backend_pid()") == backend


def test_a_transaction_whose_time_is_over_is_rolled_back() -> None:
    backend = answer("SELECT pg_backend_pid()")

    def too_slow() -> None:
        with transaction.atomic():
            answer()
            time.sleep(0.1)
            raise LookupError

    with patience.within(0.05):
        took_s(too_slow, LookupError)

    assert answer("SELECT pg_backend_pid()") == backend


def test_a_server_that_answers_ends_long_statements_and_waits_for_locks_itself(hurried: None) -> None:
    backend = answer("SELECT pg_backend_pid()")
    with closing(connections.create_connection("default")) as stranger:
        stranger.set_autocommit(False)
        with stranger.cursor() as cursor:
            cursor.execute("LOCK TABLE tenants_tenant")
        for _ in range(4):
            assert took_s(lambda: answer("SELECT count(*) FROM tenants_tenant")) < 0.1 + BUSY_MACHINE_S
        stranger.rollback()
    for _ in range(4):
        assert took_s(lambda: sleep(5)) < 0.2 + BUSY_MACHINE_S

    # It is there, and the connection too.
    assert not is_open()
    assert answer("SELECT pg_backend_pid()") == backend


def test_the_server_ends_a_transaction_that_lies_open(hurried: None) -> None:
    def lie_open() -> None:
        with transaction.atomic():
            answer()
            time.sleep(HURRIED.idle_s + BUSY_MACHINE_S)
            answer()

    took_s(lie_open)
    close_old_connections()
    assert answer() == 1


def test_a_thread_with_a_patience_of_its_own_tells_the_server() -> None:
    found: list[str] = []

    def ask() -> None:
        patience.give_thread(Patience(statement_s=77, lock_s=1, idle_s=1))
        found.append(answer("SHOW statement_timeout"))
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()

    assert found == ["77s"]


def test_a_connection_that_the_server_ended_is_noticed_without_asking() -> None:
    backend = answer("SELECT pg_backend_pid()")
    with closing(connections.create_connection("default")) as stranger, stranger.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])

    close_old_connections()
    assert answer("SELECT pg_backend_pid()") != backend


def in_a_thread(ask: Callable[[], object]) -> None:
    def run() -> None:
        try:
            ask()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_what_one_thread_closes_the_next_uses_and_a_patient_one_does_not() -> None:
    backends: list[int] = []
    patient = Patience(statement_s=77, lock_s=1, idle_s=1)

    def ask() -> None:
        backends.append(answer("SELECT pg_backend_pid()"))

    def ask_patiently() -> None:
        patience.give_thread(patient)
        ask()

    in_a_thread(ask)
    in_a_thread(ask)
    in_a_thread(ask_patiently)

    assert backends[0] == backends[1] != backends[2]


def test_a_connection_that_lies_in_a_transaction_is_not_kept() -> None:
    backends: list[int] = []

    def leave_open() -> None:
        connection.set_autocommit(False)
        backends.append(answer("SELECT pg_backend_pid()"))

    in_a_thread(leave_open)
    in_a_thread(lambda: backends.append(answer("SELECT pg_backend_pid()")))

    assert backends[0] != backends[1]


def test_only_a_few_are_kept() -> None:
    opened = [connections.create_connection("default") for _ in range(3 * KEPT_MAX)]
    for each in opened:
        each.ensure_connection()
    underlying = [each.connection for each in opened]
    for each in opened:
        each.close()

    assert sum(not each.closed for each in underlying) <= KEPT_MAX


def test_a_server_that_hangs_is_waited_for_in_vain_only_so_long(silent_port: int) -> None:
    params = {**DatabaseWrapper(connection.settings_dict).get_connection_params(), "port": silent_port}
    with patience.within(0.2):
        took = took_s(lambda: TimedConnection.connect(**params), PostgresAway)

    assert 0.15 < took < 0.2 + BUSY_MACHINE_S


def test_after_failures_in_a_row_callers_fail_at_once_until_it_answers_again() -> None:
    params = DatabaseWrapper(connection.settings_dict).get_connection_params()
    for opened in [TimedConnection.connect(**params) for _ in range(3)]:
        with patience.within(0.1):
            took_s(partial(opened.execute, "SELECT pg_sleep(5)"), PostgresAway)
    assert is_open()
    assert took_s(answer) < 0.1

    deadline = time.monotonic() + 0.5 + BUSY_MACHINE_S
    while is_open():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert answer() == 1


def test_one_thread_probes_and_callers_never_do() -> None:
    available = Availability()
    probes: list[str] = []
    away = threading.Event()
    away.set()

    def probe() -> None:
        probes.append(threading.current_thread().name)
        if away.is_set():
            raise psycopg.OperationalError("refused")

    for _ in range(3):
        available.failed("gone", probe)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        with pytest.raises(PostgresAway):
            available.require(probe)
        time.sleep(0.001)
    assert 1 <= len(probes) <= 4
    assert set(probes) == {"postgres-probe"}

    away.clear()
    time.sleep(0.5 + BUSY_MACHINE_S)
    available.require(probe)


def test_who_finds_no_place_to_wait_is_refused_at_once() -> None:
    gate = Gate(1, wait_s=0)
    gate.enter()

    with patience.within(10, gate):
        assert took_s(answer) < BUSY_MACHINE_S
    assert not is_open()


@pytest.mark.parametrize(
    ("module", "statement_timeout"), [("tokvigil_site.wsgi", "5s"), ("tokvigil_site.celery", "1h")]
)
def test_web_processes_are_in_a_hurry_and_the_worker_is_not(module: str, statement_timeout: str) -> None:
    code = (
        f"import {module}, django; django.setup()\n"
        "from django.db import connection\n"
        "with connection.cursor() as cursor:\n"
        "    cursor.execute('SHOW statement_timeout')\n"
        "    print(cursor.fetchone()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == statement_timeout


def test_what_the_address_says_of_the_connection_holds() -> None:
    known = {
        **connection.settings_dict,
        "OPTIONS": {"options": "-c statement_timeout=123", "sslmode": "prefer"},
    }
    params = DatabaseWrapper(known).get_connection_params()

    assert params["options"].endswith("-c statement_timeout=123")
    assert params["sslmode"] == "prefer"
    assert settings.DATABASES["default"]["OPTIONS"]["connect_timeout"] == 2
