"""The ledger: each request once, across months and writers, and never changed afterwards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Barrier
from typing import Any, TypeVar

import msgspec
import pytest
from django.db import DatabaseError, DataError, OperationalError, connection, connections, transaction

from tenants.models import Environment
from usage.amounts import Amounts, Subjects
from usage.ledger import partitions
from usage.ledger.connections import ledger_connections
from usage.ledger.models import Status
from usage.ledger.reading import Recorded
from usage.ledger.rows import NewEvent
from usage.ledger.writing import Conflicting, Outcome, digest_of, record
from usage.models import UsageEvent
from usage.settling.usage_report import UsageReport
from usage.timebox import patience

T = TypeVar("T")


def report(
    environment: Environment, request_id: str, *, cost_nano: int | None = 300, **fields: Any
) -> NewEvent:
    made = NewEvent(
        environment_id=environment.pk,
        request_id=request_id,
        body_digest=sha256(b"body").digest(),
        charged_at=datetime.now(UTC),
        occurred_at=None,
        subjects=Subjects(user_id="ann", feature="chat", plan="pro", run_id="run-9"),
        model="gpt-5",
        provider="openai",
        status=Status.SUCCEEDED,
        used=Amounts(1, 10, 20, cost_nano or 0),
        priced=cost_nano is not None,
    )
    return msgspec.structs.replace(made, **fields)


def estimate(
    environment: Environment, request_id: str, *, cost_nano: int | None = 1000, **fields: Any
) -> NewEvent:
    made = report(
        environment, request_id, cost_nano=cost_nano, body_digest=None, status=Status.UNSETTLED, **fields
    )
    return msgspec.structs.replace(made, used=Amounts(1, 10, 100, cost_nano or 0))


def rows(environment: Environment, request_id: str | None = None) -> list[UsageEvent]:
    found = UsageEvent.objects.filter(environment=environment).order_by("id")
    return list(found if request_id is None else found.filter(request_id=request_id))


def recorded(outcome: Outcome) -> Recorded:
    assert isinstance(outcome, Recorded), outcome
    return outcome


def one(made: NewEvent) -> Outcome:
    return record([made])[0]


def total(environment: Environment, request_id: str) -> Amounts:
    amounts = [row.amounts for row in rows(environment, request_id)]
    return Amounts(
        sum(each.requests for each in amounts),
        sum(each.input_tokens for each in amounts),
        sum(each.output_tokens for each in amounts),
        sum(each.cost_nano for each in amounts),
    )


def in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    barrier = Barrier(count)

    def run(number: int) -> T:
        barrier.wait(timeout=10)
        try:
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=count) as pool:
        return list(pool.map(run, range(count)))


class TestOnce:
    def test_a_row_says_what_was_reported(self, environment: Environment) -> None:
        outcome = recorded(one(report(environment, "r-1", metadata={"team": "a"}, latency_ms=12)))
        (row,) = rows(environment)

        assert not outcome.duplicate
        assert (row.request_id, row.user_id, row.feature, row.plan, row.run_id) == (
            "r-1",
            "ann",
            "chat",
            "pro",
            "run-9",
        )
        assert row.amounts == Amounts(1, 10, 20, 300)
        assert (row.metadata, row.latency_ms) == ({"team": "a"}, 12)
        assert [movement.amounts for movement in outcome.movements] == [row.amounts]
        assert [movement.xid for movement in outcome.movements] == [row.xid]
        assert outcome.recorded_at == row.recorded_at

    def test_the_same_again_changes_nothing_and_is_answered_as_the_first(
        self, environment: Environment
    ) -> None:
        first = recorded(one(report(environment, "r-1")))
        later = report(environment, "r-1", charged_at=datetime.now(UTC) + timedelta(days=1), cost_nano=999)

        again = recorded(one(later))

        assert again.duplicate
        assert len(rows(environment)) == 1
        assert (again.movements, again.recorded_at) == (first.movements, first.recorded_at)
        assert (again.cost_nano, again.charged_at) == (300, first.charged_at)

    def test_another_body_is_a_conflict_and_changes_nothing(self, environment: Environment) -> None:
        one(report(environment, "r-1"))

        outcome = one(report(environment, "r-1", body_digest=sha256(b"other").digest()))

        assert isinstance(outcome, Conflicting)
        assert len(rows(environment)) == 1

    @pytest.mark.parametrize("away", [timedelta(days=-20), timedelta(days=40), timedelta(days=400)])
    def test_once_means_once_across_months(self, environment: Environment, away: timedelta) -> None:
        one(report(environment, "r-1"))

        assert recorded(one(report(environment, "r-1", charged_at=datetime.now(UTC) + away))).duplicate
        other = report(
            environment, "r-1", charged_at=datetime.now(UTC) + away, body_digest=sha256(b"other").digest()
        )
        assert isinstance(one(other), Conflicting)
        assert len(rows(environment)) == 1

    def test_each_environment_has_its_own_request_ids(
        self, environment: Environment, other_environment: Environment
    ) -> None:
        one(report(environment, "r-1"))
        outcome = one(report(other_environment, "r-1", body_digest=sha256(b"other").digest()))

        assert not recorded(outcome).duplicate
        assert [len(rows(each)) for each in (environment, other_environment)] == [1, 1]

    def test_a_batch_of_new_known_and_conflicting_ones_is_answered_in_order(
        self, environment: Environment
    ) -> None:
        record([report(environment, "b"), report(environment, "d")])
        batch = [
            report(environment, "e"),
            report(environment, "d", body_digest=sha256(b"other").digest()),
            report(environment, "c"),
            report(environment, "b"),
        ]

        outcomes = record(batch)

        assert [
            outcome.duplicate if isinstance(outcome, Recorded) else "conflict" for outcome in outcomes
        ] == [False, "conflict", False, True]
        assert [outcome.request_id for outcome in outcomes] == ["e", "d", "c", "b"]
        assert sorted(row.request_id for row in rows(environment)) == ["b", "c", "d", "e"]

    def test_a_batch_that_fails_leaves_nothing_behind(self, environment: Environment) -> None:
        bad = report(environment, "r-2", latency_ms=2**40)

        with pytest.raises(DatabaseError):
            record([report(environment, "r-1"), bad])

        assert rows(environment) == []
        assert not recorded(one(report(environment, "r-1"))).duplicate

    def test_a_body_is_the_same_in_whatever_order_and_with_what_it_says_by_default(self) -> None:
        decoder = msgspec.json.Decoder(UsageReport)
        one = decoder.decode(
            b'{"request_id":"r","user_id":"u","model":"m","input_tokens":1,"output_tokens":2,'
            b'"metadata":{"a":1,"b":2}}'
        )
        same = decoder.decode(
            b'{ "metadata":{"b":2,"a":1}, "status":"succeeded", "output_tokens":2, "input_tokens":1, '
            b'"model":"m", "user_id":"u", "request_id":"r" }'
        )
        other = decoder.decode(
            b'{"request_id":"r","user_id":"u","model":"m","input_tokens":1,"output_tokens":3,'
            b'"metadata":{"a":1,"b":2}}'
        )

        assert digest_of(one) == digest_of(same) != digest_of(other)


class TestWhatCounts:
    @pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
    def test_a_call_that_failed_before_its_first_token_is_no_request(
        self, environment: Environment, status: Status
    ) -> None:
        one(report(environment, "r-1", status=status, used=Amounts(requests=1)))
        one(report(environment, "r-2", status=status))

        assert [row.amounts.requests for row in rows(environment)] == [0, 1]

    @pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.PARTIAL])
    def test_a_call_that_succeeded_with_nothing_is_one(
        self, environment: Environment, status: Status
    ) -> None:
        one(report(environment, "r-1", status=status, used=Amounts(requests=1)))

        assert rows(environment)[0].amounts.requests == 1

    def test_a_model_without_a_price_has_no_cost_rather_than_0(self, environment: Environment) -> None:
        first = recorded(one(report(environment, "r-1", cost_nano=None, reported_cost_nano=77)))
        again = recorded(one(report(environment, "r-1", cost_nano=55)))
        (row,) = rows(environment)

        assert (row.cost_nano, row.reported_cost_nano, row.price_id) == (None, 77, None)
        assert (first.cost_nano, again.cost_nano) == (None, None)
        assert first.movements[0].amounts.cost_nano == 0

    def test_a_free_model_costs_0_rather_than_nothing_known(self, environment: Environment) -> None:
        one(report(environment, "r-1", cost_nano=0))

        assert rows(environment)[0].cost_nano == 0


class TestWriters:
    def test_parallel_writers_with_the_same_ids_in_different_orders_all_end_and_write_each_once(
        self, environment: Environment
    ) -> None:
        ids = [f"r-{number}" for number in range(60)]

        def write(number: int) -> list[Outcome]:
            outcomes = []
            for turn in range(6):
                drawn = random.Random(f"{number} {turn}").sample(ids, 40)
                outcomes += record([report(environment, request_id) for request_id in drawn])
            return outcomes

        outcomes = [outcome for each in in_threads(8, write) for outcome in each]

        assert sorted(row.request_id for row in rows(environment)) == sorted(ids)
        assert sum(not recorded(outcome).duplicate for outcome in outcomes) == len(ids)

    def test_parallel_writers_of_estimates_and_their_reports_never_deadlock_and_add_up(
        self, environment: Environment
    ) -> None:
        ids = [f"r-{number}" for number in range(40)]

        def write(number: int) -> None:
            for turn in range(6):
                drawn = random.Random(f"{number} {turn}").sample(ids, 25)
                make = estimate if number % 2 else report
                record([make(environment, request_id) for request_id in drawn])

        in_threads(8, write)

        # A report came for each, so what is left of each is what was reported.
        record([report(environment, request_id) for request_id in ids])
        for request_id in ids:
            assert total(environment, request_id) == Amounts(1, 10, 20, 300)
            assert len(rows(environment, request_id)) in (1, 3)

    def test_a_racing_conflict_is_found_by_exactly_one_of_two(self, environment: Environment) -> None:
        def write(number: int) -> bool:
            digest = sha256(str(number).encode()).digest()
            return isinstance(one(report(environment, "r-1", body_digest=digest)), Conflicting)

        assert sorted(in_threads(2, write)) == [False, True]
        assert len(rows(environment)) == 1


class TestEstimates:
    def test_a_late_report_takes_the_estimate_back_and_is_charged_where_it_was(
        self, environment: Environment
    ) -> None:
        at = datetime.now(UTC) - timedelta(minutes=20)
        subjects = Subjects(user_id="ann", feature="search", plan="free", run_id="")
        first = recorded(one(estimate(environment, "r-1", charged_at=at, subjects=subjects)))

        outcome = recorded(one(report(environment, "r-1")))
        found = rows(environment, "r-1")

        assert {row.status: row.amounts for row in found} == {
            "unsettled": Amounts(1, 10, 100, 1000),
            "reversal": Amounts(-1, -10, -100, -1000),
            "succeeded": Amounts(1, 10, 20, 300),
        }
        assert {(row.charged_at, row.feature, row.plan) for row in found} == {(at, "search", "free")}
        assert not outcome.duplicate
        assert (outcome.charged_at, outcome.subjects) == (at, subjects)
        assert [movement.amounts for movement in outcome.movements] == [
            Amounts(1, 10, 100, 1000),
            Amounts(0, 0, -80, -700),
        ]
        assert outcome.movements[0] == first.movements[0]

    def test_the_report_is_then_as_final_as_any(self, environment: Environment) -> None:
        one(estimate(environment, "r-1"))
        one(report(environment, "r-1"))

        assert recorded(one(report(environment, "r-1"))).duplicate
        other = report(environment, "r-1", body_digest=sha256(b"other").digest())
        assert isinstance(one(other), Conflicting)
        assert len(rows(environment)) == 3

    def test_an_estimate_is_written_once_and_never_over_a_report(self, environment: Environment) -> None:
        one(estimate(environment, "r-1"))
        assert recorded(one(estimate(environment, "r-1"))).duplicate
        one(report(environment, "r-2"))
        one(estimate(environment, "r-2"))

        assert [row.status for row in rows(environment)] == ["unsettled", "succeeded"]

    def test_an_unpriced_estimate_is_taken_back_unpriced(self, environment: Environment) -> None:
        one(estimate(environment, "r-1", cost_nano=None))
        one(report(environment, "r-1"))

        assert {row.status: row.cost_nano for row in rows(environment)} == {
            "unsettled": None,
            "reversal": None,
            "succeeded": 300,
        }

    def test_a_late_report_of_another_month_stays_in_the_month_of_its_estimate(
        self, environment: Environment
    ) -> None:
        at = datetime.now(UTC) - timedelta(days=45)
        one(estimate(environment, "r-1", charged_at=at))
        one(report(environment, "r-1"))

        assert {row.charged_at for row in rows(environment)} == {at}
        assert total(environment, "r-1") == Amounts(1, 10, 20, 300)

    def test_movements_come_in_the_order_they_were_written_whatever_their_transactions_numbers(
        self, environment: Environment
    ) -> None:
        """A batch has its number from its first row on, so a later transaction may write an estimate before it."""
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_current_xact_id()")
            with ThreadPoolExecutor(max_workers=1) as pool:
                pool.submit(in_threads, 1, lambda _: one(estimate(environment, "r-1"))).result()
            record([report(environment, "r-0"), report(environment, "r-1")])

        again = recorded(one(report(environment, "r-1")))

        assert again.duplicate
        assert [movement.amounts for movement in again.movements] == [
            Amounts(1, 10, 100, 1000),
            Amounts(0, 0, -80, -700),
        ]
        assert again.cost_nano == 300


class TestAppendOnly:
    @pytest.mark.parametrize(
        "sql", ["UPDATE usage_event SET cost_nano = 0 WHERE id = %s", "DELETE FROM usage_event WHERE id = %s"]
    )
    def test_no_row_can_be_changed_or_removed(self, environment: Environment, sql: str) -> None:
        one(report(environment, "r-1"))
        (row,) = rows(environment)

        with (
            pytest.raises(DatabaseError, match="append-only"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(sql, [row.pk])

        assert rows(environment)[0].cost_nano == 300

    def test_nor_in_its_partition(self, environment: Environment) -> None:
        one(report(environment, "r-1"))

        for name in partitions.names():
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*) FROM {name} WHERE environment_id = %s", [environment.pk])  # noqa: S608
                row = cursor.fetchone()
                assert row is not None
                if row[0]:
                    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
                        cursor.execute(f"UPDATE {name} SET cost_nano = 0")  # noqa: S608


class TestConnections:
    def test_one_that_was_cut_is_replaced_and_the_row_is_written_once(self, environment: Environment) -> None:
        one(report(environment, "r-1"))
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE '%INSERT INTO usage_event%'"
                " AND pid <> pg_backend_pid()"
            )

        assert not recorded(one(report(environment, "r-2"))).duplicate

        assert [row.request_id for row in rows(environment)] == ["r-1", "r-2"]

    def test_one_statement_that_fails_costs_no_connection(self, environment: Environment) -> None:
        one(report(environment, "r-1"))
        (kept,) = ledger_connections._idle
        with pytest.raises(DataError):
            one(report(environment, "r-2", latency_ms=2**40))

        assert list(ledger_connections._idle) == [kept]
        assert not recorded(one(report(environment, "r-2"))).duplicate

    def test_nothing_is_sent_that_a_lock_could_hold_until_its_writer_is_gone(
        self, environment: Environment
    ) -> None:
        with patience.within(0.2):
            time.sleep(0.11)
            with pytest.raises(OperationalError, match="no time is left"):
                one(report(environment, "r-1"))

        assert rows(environment) == []

    def test_integers_of_any_size_share_one_prepared_statement(self, environment: Environment) -> None:
        for number, cost_nano in enumerate((1, 2**20, 2**40)):
            one(report(environment, f"r-{number}", cost_nano=cost_nano))

        prepared = ledger_connections.execute("SELECT statement FROM pg_prepared_statements", [])
        assert sum("INSERT INTO usage_event" in statement for (statement,) in prepared) == 1
