"""The counters' scripts on a real Valkey: holds end once, charges are taken once, none is trusted that is not whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

from tenants import revisions
from tenants.models import Environment
from usage import assessment
from usage.amounts import Amounts, Movement, Pair, Per, Subjects
from usage.assessment import Assessment, Reading
from usage.counting import rate_limit, remember_user, rules, settle
from usage.counting.distrust import distrust
from usage.counting.extend import extend
from usage.counting.inspection import environment_fields
from usage.counting.keys import reservation_key
from usage.counting.look_up import look_up
from usage.counting.release import AlreadyCharged, NotOpen, release
from usage.counting.reservations import open_count
from usage.counting.reserve import (
    AlreadySettled,
    Answer,
    ClockDiffers,
    Cold,
    Conflict,
    Done,
    Replay,
    Request,
    Stale,
    UserUnknown,
    check,
)
from usage.counting.reserve import reserve as reserve_by_script
from usage.counting.seed import mark_cold, seed
from usage.counting.settle import Charge, Settled, Settlement
from usage.counting.store import store
from usage.counting.sync import JUST_READ
from usage.metrics import LETTERS, Metric
from usage.models import TrackedPair, UsageEvent
from usage.settling import expiry, recount, reports
from usage.settling.usage_report import UsageReport
from usage.windows import Window

MODEL = "free-model"
ANN = Subjects(user_id="ann", feature="chat")
DAILY = Pair(Per.USER, Window.DAY)
MONTHLY = Pair(Per.ENVIRONMENT, Window.MONTH)
EVER = Pair(Per.USER, Window.TOTAL)
MINUTELY = Pair(Per.USER, Window.MINUTE)
HOLD_MS = 600_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
# A rebuild under way makes a caller try again.
TRIES_MAX = 100
NOTHING = Amounts()
HELD = Amounts(1, 10, 20, 300)


def track(environment: Environment, *pairs: Pair) -> None:
    """As publishing policies does it."""
    with transaction.atomic():
        TrackedPair.objects.filter(environment=environment).delete()
        for pair in pairs:
            TrackedPair.objects.create(environment=environment, per=pair.per, window=pair.window)
        revisions.bump(environment.pk)


def assessed(request_id: str, subjects: Subjects, amounts: Amounts) -> Assessment:
    return Assessment(
        request_id=request_id,
        user_id=subjects.user_id,
        feature=subjects.feature,
        plan=subjects.plan,
        run_id=subjects.run_id,
        model=MODEL,
        policies=(),
        has_override=False,
        limits=(),
        refusal=None,
        shadow_refusal=None,
        priced=True,
        max_output_tokens=amounts.output_tokens,
        provider="",
        boosted=None,
        service_tier="default",
        region="",
        **assessment.asked(amounts),
    )


Limits = Sequence[tuple[Metric, Pair | Per, int]]


def evaluate(
    environment: Environment,
    request_id: str,
    *,
    amounts: Amounts = HELD,
    subjects: Subjects = ANN,
    limits: Limits = (),
    hold: bool = True,
    hold_ms: int = HOLD_MS,
    charge: bool = False,
    digest: str = "same",
) -> Answer:
    """Asks until the store has no more to say against what the caller knows."""
    concurrency = [each for _, each, _ in limits if isinstance(each, Per)]
    rules.reload(environment.pk)
    for _ in range(TRIES_MAX):
        known = rules.current(environment.pk)
        present = known.tracked.at(store.now_ms())
        counted = present.counters(subjects, MODEL)
        places = {counter.slot.pair: place for place, counter in enumerate(counted)}
        keys = [known.tracked.concurrency_key(per, (), subjects) for per in concurrency]
        answer = reserve_by_script(
            Request(
                environment_id=environment.pk,
                edition=known.edition,
                evaluation_id="51ab",
                request_id=request_id,
                request_digest=digest,
                user_id=subjects.user_id,
                user_record="-",
                amounts=amounts,
                counters=counted,
                concurrency_keys=tuple(key for key in keys if key is not None),
                checks=tuple(
                    check(
                        metric,
                        concurrency.index(each) if isinstance(each, Per) else places[each],
                        limit,
                        enforce=True,
                    )
                    for metric, each, limit in limits
                ),
                right_from_ms=present.since_ms,
                right_until_ms=present.until_ms,
                assessment=assessment.pack(assessed(request_id, subjects, amounts)),
                hold=hold,
                record_block=False,
                hold_ms=hold_ms,
                charge_on_expiry=charge,
                api_key_id=0,
                requests_per_minute=None,
            )
        )
        match answer:
            case Stale():
                rules.renew(environment.pk)
            case UserUnknown() as unknown:
                remember_user.remember_user(environment.pk, subjects.user_id, "-", unknown)
            case Cold():
                recount.complete(environment.pk, subjects, answer)
            case ClockDiffers():
                pass
            case _:
                return answer
    raise AssertionError(f"the store does not come to rest: {answer}")


def reserve(environment: Environment, request_id: str, **fields: Any) -> Done:
    answer = evaluate(environment, request_id, **fields)
    assert isinstance(answer, Done), answer
    return answer


def report(environment: Environment, request_id: str, **fields: Any) -> Any:
    body: dict[str, Any] = {
        "request_id": request_id,
        "user_id": "ann",
        "model": "free-model",
        "feature": "chat",
        "input_tokens": 10,
        "output_tokens": 5,
        **fields,
    }
    found = look_up(
        environment.pk, JUST_READ, [(request_id, body["user_id"])], api_key_id=0, requests_per_minute=None
    )
    assert isinstance(found, list)
    admitted = reports.Admitted(known=rules.current(environment.pk), api_key_id=0, found=found)
    return reports.record_report(UsageReport(**body), admitted)


def standing(
    environment: Environment, pair: Pair = DAILY, subjects: Subjects = ANN
) -> tuple[Amounts, Amounts]:
    """What the counter holds: used and held."""
    tracked = rules.reload(environment.pk).tracked
    (key,) = [
        counter.key
        for counter in tracked.at(store.now_ms()).counters(subjects, MODEL)
        if counter.slot.pair == pair
    ]
    fields = store.client.hgetall(key)
    used, held = ([int(fields.get(f"{kind}{metric}".encode(), 0)) for metric in LETTERS] for kind in "uh")
    return Amounts(*used), Amounts(*held)


def state(environment: Environment, request_id: str) -> str | None:
    found = store.client.hget(reservation_key(environment.pk, request_id), "st")
    return None if found is None else found.decode()


def pass_time(**duration: float) -> None:
    store.clock_offset_ms += int(timedelta(**duration).total_seconds() * 1000)


def to_a_new_morning() -> None:
    """So that a test of hours does not pass the end of its day; 3:00 UTC is morning in Berlin."""
    store.clock_offset_ms += DAY_MS - store.now_ms() % DAY_MS + 3 * HOUR_MS


def to_a_new_minute() -> None:
    """Early in it, so that the test does not pass its end."""
    store.clock_offset_ms += 2 * MINUTE_MS - store.now_ms() % MINUTE_MS + 1000


@pytest.fixture
def counted(environment: Environment) -> Environment:
    track(environment, DAILY, MONTHLY)
    return environment


class TestHolds:
    def test_a_hold_stands_in_every_tracked_counter(self, counted: Environment) -> None:
        assert reserve(counted, "r-1").held

        assert standing(counted, DAILY) == standing(counted, MONTHLY) == (NOTHING, HELD)
        assert state(counted, "r-1") == "open"

    def test_a_rejected_call_holds_nothing_anywhere(self, counted: Environment) -> None:
        limits: Limits = [(Metric.REQUESTS, DAILY, 5), (Metric.TOKENS, MONTHLY, 29)]

        assert not reserve(counted, "r-1", limits=limits).held

        assert standing(counted, DAILY) == standing(counted, MONTHLY) == (NOTHING, NOTHING)
        assert state(counted, "r-1") is None

    def test_readings_are_what_stood_before_the_call(self, counted: Environment) -> None:
        limits: Limits = [(Metric.REQUESTS, DAILY, 5), (Metric.TOKENS, DAILY, 500)]
        reserve(counted, "r-1")
        report(counted, "r-1")
        reserve(counted, "r-2")

        assert reserve(counted, "r-3", limits=limits).readings == (Reading(1, 1), Reading(15, 30))

    def test_a_peek_reads_and_holds_nothing(self, counted: Environment) -> None:
        assert not reserve(counted, "r-1", hold=False, limits=[(Metric.REQUESTS, DAILY, 5)]).held
        assert standing(counted) == (NOTHING, NOTHING)

    def test_the_same_request_is_answered_as_before(self, counted: Environment) -> None:
        limits: Limits = [(Metric.REQUESTS, DAILY, 5)]
        reserve(counted, "r-0")
        first = reserve(counted, "r-1", limits=limits)

        again = evaluate(counted, "r-1", limits=limits)

        assert isinstance(again, Replay)
        assert (again.readings, again.at_ms, again.deadline_ms) == (
            first.readings,
            first.at_ms,
            first.deadline_ms,
        )
        assert standing(counted)[1].requests == 2
        assert evaluate(counted, "r-1", digest="other") == Conflict()

    def test_a_long_plan_name_survives_the_way_into_the_script(self, counted: Environment) -> None:
        for length in (0, 31, 32, 255, 256, 400):
            record = "0" + "ä" * length
            known = rules.renew(counted.pk)
            present = known.tracked.at(store.now_ms())
            request = Request(
                environment_id=counted.pk,
                edition=known.edition,
                evaluation_id="51ab",
                request_id=f"r-{length}",
                request_digest="d" * 32,
                user_id="ann",
                user_record=record,
                amounts=HELD,
                counters=(),
                concurrency_keys=(),
                checks=(),
                right_from_ms=present.since_ms,
                right_until_ms=present.until_ms,
                assessment=b"",
                hold=False,
                record_block=False,
                hold_ms=1,
                charge_on_expiry=False,
                api_key_id=0,
                requests_per_minute=None,
            )
            unknown = reserve_by_script(request)
            assert isinstance(unknown, UserUnknown)
            assert remember_user.remember_user(counted.pk, "ann", record, unknown)
            answer = reserve_by_script(request)
            assert isinstance(answer, Done), (answer, length)


class TestEnds:
    """A hold ends in exactly one of settled, released and expired, and takes back just what it held."""

    def test_settled(self, counted: Environment) -> None:
        to_a_new_morning()
        reserve(counted, "r-1")
        report(counted, "r-1")

        assert standing(counted) == (Amounts(1, 10, 5, 0), NOTHING)
        assert state(counted, "r-1") == "settled"
        assert evaluate(counted, "r-1") == AlreadySettled()
        with pytest.raises(AlreadyCharged):
            release(counted.pk, "r-1")
        with pytest.raises(NotOpen):
            extend(counted.pk, "r-1", 1000)
        pass_time(hours=1)
        assert expiry.settle_expired(counted) == (0, 0)
        assert standing(counted) == (Amounts(1, 10, 5, 0), NOTHING)

    def test_released(self, counted: Environment) -> None:
        reserve(counted, "r-1")
        release(counted.pk, "r-1")
        release(counted.pk, "r-1")

        assert standing(counted) == (NOTHING, NOTHING)
        assert state(counted, "r-1") == "released"
        with pytest.raises(NotOpen):
            extend(counted.pk, "r-1", 1000)
        pass_time(hours=1)
        assert expiry.settle_expired(counted) == (0, 0)
        assert state(counted, "r-1") == "released"

    def test_expired(self, counted: Environment) -> None:
        reserve(counted, "r-1")
        pass_time(milliseconds=HOLD_MS - 5_000)
        assert expiry.settle_expired(counted) == (0, 0)
        pass_time(seconds=6)

        assert expiry.settle_expired(counted) == (1, 0)
        assert expiry.settle_expired(counted) == (0, 0)
        assert standing(counted, MONTHLY) == (NOTHING, NOTHING)
        assert state(counted, "r-1") == "expired"

    def test_a_report_after_expiry_is_charged_once_and_takes_nothing_back_twice(
        self, counted: Environment
    ) -> None:
        reserve(counted, "r-0")
        reserve(counted, "r-1")
        pass_time(milliseconds=HOLD_MS + 1)
        expiry.settle_expired(counted)
        report(counted, "r-1")
        report(counted, "r-1")

        assert standing(counted, MONTHLY) == (Amounts(1, 10, 5, 0), NOTHING)

    def test_a_report_after_release_is_charged_all_the_same(self, counted: Environment) -> None:
        reserve(counted, "r-1")
        release(counted.pk, "r-1")
        report(counted, "r-1")

        assert standing(counted) == (Amounts(1, 10, 5, 0), NOTHING)

    def test_an_unknown_hold_cannot_be_released(self, counted: Environment) -> None:
        with pytest.raises(NotOpen):
            release(counted.pk, "r-1")

    def test_an_extended_hold_outlives_its_deadline(self, counted: Environment) -> None:
        done = reserve(counted, "r-1")
        deadline = extend(counted.pk, "r-1", 2 * HOLD_MS)

        assert deadline >= done.deadline_ms + HOLD_MS
        assert extend(counted.pk, "r-1", 1) == deadline
        pass_time(milliseconds=HOLD_MS + 1)
        assert expiry.settle_expired(counted) == (0, 0)
        pass_time(milliseconds=HOLD_MS)
        assert expiry.settle_expired(counted) == (1, 0)

    def test_a_dead_worker_never_turns_into_false_blocks(self, counted: Environment) -> None:
        limits: Limits = [(Metric.REQUESTS, MONTHLY, 40)]
        for number in range(40):
            assert reserve(counted, f"r-{number}", limits=limits).held
        assert not reserve(counted, "r-40", limits=limits).held
        pass_time(milliseconds=HOLD_MS + 1)

        assert reserve(counted, "r-40", limits=limits).held

    def test_an_expired_request_id_is_decided_afresh_and_holds_once(self, counted: Environment) -> None:
        reserve(counted, "r-1")
        pass_time(milliseconds=HOLD_MS + 1)

        assert reserve(counted, "r-1", digest="other").held
        assert standing(counted, MONTHLY) == (NOTHING, HELD)


class TestChargedOnExpiry:
    def test_the_estimate_is_charged_and_a_late_report_replaces_it(self, counted: Environment) -> None:
        reserve(counted, "r-1", charge=True)
        pass_time(milliseconds=HOLD_MS + 1)

        assert expiry.settle_expired(counted) == (0, 1)
        assert standing(counted, MONTHLY) == (HELD, NOTHING)
        assert expiry.settle_expired(counted) == (0, 0)

        report(counted, "r-1")
        report(counted, "r-1")
        assert standing(counted, MONTHLY) == (Amounts(1, 10, 5, 0), NOTHING)

    def test_it_stays_held_until_it_is_charged(self, counted: Environment) -> None:
        reserve(counted, "r-1", charge=True)
        pass_time(milliseconds=HOLD_MS + 1)

        assert not reserve(counted, "r-2", limits=[(Metric.REQUESTS, MONTHLY, 1)]).held

    def test_its_id_cannot_be_used_to_lose_it(self, counted: Environment) -> None:
        """Expired or charged a moment later, an evaluate of the same id finds it used."""
        reserve(counted, "r-1", charge=True)
        pass_time(milliseconds=HOLD_MS + 1)

        answer = evaluate(counted, "r-1", digest="other", limits=[(Metric.REQUESTS, MONTHLY, 0)])

        assert answer == AlreadySettled()
        assert expiry.settle_expired(counted) == (0, 1)
        assert standing(counted, MONTHLY) == (HELD, NOTHING)

    def test_a_hold_of_a_call_reported_just_now_ends_as_its_report_says(
        self, counted: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The report is in the ledger and on its way to the counters when the hold expires."""
        reserve(counted, "r-1", charge=True)
        with monkeypatch.context() as patched:
            patched.setattr("usage.settling.charging.charge", lambda recorded, known, **_: {})
            report(counted, "r-1")
        pass_time(milliseconds=HOLD_MS + 1)

        expiry.settle_expired(counted)
        report(counted, "r-1")

        assert standing(counted, MONTHLY) == (Amounts(1, 10, 5, 0), NOTHING)

    def test_a_hold_of_a_call_reported_long_ago_ends_too(
        self, counted: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its id was used again after the store had forgotten it. Nothing is charged for it, and it blocks no other."""
        reserve(counted, "r-1", charge=True)
        report(counted, "r-1")
        store.client.delete(reservation_key(counted.pk, "r-1"))
        reserve(counted, "r-1", charge=True)
        pass_time(milliseconds=HOLD_MS + 1)
        monkeypatch.setattr("usage.settling.charging.REPEATED_CHARGE_MAX_AGE", timedelta(0))

        expiry.settle_expired(counted)

        assert standing(counted, MONTHLY) == (Amounts(1, 10, 5, 0), NOTHING)
        assert open_count(counted.pk) == 0
        assert expiry.settle_expired(counted) == (0, 0)


class TestCharges:
    def settle(self, environment: Environment, request_id: str, *movements: Movement) -> Settled:
        known = rules.renew(environment.pk)
        found = known.tracked.at(store.now_ms()).counters(ANN, MODEL)
        charges = tuple(Charge(each.xid, each.amounts, found) for each in movements)
        settlement = Settlement(request_id=request_id, charges=charges)
        answers = settle.settle_many(environment.pk, known.edition, [settlement], states=True)
        assert answers is not None
        return answers[0]

    def test_each_movement_is_charged_once_in_whatever_order_of_transaction_numbers(
        self, counted: Environment
    ) -> None:
        reserve(counted, "r-0")
        estimate, correction = (
            Movement(10**9 + 7, Amounts(1, 10, 20, 300)),
            Movement(10**9 + 3, Amounts(0, 0, -15, -100)),
        )

        assert self.settle(counted, "r-1", estimate).charged
        assert not self.settle(counted, "r-1", estimate).charged
        assert self.settle(counted, "r-1", estimate, correction).charged
        assert not self.settle(counted, "r-1", estimate, correction).charged

        assert standing(counted)[0] == Amounts(1, 10, 5, 200)

    def test_a_call_is_charged_to_the_windows_it_was_held_in(self, counted: Environment) -> None:
        done = reserve(counted, "r-1")
        before = standing(counted)
        pass_time(days=1)
        report(counted, "r-1")

        assert before == (NOTHING, HELD)
        assert standing(counted) == (NOTHING, NOTHING)
        row = UsageEvent.objects.get(environment=counted)
        assert int(row.charged_at.timestamp() * 1000) in (done.at_ms, done.at_ms - 1)
        pass_time(days=-1)
        assert standing(counted) == (Amounts(1, 10, 5, 0), NOTHING)

    def test_a_movement_is_money_to_the_last_nano(self, counted: Environment) -> None:
        reserve(counted, "r-0")
        for number in range(3):
            self.settle(counted, f"r-{number}", Movement(10**9 + number, Amounts(1, 0, 0, 2**52 + 1)))

        assert standing(counted)[0].cost_nano == 3 * (2**52 + 1)


class TestConcurrency:
    LIMITS: Limits = [(Metric.CONCURRENCY, Per.USER, 2)]

    def test_it_counts_calls_in_flight(self, counted: Environment) -> None:
        assert [reserve(counted, f"r-{number}", limits=self.LIMITS).held for number in range(3)] == [
            True,
            True,
            False,
        ]
        report(counted, "r-0")
        assert reserve(counted, "r-3", limits=self.LIMITS).held
        release(counted.pk, "r-1")
        assert reserve(counted, "r-4", limits=self.LIMITS).held
        pass_time(milliseconds=HOLD_MS + 1)
        assert reserve(counted, "r-5", limits=self.LIMITS).readings == (Reading(0, 0),)

    def test_a_long_call_stays_counted_when_short_ones_follow_it(self, counted: Environment) -> None:
        reserve(counted, "long", limits=self.LIMITS)
        extend(counted.pk, "long", 24 * 3600 * 1000)
        reserve(counted, "short", limits=self.LIMITS)
        extend(counted.pk, "short", 2 * HOLD_MS)
        report(counted, "short")

        key = rules.current(counted.pk).tracked.concurrency_key(Per.USER, (), ANN)
        assert store.client.pttl(key) > 23 * 3600 * 1000


class TestTrust:
    def test_the_first_call_of_a_new_pair_starts_from_the_ledger(self, counted: Environment) -> None:
        reserve(counted, "r-1")
        report(counted, "r-1")

        track(counted, DAILY, EVER)

        assert reserve(counted, "r-2", limits=[(Metric.REQUESTS, EVER, 5)]).readings == (Reading(1, 0),)

    def test_a_pair_that_was_not_tracked_for_a_while_starts_from_the_ledger_again(
        self, counted: Environment
    ) -> None:
        """Its counter is still in the store, and knows nothing of what was charged meanwhile."""
        reserve(counted, "r-1")
        report(counted, "r-1")
        track(counted, MONTHLY)
        reserve(counted, "r-2")
        report(counted, "r-2")

        track(counted, DAILY, MONTHLY)

        assert reserve(counted, "r-3", limits=[(Metric.REQUESTS, DAILY, 5)]).readings == (Reading(2, 0),)
        assert recount.check(counted).drifts == ()

    def test_a_charge_kept_by_a_version_that_counts_more_is_taken_as_far_as_it_is_known(
        self, counted: Environment
    ) -> None:
        reserve(counted, "r-1")
        report(counted, "r-1")
        windows = rules.current(counted.pk).tracked.at(store.now_ms())
        (key,) = [each.key for each in windows.counters(ANN, MODEL) if each.slot.pair == DAILY]
        charge = " ".join(map(str, [*Amounts(1, 20, 30), 7]))
        store.client.hset(key, mapping={"cold": 1, f"p:{10**12}:r-2": charge})

        assert evaluate(counted, "r-3", hold=False, limits=[(Metric.TOKENS, DAILY, 500)]) is not None

        assert standing(counted) == (Amounts(2, 30, 35, 0), NOTHING)

    def test_after_a_flush_every_counter_starts_from_the_ledger(self, counted: Environment) -> None:
        reserve(counted, "r-1")
        report(counted, "r-1")
        store.client.flushdb()

        limits: Limits = [(Metric.REQUESTS, DAILY, 5), (Metric.TOKENS, MONTHLY, 500)]
        assert reserve(counted, "r-2", limits=limits).readings == (Reading(1, 0), Reading(15, 0))

    def test_a_window_that_begins_while_the_store_is_whole_needs_no_rebuild(
        self, counted: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        track(counted, MINUTELY)
        reserve(counted, "r-1")
        to_a_new_minute()
        monkeypatch.setattr(recount, "complete", lambda *arguments: pytest.fail("rebuilt"))

        assert reserve(counted, "r-2", limits=[(Metric.REQUESTS, MINUTELY, 5)]).readings == (Reading(0, 0),)

    def test_one_that_began_before_the_store_was_distrusted_does(self, counted: Environment) -> None:
        """The store came back from old data: the counter is missing, though its pair was tracked all the time."""
        track(counted, MINUTELY)
        reserve(counted, "r-0")
        to_a_new_minute()
        reserve(counted, "r-1")
        report(counted, "r-1")
        for counter in rules.current(counted.pk).tracked.at(store.now_ms()).counters(ANN, MODEL):
            store.client.delete(counter.key)
        distrust(counted.pk)

        assert reserve(counted, "r-2", limits=[(Metric.REQUESTS, MINUTELY, 5)]).readings == (Reading(1, 0),)

    def test_one_that_began_before_its_pair_was_tracked_does(self, counted: Environment) -> None:
        reserve(counted, "r-0")
        to_a_new_minute()
        reserve(counted, "r-1")
        report(counted, "r-1")
        track(counted, DAILY, MINUTELY)

        assert reserve(counted, "r-2", limits=[(Metric.REQUESTS, MINUTELY, 5)]).readings == (Reading(1, 0),)

    def test_a_charge_that_comes_during_a_rebuild_is_neither_lost_nor_counted_twice(
        self, counted: Environment
    ) -> None:
        reserve(counted, "r-1")
        report(counted, "r-1")
        key = next(iter(rules.current(counted.pk).tracked.at(store.now_ms()).counters(ANN, MODEL))).key
        known = rules.current(counted.pk)
        for committed_before_reading in (True, False):
            name = f"r-{committed_before_reading}"
            reserve(counted, name)
            mark_cold([key])
            (counter,) = [
                each for each in known.tracked.at(store.now_ms()).counters(ANN, MODEL) if each.key == key
            ]
            if committed_before_reading:
                report(counted, name)
            snapshot, used = recount._sum(counted.pk, counter, ANN)
            if not committed_before_reading:
                report(counted, name)
            epoch = int(environment_fields(counted.pk)["epoch"])
            assert seed(counted.pk, counter, epoch, snapshot, used)
        assert recount.check(counted).drifts == ()
        assert recount.check(counted).cold == 0

    def test_a_rebuild_begun_before_a_flush_is_refused_after_it(self, counted: Environment) -> None:
        reserve(counted, "r-1")
        counter = rules.current(counted.pk).tracked.at(store.now_ms()).counters(ANN, MODEL)[0]
        snapshot, used = recount._sum(counted.pk, counter, ANN)
        distrust(counted.pk)
        mark_cold([counter.key])

        assert not seed(counted.pk, counter, 1, snapshot, used)


def test_movements_of_the_ledger_are_charged_as_they_were_written(counted: Environment) -> None:
    """From an estimate to its report through the ledger, for the counters to agree with it."""
    reserve(counted, "r-1", charge=True)
    pass_time(milliseconds=HOLD_MS + 1)
    expiry.settle_expired(counted)
    receipt = report(counted, "r-1", input_tokens=4, output_tokens=3)

    assert not receipt.duplicate
    assert standing(counted, MONTHLY)[0] == Amounts(1, 4, 3, 0)
    assert recount.check(counted).drifts == ()


def test_a_rate_of_0_is_divided_by_nowhere() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        rate_limit.count_call(1, 1, 0)
