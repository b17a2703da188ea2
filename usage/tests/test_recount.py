"""The ledger as the truth of the counters: what was lost comes back, what differs is seen, and traffic may go on."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from threading import Event
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections

from tenants.models import Environment
from usage.amounts import Amounts, Pair, Per, Subjects
from usage.assessment import Reading
from usage.counting import inspection, rules
from usage.counting.distrust import distrust
from usage.counting.store import store
from usage.ledger import rollups
from usage.metrics import Metric
from usage.settling import recount
from usage.tests.rolling import roll_all
from usage.tests.test_counters import (
    ANN,
    DAILY,
    EVER,
    MINUTELY,
    MODEL,
    MONTHLY,
    pass_time,
    report,
    reserve,
    standing,
    to_a_new_minute,
    track,
)
from usage.windows import Window

ALL_PERS = [Pair(per, Window.DAY) for per in Per]


@pytest.fixture
def counted(environment: Environment) -> Environment:
    track(environment, DAILY, MONTHLY)
    return environment


def use(environment: Environment, request_id: str, subjects: Subjects = ANN) -> None:
    reserve(environment, request_id, subjects=subjects)
    report(
        environment,
        request_id,
        user_id=subjects.user_id,
        feature=subjects.feature or None,
        plan=subjects.plan or None,
        run_id=subjects.run_id or None,
    )


def drift(environment: Environment) -> int:
    return len(recount.check(environment).drifts)


def key_of(environment: Environment, pair: Pair, subjects: Subjects = ANN) -> str:
    present = rules.current(environment.pk).tracked.at(store.now_ms())
    return next(counter.key for counter in present.counters(subjects, MODEL) if counter.slot.pair == pair)


class TestCheck:
    def test_counters_that_were_counted_agree(self, counted: Environment) -> None:
        for number in range(5):
            use(counted, f"r-{number}")
        reserve(counted, "r-9")

        found = recount.check(counted)

        assert (found.complete, found.cold, found.drifts) == (2, 0, ())
        assert (found.held, found.open_reservations) == (Amounts(1, 10, 20, 300), 1)

    @pytest.mark.parametrize("field", ["ur", "ui", "uo", "uc"])
    @pytest.mark.parametrize("by", [-1, 1])
    def test_it_finds_a_difference_of_1_in_any_amount_and_direction(
        self, counted: Environment, field: str, by: int
    ) -> None:
        use(counted, "r-1")
        key = key_of(counted, DAILY)
        store.client.hincrby(key, field, by)

        (found,) = recount.check(counted).drifts

        assert found.key == key
        assert found.recorded == Amounts(1, 10, 5, 0)
        assert found.counted != found.recorded

    def test_it_finds_a_counter_of_calls_that_the_ledger_does_not_have(self, counted: Environment) -> None:
        use(counted, "r-1")
        invented = key_of(counted, DAILY, Subjects(user_id="nobody"))
        store.client.hset(invented, mapping={"born": store.now_ms(), "ur": 3, "hr": 0})

        (found,) = recount.check(counted).drifts

        assert (found.key, found.counted, found.recorded) == (invented, Amounts(requests=3), Amounts())

    def test_it_finds_a_counter_that_is_missing_though_it_should_be_there(
        self, environment: Environment
    ) -> None:
        track(environment, MINUTELY)
        reserve(environment, "r-0")
        to_a_new_minute()
        reserve(environment, "r-1")
        # As if charged in the minute that the store now believes it is.
        store.client.hincrby(key_of(environment, MINUTELY), "ur", 1)
        assert drift(environment) == 1

    def test_a_counter_that_will_be_rebuilt_before_its_use_is_no_drift(self, counted: Environment) -> None:
        use(counted, "r-1")
        store.client.hincrby(key_of(counted, DAILY), "ur", 1)
        distrust(counted.pk)

        found = recount.check(counted)

        assert (found.complete, found.cold, found.drifts) == (0, 2, ())

    def test_a_window_that_ends_while_it_looks_is_no_drift(
        self, environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        track(environment, MINUTELY)
        to_a_new_minute()
        use(environment, "r-1")
        original = inspection.scan

        def slow(environment_id: int) -> object:
            found = list(original(environment_id))
            pass_time(minutes=1)
            return found

        monkeypatch.setattr(inspection, "scan", slow)

        assert drift(environment) == 0

    def test_each_kind_of_subject_is_compared_with_its_own_calls(self, environment: Environment) -> None:
        track(environment, *ALL_PERS)
        for number, subjects in enumerate(
            [
                Subjects(user_id="a", feature="bc", plan="pro", run_id="run"),
                Subjects(user_id="ab", feature="c", plan="pro"),
                Subjects(user_id="ab"),
                Subjects(user_id="ünï \U0001f600 'x' % {", feature="ünï", plan="%s", run_id="\\"),
            ]
        ):
            use(environment, f"r-{number}", subjects)

        found = recount.check(environment)
        assert (found.cold, found.drifts) == (0, ())
        # 3 users and 3 with a feature, 3 features, 2 plans, 2 runs, 1 environment.
        assert found.complete == 3 + 3 + 3 + 2 + 2 + 1
        assert recount.rebuild(environment) == found.complete
        assert recount.check(environment) == found


class TestRebuild:
    @pytest.mark.parametrize("by", [-1, 1])
    def test_it_makes_counters_and_ledger_equal_and_keeps_what_is_held(
        self, counted: Environment, by: int
    ) -> None:
        use(counted, "r-1")
        reserve(counted, "r-2")
        for pair in (DAILY, MONTHLY):
            for field in ("ur", "ui", "uo", "uc"):
                store.client.hincrby(key_of(counted, pair), field, by)

        assert recount.rebuild(counted) == 2

        assert standing(counted) == (Amounts(1, 10, 5, 0), Amounts(1, 10, 20, 300))
        found = recount.check(counted)
        assert (found.complete, found.cold, found.drifts) == (2, 0, ())
        report(counted, "r-2")
        assert standing(counted) == (Amounts(2, 20, 10, 0), Amounts())

    def test_a_flushed_store_is_whole_again_with_the_next_calls(self, counted: Environment) -> None:
        track(counted, DAILY, MONTHLY, EVER)
        for number in range(3):
            use(counted, f"r-{number}")
        store.client.flushdb()
        use(counted, "r-3")

        assert standing(counted, EVER)[0] == Amounts(4, 40, 20, 0)
        found = recount.check(counted)
        assert (found.complete, found.cold, found.drifts) == (3, 0, ())

    def test_a_flushed_store_is_whole_again_from_rollups_and_their_tail(self, counted: Environment) -> None:
        track(counted, DAILY, MONTHLY, EVER)
        for number in range(5):
            use(counted, f"r-{number}")
        assert roll_all(counted.pk) == 5
        use(counted, "r-5")
        store.client.flushdb()
        use(counted, "r-6")

        assert standing(counted, EVER)[0] == Amounts(7, 70, 35, 0)
        found = recount.check(counted)
        assert (found.complete, found.cold, found.drifts) == (3, 0, ())

    def test_a_pair_tracked_later_starts_from_what_was_used(self, counted: Environment) -> None:
        for number in range(3):
            use(counted, f"r-{number}")
        track(counted, DAILY, MONTHLY, EVER)

        assert reserve(counted, "r-9", limits=[(Metric.REQUESTS, EVER, 9)]).readings == (Reading(3, 0),)
        assert drift(counted) == 0

    def test_a_row_committed_right_after_the_ledger_was_read_is_not_lost(self, counted: Environment) -> None:
        """The counter has only holds, so the ledger has nothing of its window when the rebuild reads it."""
        reserve(counted, "r-1")
        late = iter(["r-1"])

        def then_report(execute: Any, sql: str, *arguments: Any) -> Any:
            answer = execute(sql, *arguments)
            if "FROM usage_event" in sql:
                for request_id in late:
                    with ThreadPoolExecutor(max_workers=1) as pool:
                        pool.submit(in_thread, counted, request_id).result()
            return answer

        with connection.execute_wrapper(then_report):
            recount.rebuild(counted)

        assert standing(counted)[0] == Amounts(1, 10, 5, 0)
        assert drift(counted) == 0

    @pytest.mark.parametrize("rolling", [False, True], ids=["", "while the ledger is rolled up"])
    def test_it_stays_exact_under_traffic(self, counted: Environment, rolling: bool) -> None:
        track(counted, MONTHLY, EVER, *ALL_PERS)
        stop = Event()

        def work(number: int) -> int:
            drawn, done = random.Random(number), 0
            try:
                while not stop.is_set():
                    subjects = Subjects(
                        user_id=drawn.choice("ab"),
                        feature=drawn.choice(["", "chat"]),
                        plan=drawn.choice(["", "pro"]),
                    )
                    use(counted, f"{number}-{done}", subjects)
                    done += 1
            finally:
                connections.close_all()
            return done

        with ThreadPoolExecutor(max_workers=4) as pool:
            working = [pool.submit(work, number) for number in range(4)]
            try:
                for _ in range(8):
                    if rolling:
                        rollups.roll(counted.pk)
                    recount.rebuild(counted)
            finally:
                stop.set()
            done = sum(each.result() for each in working)

        found = recount.check(counted)
        assert found.drifts == ()
        assert (found.held, found.open_reservations) == (Amounts(), 0)
        assert standing(counted, MONTHLY)[0].requests <= done
        reserve(counted, "last")
        assert standing(counted, MONTHLY)[0] == Amounts(done, 10 * done, 5 * done, 0)


def in_thread(environment: Environment, request_id: str) -> None:
    try:
        report(environment, request_id)
    finally:
        connections.close_all()


class TestCommands:
    def test_check_counters_says_all_is_well(self, counted: Environment) -> None:
        use(counted, "r-1")
        output = StringIO()

        call_command("check_counters", "acme/prod", stdout=output)

        assert output.getvalue().startswith("acme/prod: drift 0 of 2 counters")

    def test_check_counters_fails_on_drift_and_rebuild_counters_mends_it(self, counted: Environment) -> None:
        use(counted, "r-1")
        key = key_of(counted, DAILY)
        store.client.hincrby(key, "ur", 1)
        output = StringIO()

        with pytest.raises(CommandError, match="rebuild_counters") as error:
            call_command("check_counters", stdout=output)

        assert error.value.returncode == 1
        assert key in output.getvalue()
        assert "drift 1 of 2 counters" in output.getvalue()
        call_command("rebuild_counters", "acme/prod", stdout=(rebuilt := StringIO()))
        assert rebuilt.getvalue() == "acme/prod: 2 counters rebuilt\n"
        call_command("check_counters", stdout=StringIO())

    @pytest.mark.parametrize("name", ["check_counters", "rebuild_counters"])
    def test_an_unknown_environment_is_an_error(self, counted: Environment, name: str) -> None:
        with pytest.raises(CommandError, match="no environment 'acme/mars'"):
            call_command(name, "acme/mars")


def test_a_check_survives_that_a_pair_is_published_away_meanwhile(
    counted: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(counted, "r1")
    for key, _ in inspection.scan(counted.pk):
        store.client.delete(key)
    renew = rules.renew

    def and_then_publish(environment_id: int) -> rules.CountingRules:
        known = renew(environment_id)
        track(counted, MONTHLY)
        renew(environment_id)
        return known

    monkeypatch.setattr(rules, "renew", and_then_publish)
    assert recount.check(counted).drifts == ()
