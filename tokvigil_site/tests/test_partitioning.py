"""Partitions are made and detached while somebody reads the ledger for long, as a backup does, and nobody waits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection

from audit import roles
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, ledger, limits
from tokvigil_site.tests.servers import CHECKOUT, WebApi, manage, session_variables, web_processes
from usage.ledger import partitions
from usage.ledger.writing import record
from usage.tests.test_ledger import report

LONG_AGO = datetime(2011, 7, 17, 12, tzinfo=UTC)
NAME = "usage_event_2011_07"
AHEAD = 30
# Without a reader they take some milliseconds; the machine is busy with the command itself.
REPORT_S_MAX = 1.5
EVALUATE_S_MAX = 0.5
COMMAND_TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def _drop_what_was_made(transactional_db: None) -> Iterator[None]:
    before = set(partitions.names())
    yield
    with roles.as_owner(), connection.cursor() as cursor:
        for name in {*partitions.names(), NAME} - before:
            cursor.execute(f"DROP TABLE IF EXISTS {name}")


@pytest.fixture
def web(api: Api, environment: Environment, tmp_path: Path) -> Iterator[WebApi]:
    """A web process that has answered before."""
    apply_policies(environment, limits("{metric: requests, window: month, amount: 1000, per: user}"))
    record([report(environment, "old", charged_at=LONG_AGO)])
    with web_processes(1, tmp_path, session_variables()) as (process,):
        found = WebApi(api, process.port)
        assert found.report("before").status == 201
        assert found.evaluate(dry_run=True)["allowed"]
        yield found


@pytest.fixture
def backup() -> Iterator[psycopg.Connection[Any]]:
    """A transaction that has read all of the ledger and is still open."""
    known = connection.settings_dict
    place = {key: known[key.upper()] for key in ("host", "port", "user", "password")}
    with psycopg.connect(dbname=known["NAME"], **place) as reading:
        reading.execute("SELECT count(*) FROM usage_event")
        reading.execute("SELECT count(*) FROM usage_request")
        yield reading


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "partition_usage", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **session_variables()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call_while(web: WebApi, running: subprocess.Popen[str]) -> tuple[float, float, int]:
    """The slowest report and evaluate, in seconds, until the command ends; and how many there were."""
    slowest_report = slowest_evaluate = 0.0
    count = 0
    ends_at = time.monotonic() + COMMAND_TIMEOUT_S
    while running.poll() is None:
        assert time.monotonic() < ends_at
        begun = time.monotonic()
        assert web.report(f"r-{count}").status == 201
        slowest_report = max(slowest_report, time.monotonic() - begun)
        begun = time.monotonic()
        assert web.evaluate(dry_run=True)["reason_code"] == "ALLOWED"
        slowest_evaluate = max(slowest_evaluate, time.monotonic() - begun)
        count += 1
        time.sleep(0.02)
    return slowest_report, slowest_evaluate, count


def test_partitions_are_made_while_the_ledger_is_read(
    web: WebApi, environment: Environment, backup: psycopg.Connection[Any]
) -> None:
    making = start("--months", str(AHEAD))
    slowest_report, slowest_evaluate, count = call_while(web, making)
    output, errors = making.communicate()

    print(f"slowest of {count}: report {slowest_report:.3f} s, evaluate {slowest_evaluate:.3f} s")
    assert making.returncode == 0, errors
    assert output.startswith("Made usage_event_")
    assert len(partitions.names()) >= AHEAD
    assert slowest_report < REPORT_S_MAX
    assert slowest_evaluate < EVALUATE_S_MAX
    assert len(ledger(environment)) == count + 2


def test_a_month_is_detached_while_it_is_read_and_is_gone_when_the_reader_is(
    web: WebApi, environment: Environment, backup: psycopg.Connection[Any]
) -> None:
    detaching = start("--detach", "2011-07")
    slowest_report, slowest_evaluate, count = call_while(web, detaching)
    _, errors = detaching.communicate()

    print(f"slowest of {count}: report {slowest_report:.3f} s, evaluate {slowest_evaluate:.3f} s")
    assert count > 50
    assert slowest_report < REPORT_S_MAX
    assert slowest_evaluate < EVALUATE_S_MAX
    assert detaching.returncode == 1
    assert "it leaves as soon as they are done" in errors
    assert NAME not in partitions.names()
    backup.rollback()

    manage("partition_usage", variables=session_variables())

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT request_id FROM {NAME}")  # noqa: S608
        assert cursor.fetchall() == [("old",)]
    assert len(ledger(environment)) == count + 1
