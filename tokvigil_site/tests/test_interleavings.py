"""Reports, rebuilds, estimates and outages that meet: however they interleave, each call is counted once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import psycopg
import pytest
from django.db import connection, connections

from audit import roles
from policies.deciding.evaluation import HOLD_MS
from tenants.models import Environment
from tokvigil_site.testing import (
    Answer,
    Api,
    apply_policies,
    assert_settled,
    at_once,
    later,
    ledger,
    limits,
)
from tokvigil_site.tests.applications import DAILY_1, used
from tokvigil_site.tests.servers import await_true
from usage.counting import settle
from usage.counting.store import StoreUnavailable, store
from usage.settling import catching_up, expiry, recount

STEPS = [
    "commit charge read seed",
    "commit read charge seed",
    "commit read seed charge",
    "read commit charge seed",
    "read commit seed charge",
    "read seed commit charge",
]


GATE = 0x676174
WAITS_AT_THE_GATE = f"""
    CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({GATE});
        RETURN NEW;
    END $$;
    CREATE TRIGGER waits_at_the_gate BEFORE INSERT ON usage_event
        FOR EACH ROW WHEN (NEW.request_id = 'slow') EXECUTE FUNCTION wait_at_the_gate();
"""
NO_GATE = "DROP TRIGGER waits_at_the_gate ON usage_event; DROP FUNCTION wait_at_the_gate()"
AT_THE_GATE = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"


@pytest.fixture
def gate(transactional_db: None) -> Iterator[Callable[[], None]]:
    """Closed: the row of request "slow" waits at it, in a transaction that has begun to write. Any thread opens it."""
    with roles.as_owner():
        execute(WAITS_AT_THE_GATE)
    holder = connections.create_connection("default")
    holder.inc_thread_sharing()
    with closing(holder), holder.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_lock({GATE})")
        yield partial(cursor.execute, "SELECT pg_advisory_unlock_all()")
    with roles.as_owner():
        execute(NO_GATE)


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def is_at_the_gate() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(AT_THE_GATE, [GATE])
        return bool(cursor.fetchone() != (0,))


class SlowReport:
    """A report that writes its row and waits at the gate to be told to commit; and then to charge."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch, open_gate: Callable[[], None]) -> None:
        self._open_gate = open_gate
        self._may_charge = threading.Event()
        self._reached = {"charge": threading.Event(), "end": threading.Event()}
        monkeypatch.setattr(settle, "settle_many", self._waiting(settle.settle_many))
        self._thread = threading.Thread(target=self._report, args=(api,))
        self._thread.start()
        deadline = time.monotonic() + 10
        while not is_at_the_gate():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def do(self, step: str) -> None:
        if step == "commit":
            self._open_gate()
            self._await("charge")
        else:
            self._may_charge.set()
            self._await("end")

    def _await(self, place: str) -> None:
        assert self._reached[place].wait(timeout=10), place

    def _waiting(self, charge: Any) -> Any:
        def waiting(*arguments: Any, **options: Any) -> Any:
            self._reached["charge"].set()
            assert self._may_charge.wait(timeout=10)
            return charge(*arguments, **options)

        return waiting

    def _report(self, api: Api) -> None:
        try:
            assert api.report("slow", input_tokens=7).status == 201
            self._reached["end"].set()
        finally:
            connections.close_all()


@pytest.mark.parametrize("order", STEPS)
def test_a_report_is_counted_once_however_it_meets_a_rebuild(
    api: Api,
    environment: Environment,
    gate: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    order: str,
) -> None:
    apply_policies(environment, limits("{metric: tokens, window: month, amount: 100, per: user}"))
    # Reports need the environment introduced to the store, not its counters.
    assert api.report("first", user="user_2", input_tokens=3).status == 201
    slow = SlowReport(api, monkeypatch, gate)
    before, _, after = order.partition("read")
    between, _, at_last = after.partition("seed")
    read = recount._sum

    def read_amid(*arguments: Any) -> Any:
        for step in before.split():
            slow.do(step)
        found = read(*arguments)
        for step in between.split():
            slow.do(step)
        return found

    monkeypatch.setattr(recount, "_sum", read_amid)
    assert api.evaluate(dry_run=True)["allowed"]
    for step in at_last.split():
        slow.do(step)

    assert used(api) == 7
    assert_settled(environment)


def test_a_rebuild_under_traffic_loses_and_doubles_nothing(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: month, amount: 60, per: environment}"))

    def call(number: int) -> bool:
        if number % 20 == 10:
            recount.rebuild(environment)
        decision = api.evaluate()
        return bool(decision["allowed"]) and api.report(decision["request_id"]).status == 201

    assert sum(at_once(100, call, threads=6)) == 60
    assert used(api) == len(ledger(environment)) == 60
    assert_settled(environment)


def test_a_pair_that_is_tracked_again_starts_from_the_ledger(api: Api, environment: Environment) -> None:
    daily, other = limits(DAILY_1), limits("{metric: tokens, window: month, amount: 1000, per: user}")
    apply_policies(environment, daily)
    assert used(api) == 0
    dropped = api.evaluate()["request_id"]
    assert api.request("DELETE", f"/v1/reservations/{dropped}").status == 204

    apply_policies(environment, other)
    api.use()
    apply_policies(environment, daily)

    assert recount.check(environment).drifts == ()
    assert not api.evaluate()["allowed"]
    assert_settled(environment)


def test_a_report_in_a_transaction_older_than_that_of_its_estimate_is_charged(
    api: Api, environment: Environment
) -> None:
    """A batch waits for a stranger's claim; meanwhile one of its calls expires and its estimate is charged."""
    apply_policies(
        environment, limits("{metric: tokens, window: month, amount: 1000, per: user}", on_unsettled="charge")
    )
    api.evaluate(request_id="c", input_tokens=40)
    later(milliseconds=HOLD_MS + 1)
    body = {"user_id": "user_1", "model": "test-model", "input_tokens": 5, "output_tokens": 0}
    batch = {"events": [{**body, "request_id": request_id} for request_id in ("a", "b", "c")]}
    answers: list[Answer] = []

    def report() -> None:
        try:
            answers.append(api.post("/v1/usage/batch", batch))
        finally:
            connections.close_all()

    known = connection.settings_dict
    place = {
        "host": known["HOST"],
        "port": known["PORT"],
        "user": known["USER"],
        "password": known["PASSWORD"],
    }
    with psycopg.connect(dbname=known["NAME"], **place) as stranger:
        stranger.execute(
            "INSERT INTO usage_request (environment_id, request_id, charged_at, generation)"
            " SELECT %s, 'b', now(), max(generation) FROM usage_request_generation",
            [environment.pk],
        )
        thread = threading.Thread(target=report)
        thread.start()
        await_true(lambda: waiting_for_locks() == 1, within_s=10)
        assert expiry.settle_expired(environment) == (0, 1)
        assert used(api) == 40
        stranger.rollback()
    thread.join(timeout=10)

    assert [result["status"] for result in answers[0].json["results"]] == ["recorded"] * 3
    assert used(api) == 15
    assert_settled(environment)


def waiting_for_locks() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def test_a_charge_that_a_store_away_missed_is_made_when_it_is_back(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(settle, "settle_many", away)
        assert api.report(request_id).status == 201
    catching_up.catch_up()

    assert used(api) == 1
    assert_settled(environment)


@pytest.mark.parametrize("ahead_s", [-5, 5])
def test_a_store_with_another_clock_costs_one_more_round_trip_once(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    apply_policies(environment, limits(DAILY_1))
    api.evaluate(dry_run=True)
    known = time.time_ns
    monkeypatch.setattr(store, "_ahead_ms", 0)
    monkeypatch.setattr(time, "time_ns", lambda: known() - ahead_s * 10**9)

    assert api.evaluate(dry_run=True)["allowed"]
    before = store.round_trips
    assert api.evaluate(dry_run=True)["allowed"]

    assert store.round_trips - before == 1
