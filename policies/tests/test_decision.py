"""What is decided from an assessment and the readings of its limits; and that the reserve script decides the same."""

from __future__ import annotations

from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policies.deciding.decision import TRANSIENT_RETRY_S, Decision, decide, degraded, exceeds
from policies.reasons import ALL_CODES, CLASSES, WINDOW_CODES, Reason
from policies.rules import COUNT_LIMIT_MAX
from usage.amounts import Amounts, Pair, Per, Subjects
from usage.assessment import Assessment, LimitRef, PolicyRef, Reading, Refusal, held_cost_nano
from usage.counting import reserve
from usage.counting.keys import reservation_key
from usage.counting.reserve import Done, Request, check
from usage.counting.store import store
from usage.counting.sync import JUST_READ, ask, sync
from usage.counting.tracked import TrackedPairs
from usage.metrics import LETTERS, Metric
from usage.money import NANO
from usage.prices.book import PriceBook
from usage.prices.cost import RATE_MAX_NANO
from usage.prices.model_groups import ModelGroups
from usage.windows import Window

NOW_MS = 1_795_512_345_678
OVERRIDE = PolicyRef("id-1", "Free plan", 7, "plan")
GUARD = PolicyRef("id-2", "Budget", 3, "default")
COUNTED = [metric for metric in Metric if metric is not Metric.CONCURRENCY]
# When each window of NOW ends, as a guess that keeps their order.
RESETS = {
    Window.MINUTE: NOW_MS + 14_322,
    Window.HOUR: NOW_MS + 600_000,
    Window.DAY: NOW_MS + 30_000_000,
    Window.WEEK: NOW_MS + 90_000_000,
    Window.MONTH: NOW_MS + 600_000_000,
    Window.TOTAL: None,
}


def limit(
    metric: Metric = Metric.REQUESTS,
    amount: int = 10,
    window: Window = Window.DAY,
    per: Per = Per.USER,
    *,
    policy: int = 0,
    enforce: bool = True,
) -> LimitRef:
    resets = None if metric is Metric.CONCURRENCY else RESETS[window]
    return LimitRef(
        policy=policy,
        metric=metric,
        window=window,
        per=per,
        amount=amount,
        resets_at_ms=resets,
        enforce=enforce,
    )


def assessment(*limits: LimitRef, **fields: Any) -> Assessment:
    """A call of 30 input and 70 output tokens that costs 2 USD."""
    call = Assessment(
        request_id="r-1",
        user_id="ann",
        feature="chat",
        plan="free",
        run_id="run-9",
        model="gpt-5",
        policies=(OVERRIDE, GUARD),
        has_override=True,
        limits=limits,
        refusal=None,
        shadow_refusal=None,
        input_tokens=30,
        output_tokens=70,
        cost_nano=2 * NANO,
        priced=True,
        max_output_tokens=70,
    )
    return msgspec.structs.replace(call, **fields)


def decided(*found: tuple[LimitRef, int, int], **fields: Any) -> Decision:
    """Each limit with what is used and held."""
    limits, readings = [each[0] for each in found], [Reading(each[1], each[2]) for each in found]
    return decide(assessment(*limits, **fields), readings, NOW_MS)


NEEDED = {
    Metric.REQUESTS: 1,
    Metric.TOKENS: 100,
    Metric.INPUT_TOKENS: 30,
    Metric.OUTPUT_TOKENS: 70,
    Metric.COST_USD: 2 * NANO,
    Metric.CONCURRENCY: 1,
}


class TestWhatFits:
    @pytest.mark.parametrize(("metric", "needed"), NEEDED.items())
    def test_a_limit_is_used_up_to_its_last_unit_and_no_further(self, metric: Metric, needed: int) -> None:
        amount = needed + 50
        last = decided((limit(metric, amount), 30, 20))
        over = decided((limit(metric, amount), 30, 21))

        assert (last.verdict.allowed, last.verdict.reason_code) == (True, "ALLOWED")
        assert not last.findings[0].exceeded
        assert not over.verdict.allowed
        assert over.findings[0].exceeded

    @pytest.mark.parametrize("metric", Metric)
    def test_0_means_none(self, metric: Metric) -> None:
        assert not decided((limit(metric, 0), 0, 0)).verdict.allowed

    def test_a_call_that_takes_nothing_of_a_metric_is_never_the_one_too_many(self) -> None:
        budget = limit(Metric.COST_USD, NANO)

        assert decided((budget, 5 * NANO, 0), cost_nano=0).verdict.allowed
        assert not decided((limit(Metric.COST_USD, 0), 0, 0), cost_nano=0).verdict.allowed

    def test_no_limit_is_no_limit(self) -> None:
        verdict = decided().verdict

        assert (verdict.allowed, verdict.reason_code, verdict.policy) == (True, "ALLOWED", OVERRIDE)
        assert verdict.message == "Allowed by policy Free plan."

    def test_without_an_override_the_environment_allows(self) -> None:
        verdict = decided(policies=(GUARD,), has_override=False).verdict

        assert (verdict.reason_code, verdict.reason_class, verdict.policy) == ("NO_POLICY", "allowed", None)
        assert verdict.message == (
            "No policy of a user, feature or plan matches this call (its plan is free), and there is no default "
            f"policy; the environment allows such calls within its guardrails ({GUARD.name})."
        )

    def test_a_reading_is_missing_or_too_many_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            decide(assessment(limit()), [], NOW_MS)


class TestWindowLimits:
    @pytest.mark.parametrize("metric", COUNTED)
    @pytest.mark.parametrize("window", Window)
    def test_each_window_and_metric_has_its_code_and_resets_with_its_window(
        self, window: Window, metric: Metric
    ) -> None:
        amount = 10 * NEEDED[metric]
        verdict = decided((limit(metric, amount, window), amount, 0)).verdict
        resets = RESETS[window]

        assert verdict.reason_code == WINDOW_CODES[window, metric]
        assert verdict.reason_class == "exhausted"
        assert verdict.retry_after_s == (None if resets is None else -(-(resets - NOW_MS) // 1000))
        assert verdict.policy == OVERRIDE

    def test_it_is_exhausted_when_what_is_used_leaves_too_little(self) -> None:
        assert decided((limit(Metric.TOKENS, 100), 1, 0)).verdict.reason_class == "exhausted"
        assert decided((limit(Metric.TOKENS, 100), 1, 99)).verdict.reason_class == "exhausted"

    def test_it_is_transient_when_it_would_fit_once_calls_in_flight_settle(self) -> None:
        verdict = decided((limit(Metric.TOKENS, 100), 0, 1)).verdict

        assert (verdict.reason_class, verdict.retry_after_s) == ("transient", TRANSIENT_RETRY_S)

    @pytest.mark.parametrize(("amount", "used"), [(0, 0), (99, 0), (99, 99), (0, 500)])
    def test_it_is_too_large_when_no_waiting_helps(self, amount: int, used: int) -> None:
        verdict = decided((limit(Metric.TOKENS, amount), used, 0)).verdict

        assert (verdict.reason_class, verdict.retry_after_s) == ("too_large", None)

    def test_a_retry_is_never_told_for_this_very_instant(self) -> None:
        ends_now = msgspec.structs.replace(limit(), resets_at_ms=NOW_MS)

        assert decided((ends_now, 10, 0)).verdict.retry_after_s == 1


class TestConcurrency:
    def test_it_is_transient_and_worth_an_early_retry(self) -> None:
        verdict = decided((limit(Metric.CONCURRENCY, 2, Window.TOTAL), 0, 2)).verdict

        assert verdict.reason_code == "CONCURRENCY_LIMIT_EXCEEDED"
        assert (verdict.reason_class, verdict.retry_after_s) == ("transient", TRANSIENT_RETRY_S)
        assert verdict.message == "2 calls of user ann are in flight; the limit is 2 at a time."

    def test_where_no_call_may_begin_none_will_end(self) -> None:
        verdict = decided((limit(Metric.CONCURRENCY, 0, Window.TOTAL), 0, 0)).verdict

        assert (verdict.reason_class, verdict.retry_after_s) == ("transient", None)


class TestWhichCodeWins:
    def test_concurrency_comes_before_any_window(self) -> None:
        verdict = decided(
            (limit(Metric.REQUESTS, 1, Window.TOTAL), 1, 0),
            (limit(Metric.CONCURRENCY, 1, Window.TOTAL), 0, 1),
        ).verdict

        assert verdict.reason_code == "CONCURRENCY_LIMIT_EXCEEDED"

    def test_the_window_that_resets_last_speaks(self) -> None:
        found = [(limit(Metric.REQUESTS, 1, window), 1, 0) for window in Window]

        for last in reversed(range(len(found))):
            for order in (found[: last + 1], found[last::-1]):
                window = found[last][0].window
                assert decided(*order).verdict.reason_code == WINDOW_CODES[window, Metric.REQUESTS]

    def test_a_later_reset_beats_an_earlier_metric(self) -> None:
        verdict = decided(
            (limit(Metric.REQUESTS, 1, Window.DAY), 1, 0),
            (limit(Metric.COST_USD, 2 * NANO, Window.MONTH), 1, 0),
        ).verdict

        assert verdict.reason_code == "MONTHLY_BUDGET_EXCEEDED"

    def test_at_the_same_reset_requests_come_before_tokens_before_cost(self) -> None:
        requests = (limit(Metric.REQUESTS, 1), 1, 0)
        tokens = [
            (limit(metric, 1), 1, 0) for metric in (Metric.TOKENS, Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS)
        ]
        cost = (limit(Metric.COST_USD, 1), 1, 0)

        assert decided(cost, *tokens, requests).verdict.reason_code == "DAILY_REQUEST_LIMIT_EXCEEDED"
        for token in tokens:
            assert decided(cost, token).verdict.reason_code == "DAILY_TOKEN_LIMIT_EXCEEDED"
        assert decided(cost).verdict.reason_code == "DAILY_BUDGET_EXCEEDED"

    def test_a_refusal_that_needs_no_counter_comes_before_all_limits(self) -> None:
        refusal = Refusal("MODEL_DENIED", "No.", 1)
        decision = decided((limit(Metric.CONCURRENCY, 0, Window.TOTAL), 0, 0), refusal=refusal)

        assert decision.verdict.reason_code == "MODEL_DENIED"
        assert (decision.verdict.policy, decision.verdict.message) == (GUARD, "No.")
        # What stands against the call besides is still told.
        assert decision.findings[0].exceeded

    @pytest.mark.parametrize("reason", [r for r in Reason if r.value not in ("ALLOWED", "DEGRADED_ALLOWED")])
    def test_each_refusal_has_the_class_of_the_contract_and_waiting_never_helps(self, reason: Reason) -> None:
        verdict = decided(refusal=Refusal(reason.value, "No.", None)).verdict

        assert (verdict.allowed, verdict.retry_after_s) == (False, None)
        assert (verdict.reason_code, verdict.reason_class) == (reason.value, CLASSES[reason])

    def test_the_policy_that_speaks_is_the_one_whose_limit_it_is(self) -> None:
        within = (limit(), 0, 0)
        guarded = (limit(Metric.TOKENS, 500, per=Per.ENVIRONMENT, policy=1), 480, 0)

        assert decided(within, guarded).verdict.policy == GUARD


class TestMonitor:
    def test_a_monitored_limit_never_blocks_and_says_what_it_would_have(self) -> None:
        watched = limit(Metric.REQUESTS, 1, policy=1, enforce=False)
        decision = decided((watched, 1, 0))

        assert decision.verdict.reason_code == "ALLOWED"
        assert decision.shadow is not None
        assert (decision.shadow.allowed, decision.shadow.reason_code) == (
            False,
            "DAILY_REQUEST_LIMIT_EXCEEDED",
        )
        assert decision.shadow.policy == GUARD

    def test_there_is_no_shadow_of_what_would_have_passed(self) -> None:
        assert decided((limit(enforce=False), 0, 0)).shadow is None

    def test_a_monitored_refusal_is_a_shadow_too(self) -> None:
        decision = decided(shadow_refusal=Refusal("MODEL_DENIED", "No.", 0))

        assert decision.verdict.allowed
        assert decision.shadow is not None
        assert decision.shadow.reason_code == "MODEL_DENIED"

    def test_an_enforced_block_is_not_outshone_by_a_monitored_one(self) -> None:
        decision = decided(
            (limit(Metric.REQUESTS, 1, Window.MONTH, enforce=False), 1, 0),
            (limit(Metric.TOKENS, 50, Window.DAY), 0, 0),
        )

        assert decision.verdict.reason_code == "DAILY_TOKEN_LIMIT_EXCEEDED"
        assert decision.shadow is not None
        assert decision.shadow.reason_code == "MONTHLY_REQUEST_LIMIT_EXCEEDED"


class TestMessages:
    @pytest.mark.parametrize(
        ("per", "subject"),
        [
            (Per.USER, "user ann"),
            (Per.USER_FEATURE, "user ann in feature chat"),
            (Per.FEATURE, "feature chat"),
            (Per.PLAN, "plan free"),
            (Per.ENVIRONMENT, "the environment"),
            (Per.RUN, "run run-9"),
        ],
    )
    def test_they_name_the_limit_and_whose_it_is(self, per: Per, subject: str) -> None:
        message = decided((limit(Metric.REQUESTS, 50, Window.DAY, per), 50, 0)).verdict.message

        assert message == f"Daily request limit of 50 reached for {subject}: 50 used, 0 held, 1 needed."

    def test_money_is_told_in_usd(self) -> None:
        message = decided((limit(Metric.COST_USD, 5 * NANO, Window.MONTH), 4 * NANO, 0)).verdict.message

        assert message.startswith("Monthly budget of 5.00 USD reached for user ann: 4.00 USD used")

    def test_each_class_says_what_stands_in_the_way(self) -> None:
        large = decided((limit(Metric.TOKENS, 99, Window.MINUTE), 0, 0)).verdict.message
        taken = decided((limit(Metric.TOKENS, 100, Window.HOUR), 0, 60)).verdict.message

        assert large == "Minute token limit of 99 for user ann is less than this call may take (100)."
        assert taken == "Hourly token limit of 100 for user ann is taken up by calls in flight (60 held)."


class TestWithoutCounters:
    @pytest.mark.parametrize(("allowed", "code"), [(True, "DEGRADED_ALLOWED"), (False, "DEGRADED_BLOCKED")])
    def test_the_policies_on_unavailable_decides(self, allowed: bool, code: str) -> None:
        decision = degraded(assessment(limit(amount=0)), allowed=allowed)

        assert (decision.verdict.allowed, decision.verdict.reason_code) == (allowed, code)
        assert decision.verdict.reason_class == "degraded"
        assert decision.verdict.retry_after_s == (None if allowed else TRANSIENT_RETRY_S)
        assert decision.findings == ()

    def test_what_needs_no_counter_still_refuses(self) -> None:
        call = assessment(refusal=Refusal("ENVIRONMENT_FROZEN", "Frozen.", None))

        assert degraded(call, allowed=True).verdict.reason_code == "ENVIRONMENT_FROZEN"


# Properties.

AMOUNTS = st.one_of(st.integers(0, 5), st.integers(0, COUNT_LIMIT_MAX), st.just(COUNT_LIMIT_MAX))
LIMITS = st.builds(
    limit,
    st.sampled_from(Metric),
    AMOUNTS,
    st.sampled_from(Window),
    st.sampled_from(Per),
    policy=st.integers(0, 1),
    enforce=st.booleans(),
)
FOUND = st.lists(st.tuples(LIMITS, AMOUNTS, AMOUNTS), max_size=6)
CALLS = st.fixed_dictionaries(
    {
        "input_tokens": st.integers(0, 5) | st.integers(0, 10**8),
        "output_tokens": st.integers(0, 5) | st.integers(0, 10**8),
        "cost_nano": AMOUNTS,
    }
)
PURE = settings(max_examples=300, deadline=None, derandomize=True)


@PURE
@given(FOUND, CALLS)
def test_the_same_in_gives_the_same_out(found: list[tuple[LimitRef, int, int]], call: dict[str, int]) -> None:
    first = decided(*found, **call)

    assert decided(*found, **call) == first
    assert first.verdict.reason_code in ALL_CODES
    assert first.verdict.allowed is not any(
        finding.exceeded and finding.limit.enforce for finding in first.findings
    )


@PURE
@given(FOUND, CALLS, st.data())
def test_raising_a_limit_never_denies_more(
    found: list[tuple[LimitRef, int, int]], call: dict[str, int], data: st.DataObject
) -> None:
    raised = [
        (msgspec.structs.replace(each, amount=each.amount + data.draw(AMOUNTS)), used, held)
        for each, used, held in found
    ]
    if decided(*found, **call).verdict.allowed:
        assert decided(*raised, **call).verdict.allowed


@PURE
@given(FOUND, FOUND, CALLS)
def test_adding_a_guardrail_never_allows_more(
    found: list[tuple[LimitRef, int, int]], guard: list[tuple[LimitRef, int, int]], call: dict[str, int]
) -> None:
    if decided(*found, *guard, **call).verdict.allowed:
        assert decided(*found, **call).verdict.allowed


@PURE
@given(FOUND, CALLS)
def test_monitoring_all_policies_allows_every_call(
    found: list[tuple[LimitRef, int, int]], call: dict[str, int]
) -> None:
    watched = [(msgspec.structs.replace(each, enforce=False), used, held) for each, used, held in found]
    decision = decided(*watched, **call)

    assert decision.verdict.allowed
    assert (decision.shadow is not None) == any(finding.exceeded for finding in decision.findings)


# The reserve script applies the same rule, in doubles.

ENVIRONMENT_ID = 987_654_321
PAIR = Pair(Per.USER, Window.DAY)
TRACKED = TrackedPairs(
    ENVIRONMENT_ID, ZoneInfo("Europe/Berlin"), frozenset({PAIR}), ModelGroups(lambda: PriceBook.build(()))
)
EDGES = st.sampled_from([0, 1, 2, 2**31, 2**32 - 1, 2**32, 2**53 - 1, COUNT_LIMIT_MAX - 1, COUNT_LIMIT_MAX])
STORED = st.tuples(*[EDGES | st.integers(0, 10) | st.integers(0, COUNT_LIMIT_MAX)] * 4)


def reserved(metric: Metric, amount: int, needed: Amounts, used: Amounts, held: Amounts) -> Done:
    """What the script answers with the counter standing like this."""
    subjects = Subjects(user_id="ann")
    present = TRACKED.at(store.now_ms())
    (counter,) = present.counters(subjects, "gpt-4o")
    concurrency_key = TRACKED.concurrency_key(Per.USER, (), subjects)
    assert concurrency_key is not None
    fields = {"born": store.now_ms()} | _fields("u", used) | _fields("h", held)
    store.client.delete(concurrency_key)
    store.client.hset(counter.key, mapping=fields)
    if metric is Metric.CONCURRENCY and held.requests:
        in_flight = {f"other {number}": store.now_ms() + 60_000 for number in range(held.requests)}
        store.client.zadd(concurrency_key, in_flight)
    answer = reserve.reserve(
        Request(
            environment_id=ENVIRONMENT_ID,
            edition=JUST_READ,
            evaluation_id="51ab",
            request_id=uuid4().hex,
            request_digest="",
            user_id="ann",
            user_record=JUST_READ,
            amounts=needed,
            counters=(counter,),
            concurrency_keys=(concurrency_key,),
            checks=(check(metric, 0, amount, enforce=True),),
            right_from_ms=present.since_ms,
            right_until_ms=present.until_ms,
            assessment=b"",
            hold=True,
            record_block=False,
            hold_ms=60_000,
            charge_on_expiry=False,
            api_key_id=0,
            requests_per_minute=None,
        )
    )
    assert isinstance(answer, Done), answer
    return answer


def _fields(kind: str, amounts: Amounts) -> dict[str, int]:
    return {f"{kind}{letter}": value for letter, value in zip(LETTERS, amounts, strict=True)}


@pytest.fixture
def counting_environment(empty_store: None) -> None:
    sync(ENVIRONMENT_ID, "1.t", [TRACKED.name(PAIR)], ask(ENVIRONMENT_ID))


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(Metric),
    st.integers(-3, 3) | EDGES,
    st.tuples(st.integers(0, 10**8), st.integers(0, 10**8), AMOUNTS),
    STORED,
    STORED,
)
@example(Metric.COST_USD, 0, (0, 0, 1), (0, 0, 0, COUNT_LIMIT_MAX - 1), (0, 0, 0, 0))
@example(Metric.COST_USD, 0, (0, 0, 1), (0, 0, 0, COUNT_LIMIT_MAX - 2), (0, 0, 0, 2))
@example(Metric.TOKENS, -1, (0, 0, 0), (5, 5, 5, 5), (5, 5, 5, 5))
def test_the_reserve_script_decides_as_decide_does(
    counting_environment: None,
    metric: Metric,
    slack: int,
    call: tuple[int, int, int],
    used_drawn: tuple[int, int, int, int],
    held_drawn: tuple[int, int, int, int],
) -> None:
    needed, used, held = Amounts(1, *call), Amounts(*used_drawn), Amounts(*held_drawn)
    if metric is Metric.CONCURRENCY:
        used, held = Amounts(), Amounts(requests=held.requests % 20)
    # The limits that tell the most are those beside the sum.
    total = used.of(metric) + held.of(metric) + needed.of(metric)
    amount = min(max(0, total + slack), COUNT_LIMIT_MAX) if abs(slack) <= 3 else slack % COUNT_LIMIT_MAX

    done = reserved(metric, amount, needed, used, held)

    exceeded = exceeds(amount, needed.of(metric), used.of(metric), held.of(metric))
    assert done.held is not exceeded
    reading = done.readings[0]
    if used.of(metric) + held.of(metric) < 2**53:
        assert reading == Reading(used.of(metric), held.of(metric))
    in_call = {
        "input_tokens": needed.input_tokens,
        "output_tokens": needed.output_tokens,
        "cost_nano": needed.cost_nano,
    }
    decision = decided((limit(metric, amount), reading.used, reading.held), **in_call)
    assert decision.verdict.allowed is done.held


# A call that names no cap takes what its limits leave: the script and `decide` agree on how much.

RATES = st.sampled_from([0, 1, 999_999, 1_000_000, 1_000_001, 3_750_000_000, 15_000_000_000, RATE_MAX_NANO])
LIMITED = st.tuples(
    st.sampled_from(
        [Metric.TOKENS, Metric.OUTPUT_TOKENS, Metric.COST_USD, Metric.INPUT_TOKENS, Metric.REQUESTS]
    ),
    st.integers(-2, 2) | st.integers(0, COUNT_LIMIT_MAX),
    st.booleans(),
)


def flexible(
    limits: tuple[LimitRef, ...], input_tokens: int, output_tokens: int, input_rate: int, output_rate: int
) -> Assessment:
    return assessment(
        *limits,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_nano=held_cost_nano(input_tokens, input_rate, output_tokens, output_rate),
        least_output_tokens=min(1, output_tokens),
        input_rate=input_rate,
        output_rate=output_rate,
    )


def held_by_script(call: Assessment, used: Amounts, held: Amounts) -> tuple[Done, Amounts | None]:
    """What the script answers with the counter standing like this, and what it held."""
    present = TRACKED.at(store.now_ms())
    (counter,) = present.counters(Subjects(user_id="ann"), "gpt-4o")
    store.client.delete(counter.key)
    fields = {"born": store.now_ms()} | _fields("u", used) | _fields("h", held)
    store.client.hset(counter.key, mapping=fields)
    request_id = uuid4().hex
    answer = reserve.reserve(
        Request(
            environment_id=ENVIRONMENT_ID,
            edition=JUST_READ,
            evaluation_id="51ab",
            request_id=request_id,
            request_digest="",
            user_id="ann",
            user_record=JUST_READ,
            amounts=call.amounts,
            least=call.least,
            input_rate=call.input_rate,
            output_rate=call.output_rate,
            counters=(counter,),
            concurrency_keys=(),
            checks=tuple(check(each.metric, 0, each.amount, enforce=each.enforce) for each in call.limits),
            right_from_ms=present.since_ms,
            right_until_ms=present.until_ms,
            assessment=b"",
            hold=True,
            record_block=False,
            hold_ms=60_000,
            charge_on_expiry=False,
            api_key_id=0,
            requests_per_minute=None,
        )
    )
    assert isinstance(answer, Done), answer
    text = store.client.hget(reservation_key(ENVIRONMENT_ID, request_id), "am")
    in_counter = store.client.hmget(counter.key, _fields("h", held))
    if text is None:
        return answer, None
    taken = Amounts(*map(int, text.split()))
    after = Amounts(*(int(now) - before for now, before in zip(in_counter, held, strict=True)))
    assert after == taken, "what the reservation says is what the counter holds"
    return answer, taken


@settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.tuples(st.integers(0, 2_000) | st.integers(0, 10**8), st.integers(0, 2_000) | st.integers(0, 10**8)),
    RATES,
    RATES,
    st.lists(LIMITED, min_size=1, max_size=4),
    st.tuples(*[st.integers(0, 10**6) | st.integers(0, 10**15)] * 2),
)
@example((0, 1024), 0, RATE_MAX_NANO, [(Metric.COST_USD, COUNT_LIMIT_MAX, True)], (0, 0))
@example((10**8, 10**8), RATE_MAX_NANO, RATE_MAX_NANO, [(Metric.COST_USD, -1, True)], (0, 0))
@example((374, 1024), 150_000, 600_001, [(Metric.COST_USD, 200_000, True)], (1, 0))
def test_the_reserve_script_gives_a_call_without_a_cap_what_decide_gives_it(
    counting_environment: None,
    tokens: tuple[int, int],
    input_rate: int,
    output_rate: int,
    limited: list[tuple[Metric, int, bool]],
    standing: tuple[int, int],
) -> None:
    used, held = (Amounts(each, each // 2, each - each // 2, each) for each in standing)
    asked = flexible((), *tokens, input_rate, output_rate)
    limits = []
    for metric, drawn, enforce in limited:
        # The limits that tell the most are those beside what the whole call, or the least of it, takes.
        beside = used.of(metric) + held.of(metric) + asked.amounts.of(metric)
        amount = beside + drawn if abs(drawn) <= 2 else drawn
        limits.append(limit(metric, min(max(amount, 0), COUNT_LIMIT_MAX), enforce=enforce))
    call = flexible(tuple(limits), *tokens, input_rate, output_rate)

    done, taken = held_by_script(call, used, held)

    decision = decide(call, done.readings, NOW_MS)
    assert decision.verdict.allowed is done.held
    if taken is None:
        assert decision.amounts == call.amounts, "a blocked call is told what it asked for"
        return
    assert taken == decision.amounts
    assert call.least.output_tokens <= taken.output_tokens <= call.output_tokens
    for each in limits:
        if each.enforce and taken.of(each.metric) > 0:
            assert used.of(each.metric) + held.of(each.metric) + taken.of(each.metric) <= each.amount
    if taken.output_tokens < call.output_tokens:
        more = call.with_output(taken.output_tokens + 1)
        assert any(
            used.of(each.metric) + held.of(each.metric) + more.of(each.metric) > each.amount
            for each in limits
            if each.enforce
        ), "no token is left that would have fit"


def test_a_call_that_names_its_cap_is_held_as_asked_for_or_not_at_all() -> None:
    small = limit(Metric.TOKENS, 99)

    assert decided((limit(Metric.TOKENS, 100), 0, 0)).amounts.output_tokens == 70
    assert not decided((small, 0, 0)).verdict.allowed


def test_a_call_without_a_cap_takes_the_last_token_and_no_more() -> None:
    fields = {"least_output_tokens": 1}

    last = decided((limit(Metric.TOKENS, 100), 60, 9), **fields)
    none = decided((limit(Metric.TOKENS, 100), 60, 10), **fields)

    assert (last.verdict.allowed, last.amounts.output_tokens) == (True, 1)
    assert (none.verdict.allowed, none.verdict.reason_class) == (False, "transient")


def test_a_limit_on_trial_cuts_nothing() -> None:
    """What it would have said is what it would have said in force: that the call passes, cut."""
    trial = decided((limit(Metric.TOKENS, 40, enforce=False), 0, 0), least_output_tokens=1)
    beyond = decided((limit(Metric.TOKENS, 30, enforce=False), 0, 0), least_output_tokens=1)

    assert (trial.amounts.output_tokens, trial.shadow) == (70, None)
    assert beyond.shadow is not None
    assert (beyond.verdict.allowed, beyond.amounts.output_tokens) == (True, 70)
