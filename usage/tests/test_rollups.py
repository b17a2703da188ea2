"""Rollups: each row of the ledger in its own bucket, once, whatever is late, killed or under way."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from io import StringIO
from threading import Event
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, connections, transaction
from msgspec.structs import asdict

from audit import roles
from tenants.models import Environment
from usage.amounts import Amounts, Per, Subjects
from usage.ledger import partitions, request_ids, rollups, subject_sums, sums, totals
from usage.ledger.models import UsageEvent
from usage.ledger.quantity_rollups import TWINS
from usage.ledger.rollup_tables import SUMS
from usage.ledger.rows import NEGATED
from usage.ledger.sums import OtherCluster
from usage.ledger.totals import SummaryQuery
from usage.ledger.writing import record
from usage.metrics import LETTERS
from usage.settling import reports
from usage.tests.rolling import roll_all, stored
from usage.tests.test_ledger import estimate, one, report

UTC_ZONE = ZoneInfo("UTC")
NOW = datetime.now(UTC)


def fill(
    environment: Environment, count: int, *, seed: int = 1, since: timedelta = timedelta(days=35)
) -> None:
    """Rows of some users, spread over the time that a report may be late."""
    drawn, other = random.Random(seed), random.Random(f"quantities {seed}")
    for first in range(0, count, 500):
        record(
            [
                report(
                    environment,
                    f"{seed}-{number}",
                    charged_at=NOW - since * drawn.random(),
                    subjects=Subjects(
                        user_id=drawn.choice("abc"),
                        feature=drawn.choice(["", "chat", "sum"]),
                        plan=drawn.choice(["", "pro"]),
                        run_id=drawn.choice(["", "", "r-1", "r-2"]),
                    ),
                    model=drawn.choice(["m", "n"]),
                    used=Amounts(1, drawn.randrange(100), drawn.randrange(100), cost or 0),
                    priced=cost is not None,
                    quantities=other.choice([None, None, {"images": 2}, {"web_searches": 3, "images": 1}]),
                )
                for number in range(first, min(first + 500, count))
                for cost in [drawn.choice([None, 7, 10**9])]
            ]
        )


def in_ledger(environment: Environment, per: Per, start: datetime, end: datetime) -> dict[str, Amounts]:
    """Added up here, row by row."""
    found: Counter[tuple[str, str]] = Counter()
    for row in UsageEvent.objects.filter(environment=environment, charged_at__gte=start, charged_at__lt=end):
        subjects = Subjects(user_id=row.user_id, feature=row.feature, plan=row.plan, run_id=row.run_id)
        name = subjects.name(per)
        if name is not None:
            amounts = row.amounts
            found[name, "r"] += amounts.requests
            found[name, "i"] += amounts.input_tokens
            found[name, "o"] += amounts.output_tokens
            found[name, "c"] += amounts.cost_nano
    return {name: Amounts(*(found[name, letter] for letter in LETTERS)) for name, _ in found}


def quantities_in_ledger(
    environment: Environment, names: tuple[str, ...], start: datetime, end: datetime
) -> dict[tuple[str, ...], int]:
    """By plain SQL, by these columns and the quantity."""
    named = "".join(f"{name}, " for name in names)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {named}each.key, sum((CASE status WHEN 'reversal' THEN -1 ELSE 1 END) * each.value::numeric)
            FROM usage_event, jsonb_each_text(coalesce(quantities, '{{}}')) AS each
            WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s GROUP BY {named}each.key
            """,  # noqa: S608 (our own names)
            [environment.pk, start, end],
        )
        return {tuple(key): int(amount) for *key, amount in cursor.fetchall()}


def quantities_in_sums(
    environment: Environment, names: tuple[str, ...], start: datetime, end: datetime
) -> dict[tuple[str, ...], int]:
    read = sums.quantities(environment.pk, [start, end], names)
    named = "".join(f"{name}, " for name in names)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {named}quantity, sum(amount) FROM ({read.sql}) AS used GROUP BY {named}quantity",  # noqa: S608
            read.values,
        )
        return {tuple(key): int(amount) for *key, amount in cursor.fetchall()}


def total(environment: Environment) -> int:
    _, found = subject_sums.of_all(
        environment.pk, Per.ENVIRONMENT, NOW - timedelta(days=40), NOW + timedelta(days=1)
    )
    return found[""].requests if found else 0


def test_sums_of_any_period_are_those_of_the_ledger_whatever_is_rolled_up_of_it(
    environment: Environment,
) -> None:
    drawn = random.Random(7)
    fill(environment, 400, seed=1)
    roll_all(environment.pk)
    fill(environment, 300, seed=2)

    for turn in range(60):
        if turn == 30:
            roll_all(environment.pk)
        start = NOW - timedelta(days=36) * drawn.random()
        end = start + timedelta(days=drawn.choice([0.01, 1, 30])) * drawn.random()
        if drawn.random() < 0.3:
            start = datetime(1970, 1, 1, tzinfo=UTC)
            end = datetime.max.replace(tzinfo=UTC)
        for per in Per:
            expected = in_ledger(environment, per, start, end)
            assert subject_sums.of_all(environment.pk, per, start, end)[1] == expected
        subjects = Subjects(user_id="a", feature="chat", plan="pro", run_id="r-1")
        for per in Per:
            name = subjects.name(per)
            assert name is not None
            found = subject_sums.of_subject(environment.pk, per, subjects, start, end)[1]
            assert found == in_ledger(environment, per, start, end).get(name, Amounts())


def test_quantities_of_any_period_are_those_of_the_ledger_whatever_is_rolled_up_of_it(
    environment: Environment,
) -> None:
    """By each level of rollups. Of estimates too, which are taken back late, and where a period cuts a bucket."""
    drawn = random.Random(11)
    made: dict[str, Any] = {"quantities": {"web_searches": 5, "output_video_seconds": 8}}
    for number in range(20):
        at = NOW - timedelta(days=35) * drawn.random()
        one(estimate(environment, f"late-{number}", charged_at=at, **made))
    fill(environment, 300, seed=1)
    roll_all(environment.pk)
    for number in range(15):
        one(report(environment, f"late-{number}", quantities={"images": 1}))
    fill(environment, 200, seed=2)

    levels = [(), ("model",), ("user_id",), ("run_id",), ("user_id", "feature"), ("run_id", "plan")]
    compared = 0
    for turn in range(40):
        if turn == 20:
            roll_all(environment.pk)
        start = NOW - timedelta(days=36) * drawn.random()
        end = start + timedelta(days=drawn.choice([0.01, 1, 30, 60])) * drawn.random()
        for names in levels:
            expected = quantities_in_ledger(environment, names, start, end)
            found = quantities_in_sums(environment, names, start, end)
            # Hours that are taken off a month again leave a sum of nothing.
            assert {key: amount for key, amount in found.items() if amount or key in expected} == expected
            compared += len(expected)
    assert compared > 1_000


def test_a_call_without_quantities_leaves_no_row_of_them(environment: Environment) -> None:
    one(report(environment, "text"))
    roll_all(environment.pk)
    assert not any(stored(environment.pk)[table] for table in TWINS)


@pytest.mark.parametrize("is_restored", [False, True])
def test_quantities_of_before_are_filled_in_as_a_roll_would_have_done(
    environment: Environment, is_restored: bool
) -> None:
    """Also in a restored database, before its first roll: new rows have lower transaction numbers than the mark."""
    fill(environment, 200, seed=1)
    roll_all(environment.pk)
    right = stored(environment.pk)
    if is_restored:
        restore(environment)
    fill(environment, 50, seed=2)
    with connection.cursor() as cursor:
        for table in TWINS:
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608 (our own names)
        cursor.execute(import_module("usage.migrations.0013_quantity_rollups").FILL)

    assert stored(environment.pk) == right
    assert all(right[table] for table in TWINS)


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"]
)
@pytest.mark.parametrize("group_by", [None, "day", "feature,day", "user,feature,model,plan,day"])
def test_a_summary_says_the_same_before_and_after_the_roll(
    environment: Environment, zone: str, group_by: str | None
) -> None:
    fill(environment, 500)
    query = SummaryQuery(
        group_by=group_by,
        from_=NOW - timedelta(days=33, minutes=7, microseconds=1),
        to=NOW - timedelta(hours=3, seconds=5),
    )
    before = totals.summarize(environment.pk, query, NOW, ZoneInfo(zone))
    roll_all(environment.pk)

    assert totals.summarize(environment.pk, query, NOW, ZoneInfo(zone)) == before
    assert asdict(before.total)["requests"] > 300


def test_a_roll_done_twice_changes_nothing(environment: Environment) -> None:
    fill(environment, 300)
    assert roll_all(environment.pk) == 300
    once = stored(environment.pk)

    assert rollups.roll(environment.pk) == 0
    assert stored(environment.pk) == once


@pytest.mark.parametrize("tables", ["NULL", "6", "10", "11"])
def test_a_version_that_does_not_know_all_tables_cannot_roll(environment: Environment, tables: str) -> None:
    """It would move the mark past rows that stand in its own tables alone."""
    fill(environment, 10)
    roll_all(environment.pk)
    with pytest.raises(IntegrityError, match="tables"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO usage_rollup_mark (environment_id, xid, floor_id, last_id, cluster, tables)
            SELECT %s, 0, 0, 0, system_identifier, {tables} FROM pg_control_system() ON CONFLICT DO NOTHING
            """,  # noqa: S608 (our own words)
            [environment.pk],
        )


def test_many_small_rolls_leave_the_same_rows_as_one(
    environment: Environment, other_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(other_environment, 600)
    roll_all(other_environment.pk)
    monkeypatch.setattr(rollups, "ROWS_MAX", 7)
    for first in range(0, 600, 100):
        record(
            [
                report(
                    environment,
                    row.request_id,
                    charged_at=row.charged_at,
                    subjects=Subjects(
                        user_id=row.user_id, feature=row.feature, plan=row.plan, run_id=row.run_id
                    ),
                    model=row.model,
                    used=row.amounts,
                    priced=row.cost_nano is not None,
                    quantities=row.quantities,
                )
                for row in UsageEvent.objects.filter(environment=other_environment).order_by("id")[
                    first : first + 100
                ]
            ]
        )
        rollups.roll(environment.pk)
    roll_all(environment.pk)

    there, here = stored(other_environment.pk), stored(environment.pk)
    for table in rollups.FILLED:
        assert [row[0].split(",", 1)[1] for row in here[table]] == [
            row[0].split(",", 1)[1] for row in there[table]
        ]


def test_a_row_that_comes_late_lands_in_its_own_hour(environment: Environment) -> None:
    fill(environment, 100, since=timedelta(hours=1))
    roll_all(environment.pk)
    long_ago = NOW - timedelta(days=34, hours=23)
    one(report(environment, "late", charged_at=long_ago))
    roll_all(environment.pk)

    found = subject_sums.of_all(
        environment.pk, Per.USER, long_ago - timedelta(hours=1), long_ago + timedelta(hours=1)
    )[1]

    assert found == {"ann": Amounts(1, 10, 20, 300)}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT start FROM usage_rollup_quarter WHERE environment_id = %s AND user_id = 'ann'",
            [environment.pk],
        )
        ((start,),) = cursor.fetchall()
    assert start <= long_ago < start + timedelta(minutes=15)


def test_rows_where_a_period_cuts_a_bucket_are_counted_once_rolled_up_or_not(
    environment: Environment,
) -> None:
    bucket = datetime(2026, 3, 4, 10, 15, tzinfo=UTC)
    start, end = bucket + timedelta(minutes=6), bucket + timedelta(days=2, minutes=6)
    partitions.ensure([bucket])
    for number in range(3):
        for place in (start - timedelta(seconds=1), start, end - timedelta(seconds=1), end):
            one(report(environment, f"{number}-{place}", charged_at=place))
        _, found = subject_sums.of_all(environment.pk, Per.ENVIRONMENT, start, end)
        assert found[""].requests == 2 * (number + 1)
        if number:
            roll_all(environment.pk)
            assert subject_sums.of_all(environment.pk, Per.ENVIRONMENT, start, end)[1] == found


def write_by_hand(environment: Environment) -> None:
    """A row in the transaction under way; the ledger's own writer commits each statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO usage_event (environment_id, request_id, charged_at, user_id, feature, plan, run_id, model,
                provider, status, requests, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens,
                reasoning_tokens, cost_nano)
            VALUES (%s, gen_random_uuid()::text, now(), 'u', '', '', '', 'm', '', 'succeeded', 1, 1, 1, 0, 0, 0, 1)
            """,
            [environment.pk],
        )


def test_a_transaction_under_way_is_neither_missed_nor_counted_twice(environment: Environment) -> None:
    """It has a lower number than those that end before it."""
    begun, end = Event(), Event()

    def slow() -> None:
        try:
            with transaction.atomic():
                write_by_hand(environment)
                begun.set()
                assert end.wait(timeout=30)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(slow)
        assert begun.wait(timeout=30)
        for number in range(5):
            one(report(environment, f"fast-{number}"))
        rollups.roll(environment.pk)
        assert total(environment) == 5
        assert stored(environment.pk)["usage_total_day"] == []
        end.set()
        running.result()

    assert total(environment) == 6
    roll_all(environment.pk)
    assert total(environment) == 6
    assert stored(environment.pk)["usage_total_day"] != []


def test_a_transaction_that_was_rolled_back_leaves_nothing(environment: Environment) -> None:
    with transaction.atomic():
        write_by_hand(environment)
        transaction.set_rollback(True)
    one(report(environment, "r-1"))
    roll_all(environment.pk)

    assert total(environment) == 1


def test_an_estimate_that_is_replaced_is_taken_back_in_its_own_bucket(environment: Environment) -> None:
    at = NOW - timedelta(days=3)
    one(estimate(environment, "r-1", charged_at=at, cost_nano=None))
    roll_all(environment.pk)
    one(report(environment, "r-1", charged_at=NOW))
    roll_all(environment.pk)

    found = totals.summarize(
        environment.pk,
        SummaryQuery(group_by="day", from_=at - timedelta(days=1), to=NOW + timedelta(days=1)),
        NOW,
        UTC_ZONE,
    )
    days = map(asdict, found.groups)
    assert [(day["day"], day["requests"], day["unpriced"]) for day in days] == [(at.date(), 1, 0)]
    assert found.total.cost_usd == "0.0000003"


def test_sums_beyond_the_range_of_a_row_do_not_stop_the_roll(environment: Environment) -> None:
    for number in range(3):
        one(report(environment, f"r-{number}", cost_nano=2**62))
    roll_all(environment.pk)

    found = totals.summarize(environment.pk, SummaryQuery(group_by="user"), NOW, UTC_ZONE)
    assert found.total.cost_usd == "13835058055.282163712"


def test_names_as_long_as_can_be_do_not_stop_the_roll(environment: Environment) -> None:
    """Five of them are more than an index entry may hold."""
    drawn = random.Random(1)

    def name() -> str:
        return "".join(chr(drawn.randrange(0x1F300, 0x1F6FF)) for _ in range(255))

    made = report(
        environment,
        "r-1",
        subjects=Subjects(user_id=name(), feature=name(), plan=name(), run_id=name()),
        model=name(),
    )
    one(made)
    roll_all(environment.pk)

    assert subject_sums.of_subject(
        environment.pk, Per.RUN, made.subjects, NOW - timedelta(1), NOW + timedelta(1)
    )[1].requests


def test_names_that_read_the_same_put_together_are_kept_apart(environment: Environment) -> None:
    for number, (user, feature) in enumerate([("a", "bc"), ("ab", "c"), ("abc", ""), ("a\x1f", "bc")]):
        one(
            report(
                environment, f"r-{number}", subjects=Subjects(user_id=user, feature=feature), charged_at=NOW
            )
        )
    roll_all(environment.pk)

    assert len(stored(environment.pk)["usage_rollup_day"]) == 4


def test_readers_see_every_row_once_while_rolls_go_on_under_traffic(environment: Environment) -> None:
    stop = Event()
    done: list[int] = []

    def write(number: int) -> None:
        try:
            turn = 0
            while not stop.is_set():
                record([report(environment, f"{number}-{turn}-{n}") for n in range(3)])
                done.append(3)
                turn += 1
        finally:
            connections.close_all()

    def roll() -> None:
        try:
            while not stop.is_set():
                rollups.roll(environment.pk)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(write, 0), pool.submit(write, 1), pool.submit(roll), pool.submit(roll)]
        ends_at = time.monotonic() + 6
        try:
            while time.monotonic() < ends_at:
                at_least = sum(done)
                found = total(environment)
                # Of each writer one batch may be committed and not yet noted.
                assert at_least <= found <= sum(done) + 6
        finally:
            stop.set()
        for each in running:
            each.result()
    roll_all(environment.pk)

    assert total(environment) == sum(done) > 100
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(events) FROM usage_total_day WHERE environment_id = %s", [environment.pk])
        assert cursor.fetchone() == (sum(done),)


class TestRebuild:
    def test_it_makes_days_anew_and_leaves_what_is_not_rolled_up_to_the_next_roll(
        self, environment: Environment
    ) -> None:
        fill(environment, 300)
        roll_all(environment.pk)
        before = stored(environment.pk)
        with connection.cursor() as cursor:
            for table in rollups.FILLED:
                wrong = "amount = 1" if table in TWINS else "requests = 0, events = 0"
                cursor.execute(f"UPDATE {table} SET {wrong} WHERE environment_id = %s", [environment.pk])  # noqa: S608
        first, last = (NOW - timedelta(days=36)).date(), (NOW + timedelta(days=1)).date()

        assert rollups.rebuild(environment.pk, first, last) == 300
        assert stored(environment.pk) == before
        one(report(environment, "new"))
        assert rollups.rebuild(environment.pk, first, last) == 300
        roll_all(environment.pk)
        assert total(environment) == 301

    def test_the_command_rolls_up_and_makes_anew(self, environment: Environment) -> None:
        fill(environment, 50)
        output = StringIO()
        first, last = (NOW - timedelta(days=36)).date(), NOW.date()
        roll_all(environment.pk)

        call_command("rollup_usage", "acme/prod", "--from", str(first), "--to", str(last), stdout=output)

        assert output.getvalue() == (
            f"acme/prod: 0 rows rolled up\nacme/prod: 50 rows of {first} to {last} rolled up anew\n"
        )
        with pytest.raises(CommandError, match=f"--from {last} is after --to {first}"):
            call_command("rollup_usage", "acme/prod", "--from", str(last), "--to", str(first))
        with pytest.raises(CommandError, match="both --from and --to"):
            call_command("rollup_usage", "--from", str(first))


def restore(environment: Environment) -> None:
    """As a dump of a cluster that had seen a billion more transactions leaves rows and mark in another one."""
    with roles.as_owner(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(
            "UPDATE usage_event SET xid = xid + 1000000000 WHERE environment_id = %s", [environment.pk]
        )
        cursor.execute(
            "UPDATE usage_rollup_mark SET xid = xid + 1000000000, cluster = 1 WHERE environment_id = %s",
            [environment.pk],
        )


def test_in_a_restored_database_rows_from_before_and_after_are_counted_once(environment: Environment) -> None:
    fill(environment, 200, seed=1)
    roll_all(environment.pk)
    fill(environment, 20, seed=2)
    restore(environment)
    fill(environment, 100, seed=3)

    with pytest.raises(OtherCluster, match="rollup_usage"):
        total(environment)
    assert rollups.roll_due() >= 120
    assert total(environment) == 320
    fill(environment, 10, seed=4)
    assert total(environment) == 330
    roll_all(environment.pk)
    assert total(environment) == 330
    assert rollups.rebuild(environment.pk, date(2020, 1, 1), (NOW + timedelta(days=1)).date()) == 330
    assert total(environment) == 330


def test_every_amount_that_a_reversal_takes_back_is_summed_up() -> None:
    assert {*SUMS} == {*NEGATED, "events", "unpriced"}


def test_what_is_rolled_up_is_read_from_the_rollups(environment: Environment) -> None:
    """Else all of the above says nothing of them."""
    fill(environment, 100)
    roll_all(environment.pk)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE usage_total_day SET requests = requests + 1000 WHERE environment_id = %s",
            [environment.pk],
        )
    assert total(environment) > 1000


def test_an_environment_without_news_is_left_alone(environment: Environment) -> None:
    fill(environment, 10)
    roll_all(environment.pk)
    assert environment.pk not in rollups.due()
    one(report(environment, "r-1"))
    assert environment.pk in rollups.due()


def test_reports_may_come_as_long_as_their_month_is_not_detached() -> None:
    assert partitions.REPORTED_WITHIN > reports.OCCURRED_AGE_MAX
    assert request_ids.KEPT >= 2 * reports.OCCURRED_AGE_MAX
