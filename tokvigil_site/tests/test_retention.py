"""Months kept: old rows leave when the setting says so, their sums were verified, and it is said where."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from audit import roles
from audit.models import Entry
from tenants.models import Environment
from tokvigil_site import tasks
from usage.amounts import Subjects
from usage.ledger import partitions, retention
from usage.ledger.periods import Period
from usage.ledger.quantity_rollups import TWINS
from usage.ledger.rollup_tables import TABLES
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import estimate, one, report
from usage.tests.test_partitions import used_ever

MAY = datetime(2011, 5, 17, 12, tzinfo=UTC)
JUNE = datetime(2011, 6, 2, tzinfo=UTC)
NAMES = ("usage_event_2011_05", "usage_event_2011_06")
# Of what is older than any test's rows but these.
KEPT = 12 * 10


@pytest.fixture(autouse=True)
def _drop_what_was_made(transactional_db: None) -> Iterator[None]:
    yield
    with roles.as_owner(), connection.cursor() as cursor:
        for name in NAMES:
            cursor.execute(f"DROP TABLE IF EXISTS {name}")


@pytest.fixture
def used(environment: Environment) -> Environment:
    for number in range(3):
        one(report(environment, f"may-{number}", charged_at=MAY))
    one(estimate(environment, "late", charged_at=MAY))
    one(report(environment, "late", charged_at=MAY, quantities={"web_searches": 2}))
    one(report(environment, "june", charged_at=JUNE))
    one(report(environment, "now"))
    return environment


def command() -> str:
    output = StringIO()
    call_command("partition_usage", stdout=output)
    return output.getvalue()


def owned(sql: str, *values: Any) -> None:
    with roles.as_owner(), connection.cursor() as cursor:
        cursor.execute(sql, values)
        assert cursor.rowcount == 1


def test_without_the_setting_all_rows_stay(used: Environment) -> None:
    assert retention.apply(datetime.now(UTC)) == retention.Outcome()
    assert set(NAMES) <= set(partitions.names())


def test_old_months_leave_and_their_sums_stay(used: Environment, settings: Any) -> None:
    settings.USAGE_KEPT_MONTHS = KEPT
    before = used_ever(used)

    assert f"Detached {', '.join(NAMES)}; their tables are still there." in command()

    assert not set(NAMES) & set(partitions.names())
    assert used_ever(used) == before == 6
    entries = Entry.objects.filter(action="ledger.detached").order_by("pk")
    assert [(entry.target_name, entry.actor, entry.data["tables"]) for entry in entries] == [
        ("2011-05", "cli:partition_usage", [NAMES[0]]),
        ("2011-06", "cli:partition_usage", [NAMES[1]]),
    ]
    assert "Detached" not in command()


def test_the_worker_does_the_same(used: Environment, settings: Any) -> None:
    settings.USAGE_KEPT_MONTHS = KEPT
    tasks.partition_usage()
    assert not set(NAMES) & set(partitions.names())


@pytest.mark.parametrize("table", [*TABLES, *TWINS])
@pytest.mark.parametrize(
    "change", ["{sum} = {sum} + 1", "start = start + interval '1 day'", "{name} = 'other'"]
)
def test_a_month_whose_rollup_was_tampered_with_stays(
    used: Environment, settings: Any, table: str, change: str
) -> None:
    settings.USAGE_KEPT_MONTHS = KEPT
    roll_all(used.pk)
    _, key = {**TABLES, **TWINS}[table]
    changed = change.format(name=key[-1], sum="amount" if table in TWINS else "cost_nano")
    owned(f"UPDATE {table} SET {changed} WHERE environment_id = %s AND start < '2011-05-31'", used.pk)  # noqa: S608

    with pytest.raises(
        CommandError, match=r"2011-05: its rollups do not say what its rows say: .* of acme/prod"
    ):
        command()

    # The next month is not held up, and a row that comes after all is taken.
    assert NAMES[0] in partitions.names()
    assert NAMES[1] not in partitions.names()
    one(report(used, "after", charged_at=MAY))
    call_command("rollup_usage", str(used), "--from", "2011-05-01", "--to", "2011-05-31", stdout=StringIO())
    assert f"Detached {NAMES[0]};" in command()


@pytest.mark.parametrize(
    "change",
    [
        "cost_nano = cost_nano + 1",
        "first_day = first_day - interval '1 day'",
        "last_day = last_day + interval '1 day'",
        "last_day = last_day + interval '31 days'",
        "run_id = 'other'",
    ],
)
def test_a_month_stays_if_a_run_that_ended_in_it_is_not_what_its_days_are(
    used: Environment, settings: Any, change: str
) -> None:
    settings.USAGE_KEPT_MONTHS = KEPT
    one(report(used, "ended", charged_at=MAY, subjects=Subjects(user_id="ann", run_id="ended")))
    roll_all(used.pk)
    owned(f"UPDATE usage_whole_run SET {change} WHERE environment_id = %s AND run_id = 'ended'", used.pk)  # noqa: S608

    with pytest.raises(
        CommandError,
        match=r"2011-05: its rollups do not say what its rows say: usage_whole_run of acme/prod at 2011-05-1",
    ):
        command()

    call_command("rollup_usage", str(used), "--from", "2011-05-01", "--to", "2011-05-31", stdout=StringIO())
    assert f"Detached {NAMES[0]}" in command()


def test_a_bucket_that_was_removed_keeps_the_month_too(used: Environment, settings: Any) -> None:
    settings.USAGE_KEPT_MONTHS = KEPT
    roll_all(used.pk)
    owned("DELETE FROM usage_total_day WHERE environment_id = %s AND start < '2011-05-31'", used.pk)
    assert retention.apply(datetime.now(UTC)).stayed
    assert NAMES[0] in partitions.names()


def test_who_does_not_own_the_ledger_is_told(
    used: Environment, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of an installation with two database roles."""
    settings.USAGE_KEPT_MONTHS = KEPT
    settings.DATABASE_OWNER = None
    outcome = retention.apply(datetime.now(UTC))
    assert outcome.detached == ()
    (reason,) = outcome.stayed
    assert "it takes the owner of the ledger, see MIGRATION_DATABASE_URL" in reason
    assert set(NAMES) <= set(partitions.names())


@pytest.mark.parametrize(
    ("months", "now", "since"),
    [
        (1, datetime(2026, 1, 31, tzinfo=UTC), date(2025, 12, 1)),
        (13, datetime(2026, 11, 1, tzinfo=UTC), date(2025, 10, 1)),
        (0, datetime(2026, 11, 1, tzinfo=UTC), None),
    ],
)
def test_so_many_months_before_the_current_one_are_kept(
    settings: Any, months: int, now: datetime, since: date | None
) -> None:
    settings.USAGE_KEPT_MONTHS = months
    assert retention.kept_since(now) == since


def test_a_month_that_may_still_be_reported_is_never_due(used: Environment, settings: Any) -> None:
    settings.USAGE_KEPT_MONTHS = 1
    now = datetime(2011, 7, 3, tzinfo=UTC)
    assert date(2011, 5, 1) not in retention.due(now)
    assert date(2011, 5, 1) in retention.due(datetime(2011, 7, 7, tzinfo=UTC))


def test_which_months_of_a_period_have_no_rows_any_more(used: Environment) -> None:
    year = Period(datetime(2011, 1, 1, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC))
    roll_all(used.pk)
    assert retention.gone([used.pk], year) == []
    partitions.detach(MAY)
    assert retention.gone([used.pk], year) == [date(2011, 5, 1)]
    # Also where only the last hours of the month are in the period.
    edge = Period(datetime(2011, 5, 17, 23, tzinfo=UTC), datetime(2011, 6, 30, tzinfo=UTC))
    assert retention.gone([used.pk], edge) == [date(2011, 5, 1)]
    other = used.tenant.environments.exclude(pk=used.pk).get(slug="dev")
    assert retention.gone([other.pk], year) == []
