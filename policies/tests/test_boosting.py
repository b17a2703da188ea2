"""What boosts make of the terms of a call, and how they travel with an end user."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.deciding.boosting import boosted
from policies.deciding.call_terms import CallTerms, terms_of
from policies.resolution import Matched, StoredPolicy
from policies.rules import COUNT_LIMIT_MAX, LimitRule, Mode, PolicyRule
from usage.amounts import Per, Subjects
from usage.assessment import PolicyRef
from usage.boosts import BoostRef, raised
from usage.counting.stored_user import UNKNOWN, StoredUser, parse_record, record, with_boosts
from usage.metrics import Metric
from usage.windows import Span, Window

ANN = Subjects(user_id="ann", feature="chat", plan="free", run_id="r1")


def boost(per: Per = Per.USER, subject: str = "ann", **fields: object) -> BoostRef:
    values = {
        "metric": Metric.REQUESTS,
        "window": Window.DAY,
        "extra": 10,
        "starts_at_ms": 100,
        "ends_at_ms": 200,
    } | fields
    return BoostRef(per=per, subject=subject, **values)  # type: ignore[arg-type]


def terms(per: Per = Per.USER, amount: int = 5, mode: Mode = Mode.ENFORCE) -> CallTerms:
    limit = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=amount, per=per)
    rule = PolicyRule(name="Everyone", limits=(limit,), mode=mode)
    policy = StoredPolicy(ref=PolicyRef("1", "Everyone", 1, "default"), ordinal=1, rule=rule)
    return terms_of(Matched(override=policy, guardrails=()), ANN, {Window.DAY: Span(0, 1000)}, ())


def amount(terms_: CallTerms, *boosts: BoostRef, now_ms: int = 150) -> tuple[int, int]:
    found, _ = boosted(terms_, boosts, ANN, now_ms)
    (limit,) = found.limits
    return limit.amount, (found.boosted or {}).get(raised(limit.per, limit.metric, limit.window), 0)


def test_boosts_that_run_add_up() -> None:
    assert amount(terms(), boost(), boost(extra=3)) == (18, 13)


@pytest.mark.parametrize(("per", "subject"), [
    (Per.USER, "ann"), (Per.FEATURE, "chat"), (Per.PLAN, "free"), (Per.ENVIRONMENT, ""),
])  # fmt: skip
def test_a_boost_raises_the_limits_per_its_own_kind_of_subject_alone(per: Per, subject: str) -> None:
    assert [amount(terms(kind), boost(per, subject))[1] for kind in Per] == [
        10 if kind is per else 0 for kind in Per
    ]


@pytest.mark.parametrize("other", [
    boost(subject="bo"), boost(metric=Metric.TOKENS), boost(window=Window.MONTH), boost(Per.PLAN, "pro"),
])  # fmt: skip
def test_a_boost_of_something_else_changes_nothing(other: BoostRef) -> None:
    assert boosted(terms(), [other], ANN, 150)[0].limits == terms().limits


def test_terms_are_right_until_the_next_boost_starts_or_ends() -> None:
    first, second = boost(), boost(starts_at_ms=150, ends_at_ms=300)
    right = [boosted(terms(), [first, second], ANN, now_ms) for now_ms in (99, 100, 149, 150, 200, 300)]
    assert [found.limits[0].amount for found, _ in right] == [5, 15, 15, 25, 15, 5]
    assert [span for _, span in right] == [
        Span(0, 100), Span(100, 150), Span(100, 150), Span(150, 200), Span(200, 300), Span(300, None),
    ]  # fmt: skip


def test_somebody_elses_boost_leaves_the_terms_right_for_good() -> None:
    assert boosted(terms(), [boost(subject="bo")], ANN, 150)[1] == Span(0, None)


def test_none_is_raised_beyond_what_can_be_counted() -> None:
    assert amount(terms(amount=COUNT_LIMIT_MAX - 4), boost()) == (COUNT_LIMIT_MAX, 10)


def test_a_limit_of_none_and_one_on_trial_are_raised_too() -> None:
    assert amount(terms(amount=0), boost()) == (10, 10)
    assert amount(terms(mode=Mode.MONITOR), boost()) == (15, 10)


@given(
    plan=st.text(st.characters(exclude_categories=["Cs"])),
    subject=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_record_carries_its_boosts(plan: str, subject: str) -> None:
    boosts = (boost(subject=subject), boost(extra=COUNT_LIMIT_MAX))
    assert parse_record(with_boosts(record(plan, True), boosts)) == StoredUser(
        known=True, plan=plan, blocked=True, boosts=boosts
    )
    assert with_boosts(UNKNOWN, ()) == UNKNOWN
    assert not parse_record(with_boosts(UNKNOWN, boosts)).known
