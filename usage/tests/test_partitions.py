"""The months of the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import StringIO
from threading import Event
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, ProgrammingError, connection, connections, transaction
from msgspec.structs import asdict

from audit import roles
from tenants.models import Environment
from usage.amounts import Pair, Per, Subjects
from usage.ledger import months, partitions, subject_sums, totals
from usage.ledger.reading import Recorded
from usage.ledger.rollups import LEDGER
from usage.ledger.totals import SummaryQuery
from usage.ledger.writing import Conflicting, record
from usage.models import UsageEvent
from usage.settling import recount
from usage.tests.rolling import roll_all
from usage.tests.test_counters import reserve, standing, track
from usage.tests.test_ledger import in_threads, one, report
from usage.windows import Window

# Far from what the other tests write.
LONG_AGO = datetime(2011, 5, 17, 12, tzinfo=UTC)
NAME = "usage_event_2011_05"


@pytest.fixture(autouse=True)
def _drop_what_was_made(transactional_db: None) -> Iterator[None]:
    yield
    with roles.as_owner(), connection.cursor() as cursor:
        for name in (NAME, f"{NAME}_2", "usage_event_2011_06", "usage_event_2011_12"):
            cursor.execute(f"DROP TABLE IF EXISTS {name}")


def test_a_report_of_a_month_without_a_partition_makes_it(environment: Environment) -> None:
    assert NAME not in partitions.names()

    outcomes = record(
        [
            report(environment, "r-1", charged_at=LONG_AGO),
            report(environment, "r-2", charged_at=LONG_AGO.replace(month=12)),
        ]
    )

    assert all(isinstance(outcome, Recorded) and not outcome.duplicate for outcome in outcomes)
    assert {NAME, "usage_event_2011_12"} <= set(partitions.names())
    assert UsageEvent.objects.filter(environment=environment).count() == 2


def test_parallel_writers_into_a_month_without_a_partition_all_succeed(environment: Environment) -> None:
    outcomes = in_threads(8, lambda number: one(report(environment, f"r-{number}", charged_at=LONG_AGO)))

    assert all(isinstance(outcome, Recorded) for outcome in outcomes)
    assert UsageEvent.objects.filter(environment=environment).count() == 8


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (datetime(2011, 5, 1, tzinfo=UTC), NAME),
        (datetime(2011, 5, 31, 23, 59, 59, 999_999, tzinfo=UTC), NAME),
        (datetime(2011, 6, 1, tzinfo=UTC), "usage_event_2011_06"),
    ],
)
def test_a_month_is_one_of_utc_to_its_last_microsecond(
    environment: Environment, at: datetime, name: str
) -> None:
    one(report(environment, "r-1", charged_at=at))

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tableoid::regclass::text FROM usage_event WHERE environment_id = %s", [environment.pk]
        )
        assert cursor.fetchall() == [(name,)]


def test_partitions_are_made_ahead_over_the_turn_of_the_year_and_only_once() -> None:
    now = datetime(2031, 12, 15, tzinfo=UTC)
    wanted = [f"usage_event_{month}" for month in ("2031_11", "2031_12", "2032_01", "2032_02", "2032_03")]
    try:
        assert partitions.ensure_ahead(now) == wanted
        assert partitions.ensure_ahead(now) == []
    finally:
        with roles.as_owner(), connection.cursor() as cursor:
            for name in wanted:
                cursor.execute(f"DROP TABLE IF EXISTS {name}")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE usage_event_2011_05 (x int)",
        "ALTER TABLE usage_event DISABLE TRIGGER USER",
        "ALTER TABLE usage_event DETACH PARTITION usage_event_2011_05",
        "DROP TABLE usage_event",
    ],
)
def test_the_application_makes_months_and_owns_none(statement: str) -> None:
    partitions.ensure([LONG_AGO])
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
        connection.cursor().execute(statement)
    assert NAME in partitions.names()


def test_a_temporary_table_does_not_lead_the_owners_rights_astray() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE usage_event (at timestamptz) PARTITION BY RANGE (at)")
        try:
            partitions.ensure([LONG_AGO])
        finally:
            cursor.execute("DROP TABLE pg_temp.usage_event")
    assert NAME in partitions.names()


def command(*arguments: str) -> str:
    output = StringIO()
    call_command("partition_usage", *arguments, stdout=output)
    return output.getvalue()


def test_the_command_makes_what_is_missing_and_says_so() -> None:
    command()
    assert command() == "All partitions are there.\n"


def test_the_command_detaches_a_month_and_its_rows_stay_in_its_table(environment: Environment) -> None:
    one(report(environment, "r-1", charged_at=LONG_AGO))
    one(report(environment, "r-2"))

    assert command("--detach", "2011-05") == f"Detached {NAME}; its table is still there.\n"

    assert [row.request_id for row in UsageEvent.objects.filter(environment=environment)] == ["r-2"]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT request_id FROM {NAME} WHERE environment_id = %s", [environment.pk])  # noqa: S608
        assert cursor.fetchall() == [("r-1",)]


def test_a_month_that_is_not_there_cannot_be_detached() -> None:
    with pytest.raises(CommandError, match="no partition usage_event_1999_01"):
        command("--detach", "1999-01")


def test_a_request_of_a_detached_month_is_still_known(environment: Environment) -> None:
    """Its row is out of reach, but neither is it recorded twice nor does the repeated report crash."""
    one(report(environment, "r-1", charged_at=LONG_AGO))
    partitions.detach(LONG_AGO)

    again = one(report(environment, "r-1"))
    other = one(report(environment, "r-1", body_digest=sha256(b"other").digest()))

    assert isinstance(again, Recorded)
    assert (again.duplicate, again.movements) == (True, ())
    assert isinstance(other, Conflicting)
    assert not UsageEvent.objects.filter(environment=environment).exists()


def used_ever(environment: Environment) -> int:
    _, found = subject_sums.of_all(
        environment.pk, Per.ENVIRONMENT, datetime(1970, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    )
    return found[""].requests


def reports_long_ago(environment: Environment, count: int) -> None:
    record([report(environment, f"old-{number}", charged_at=LONG_AGO) for number in range(count)])


class TestDetached:
    def test_what_was_used_in_it_still_counts(self, environment: Environment) -> None:
        """In totals and in limits that never reset, which get nothing back."""
        ever = Pair(Per.USER, Window.TOTAL)
        track(environment, ever)
        reports_long_ago(environment, 10)
        one(report(environment, "new"))
        reserve(environment, "asks", subjects=Subjects(user_id="ann"))

        partitions.detach(LONG_AGO)

        assert used_ever(environment) == 11
        assert recount.check(environment).drifts == ()
        assert recount.rebuild(environment) == 1
        assert recount.check(environment).drifts == ()
        assert standing(environment, ever, subjects=Subjects(user_id="ann"))[0].requests == 11
        found = totals.summarize(
            environment.pk,
            SummaryQuery(
                group_by="user,day", from_=LONG_AGO - timedelta(days=9), to=LONG_AGO + timedelta(days=9)
            ),
            LONG_AGO,
            ZoneInfo("Europe/Berlin"),
        )
        groups = map(asdict, found.groups)
        assert [(group["user_id"], group["day"], group["requests"]) for group in groups] == [
            ("ann", LONG_AGO.date(), 10)
        ]

    def test_a_row_that_comes_after_all_is_recorded_and_counted_once(self, environment: Environment) -> None:
        reports_long_ago(environment, 3)
        partitions.detach(LONG_AGO)

        outcome = one(report(environment, "late", charged_at=LONG_AGO))

        assert isinstance(outcome, Recorded)
        assert f"{NAME}_2" in partitions.names()
        assert used_ever(environment) == 4
        roll_all(environment.pk)
        assert used_ever(environment) == 4
        assert command("--detach", "2011-05").startswith(f"Detached {NAME}_2;")
        assert used_ever(environment) == 4

    def test_its_rollups_cannot_be_made_anew(self, environment: Environment) -> None:
        reports_long_ago(environment, 3)
        partitions.detach(LONG_AGO)
        one(report(environment, "late", charged_at=LONG_AGO))

        with pytest.raises(CommandError, match="2011-05 are not in the ledger any more"):
            call_command("rollup_usage", str(environment), "--from", "2011-05-01", "--to", "2011-06-30")

        assert used_ever(environment) == 4

    def test_a_month_that_may_still_be_reported_is_not_detached(self, environment: Environment) -> None:
        last_month = datetime.now(UTC).replace(day=1) - timedelta(days=1)

        with pytest.raises(CommandError, match="may still be reported; detach it from 20"):
            command("--detach", f"{last_month:%Y-%m}")

        assert f"usage_event_{last_month:%Y_%m}" in partitions.names()

    def test_a_month_with_rows_that_cannot_be_rolled_up_yet_stays(
        self, environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A transaction has been open for longer than the row is there."""
        monkeypatch.setattr(partitions, "_ROLL_TRIES", 2)
        begun, end = Event(), Event()

        def slow() -> None:
            try:
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute("SELECT pg_current_xact_id()")
                    begun.set()
                    assert end.wait(timeout=30)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(slow)
            assert begun.wait(timeout=30)
            reports_long_ago(environment, 3)
            try:
                with pytest.raises(CommandError, match="end it and try again"):
                    command("--detach", "2011-05")
                assert NAME in partitions.names()
                # What would be rolled up by nobody is refused, and may be reported again.
                with pytest.raises(DatabaseError, match="is being detached"):
                    one(report(environment, "late", charged_at=LONG_AGO))
            finally:
                end.set()
            running.result()
        command("--detach", "2011-05")
        one(report(environment, "late", charged_at=LONG_AGO))
        assert used_ever(environment) == 4


def test_a_partition_has_all_that_its_table_has_from_its_first_row_on(environment: Environment) -> None:
    one(report(environment, "r-1", charged_at=LONG_AGO))

    with roles.as_owner(), connection.cursor() as cursor:
        for change in (f"UPDATE {NAME} SET requests = 0", f"DELETE FROM {NAME}"):  # noqa: S608
            with pytest.raises(DatabaseError, match="append-only"):
                cursor.execute(change)
        cursor.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'usage_event'::regclass")
        indexes = cursor.fetchone()
        cursor.execute("SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass", [NAME])
        assert cursor.fetchone() == indexes


def test_a_table_that_was_made_and_never_attached_gives_way(environment: Environment) -> None:
    with roles.as_owner(), connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {NAME} (LIKE usage_event)")

    one(report(environment, "r-1", charged_at=LONG_AGO))

    assert NAME in partitions.names()
    assert f"{NAME}_2" not in partitions.names()


def test_a_detach_that_died_is_ended_by_the_next_run(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "LOCK_TIMEOUT_MS", 200)
    one(report(environment, "r-1", charged_at=LONG_AGO))
    roll_all(environment.pk)
    begun, end = Event(), Event()

    def read() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM usage_event")
                begun.set()
                assert end.wait(timeout=30)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(read)
        assert begun.wait(timeout=30)
        with pytest.raises(CommandError, match="it leaves as soon as they are done"):
            command("--detach", "2011-05")
        assert [each.leaving for each in LEDGER.partitions() if each.name == NAME] == [True]
        assert used_ever(environment) == 1
        end.set()
        running.result()

    command()

    assert all(each.name != NAME for each in LEDGER.partitions())
    assert used_ever(environment) == 1
