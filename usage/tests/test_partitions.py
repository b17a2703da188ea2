"""The months of the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection

from audit import roles
from tenants.models import Environment
from usage.ledger import partitions
from usage.ledger.reading import Recorded
from usage.ledger.writing import Conflicting, record
from usage.models import UsageEvent
from usage.tests.test_ledger import in_threads, one, report

# Far from what the other tests write.
LONG_AGO = datetime(2011, 5, 17, 12, tzinfo=UTC)
NAME = "usage_event_2011_05"


@pytest.fixture(autouse=True)
def _drop_what_was_made(transactional_db: None) -> Iterator[None]:
    yield
    with roles.as_owner(), connection.cursor() as cursor:
        for name in (NAME, "usage_event_2011_06", "usage_event_2011_12"):
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
