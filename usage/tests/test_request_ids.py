"""Request ids: taken once over all months and generations, and in bounded space."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from threading import Barrier, Event
from typing import Any

import pytest
from django.db import connection, connections, transaction

from audit import roles
from tenants.models import Environment
from usage.ledger import request_ids, writing
from usage.ledger.connections import ledger_connections
from usage.ledger.months import month_of, next_month
from usage.ledger.reading import Recorded
from usage.ledger.writing import Conflicting
from usage.tests.test_ledger import estimate, in_threads, one, report, rows

NOW = datetime.now(UTC)
THIS_MONTH = month_of(NOW)
NEXT_MONTH = next_month(THIS_MONTH)
MONTH_AFTER = next_month(NEXT_MONTH)


def at(month: date) -> datetime:
    return datetime(month.year, month.month, 2, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _as_before(transactional_db: None) -> Iterator[None]:
    yield
    with roles.as_owner(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM usage_request_generation WHERE generation > %s", [THIS_MONTH])
        for month in (NEXT_MONTH, MONTH_AFTER):
            cursor.execute(f"DROP TABLE IF EXISTS usage_request_{month:%Y_%m}")


def names() -> list[str]:
    return [each.name for each in request_ids.TABLE.partitions()]


def generation_of(environment: Environment, request_id: str) -> list[date]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT generation FROM usage_request WHERE environment_id = %s AND request_id = %s",
            [environment.pk, request_id],
        )
        return [generation for (generation,) in cursor.fetchall()]


def claim(environment: Environment, request_id: str) -> None:
    """As the ledger's statement does, in the transaction under way."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO usage_request (environment_id, request_id, body_digest, charged_at, generation)
            SELECT claim.*, {request_ids.GENERATION}
            FROM (VALUES (%s::bigint, %s, %s::bytea, now()))
                 AS claim (environment_id, request_id, body_digest, charged_at)
            WHERE {request_ids.NOT_TAKEN} ON CONFLICT DO NOTHING
            """,  # noqa: S608 (our own text)
            [environment.pk, request_id, sha256(b"body").digest()],
        )


def await_waiting_turn() -> None:
    ends_at = time.monotonic() + 20
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE relation = 'usage_request'::regclass AND NOT granted"
            )
            if cursor.fetchone() != (0,):
                return
            assert time.monotonic() < ends_at, "the turn does not wait"
            time.sleep(0.01)


def test_a_new_month_begins_a_generation_once(environment: Environment) -> None:
    one(report(environment, "old"))

    assert request_ids.turn(at(NEXT_MONTH))
    assert not request_ids.turn(at(NEXT_MONTH))

    one(report(environment, "new"))
    assert generation_of(environment, "old") == [THIS_MONTH]
    assert generation_of(environment, "new") == [NEXT_MONTH]


def test_an_id_of_an_older_generation_is_still_taken(environment: Environment) -> None:
    one(report(environment, "r-1"))
    one(estimate(environment, "r-2"))
    request_ids.turn(at(NEXT_MONTH))
    request_ids.turn(at(MONTH_AFTER))

    again = one(report(environment, "r-1"))
    assert isinstance(again, Recorded)
    assert again.duplicate
    assert isinstance(one(report(environment, "r-1", body_digest=sha256(b"other").digest())), Conflicting)
    late = one(report(environment, "r-2"))
    assert isinstance(late, Recorded)
    assert not late.duplicate
    assert [row.status for row in rows(environment, "r-2")] == ["unsettled", "succeeded", "reversal"]
    assert len(rows(environment, "r-1")) == 1


def test_a_claim_under_way_while_the_generation_turns_is_not_overlooked(environment: Environment) -> None:
    """The claim of the old generation is not committed when the one of the new generation looks for it."""
    claimed, commit = Event(), Event()

    def slow() -> None:
        try:
            with transaction.atomic():
                claim(environment, "r-1")
                claimed.set()
                assert commit.wait(timeout=30)
        finally:
            connections.close_all()

    def turn() -> None:
        try:
            request_ids.turn(at(NEXT_MONTH))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slow)
        assert claimed.wait(timeout=30)
        turning = pool.submit(turn)
        await_waiting_turn()
        # While the turn waits, other ids can be claimed: it lets go again and again.
        for number in range(3):
            one(report(environment, f"other-{number}"))
        assert not turning.done()
        assert request_ids.current() == THIS_MONTH
        commit.set()
        first.result()
        turning.result()

    assert request_ids.current() == NEXT_MONTH
    claim(environment, "r-1")
    assert generation_of(environment, "r-1") == [THIS_MONTH]


def test_many_writers_of_the_same_ids_across_a_turn_write_each_once(environment: Environment) -> None:
    writers = 6
    barrier = Barrier(writers)

    def work(number: int) -> int:
        new = 0
        for turn in range(40):
            barrier.wait(timeout=60)
            if number == 0 and turn == 20:
                request_ids.turn(at(NEXT_MONTH))
                continue
            outcome = one(report(environment, f"r-{turn}"))
            assert isinstance(outcome, Recorded)
            new += not outcome.duplicate
        return new

    assert sum(in_threads(writers, work)) == 40
    assert len(rows(environment)) == 40
    assert request_ids.current() == NEXT_MONTH


def test_a_generation_goes_70_days_after_its_last_claim_and_not_before(environment: Environment) -> None:
    one(report(environment, "r-1"))
    request_ids.turn(at(NEXT_MONTH))
    kept = names()
    # The tests' clock cannot be moved: the turn was now, and it is looked at from then.
    assert request_ids.drop_old(datetime.now(UTC) + timedelta(days=69, hours=23)) == []
    assert names() == kept
    try:
        gone = request_ids.drop_old(datetime.now(UTC) + timedelta(days=70, minutes=1))

        assert gone == [f"usage_request_{THIS_MONTH:%Y_%m}"]
        assert names() == [f"usage_request_{NEXT_MONTH:%Y_%m}"]
        assert generation_of(environment, "r-1") == []
        assert request_ids.drop_old(datetime.now(UTC) + timedelta(days=70, minutes=1)) == []
    finally:
        _begin_anew()


def test_a_drop_that_died_half_way_is_ended_by_the_next(environment: Environment) -> None:
    one(report(environment, "r-1"))
    request_ids.turn(at(NEXT_MONTH))
    name = f"usage_request_{THIS_MONTH:%Y_%m}"
    with roles.as_owner():
        request_ids.TABLE.detach(name)
    try:
        assert request_ids.drop_old(datetime.now(UTC) + timedelta(days=71)) == [name]
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s)", [name])
            assert cursor.fetchone() == (None,)
    finally:
        _begin_anew()


def _begin_anew() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM usage_request_generation")
    request_ids.turn(NOW)


def test_a_batch_looks_its_ids_up_however_few_rows_there_were_when_it_was_planned(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is kept, and the rows become millions."""
    writing.record([report(environment, f"r-{number}") for number in range(500)])
    with roles.as_owner(), connection.cursor() as cursor:
        cursor.execute("ANALYZE usage_request")
    execute = ledger_connections.execute
    plan: list[str] = []

    def explained(statement: str, parameters: Sequence[Any]) -> list[Any]:
        plan.extend(str(line) for (line,) in execute(f"EXPLAIN {statement}", parameters))
        return execute(statement, parameters)

    monkeypatch.setattr(ledger_connections, "execute", explained)
    writing.record([report(environment, f"r-{number}") for number in range(250, 750)])

    assert any("Index Only Scan using usage_request" in line for line in plan)
    assert not any("Seq Scan on usage_request_2" in line for line in plan)
