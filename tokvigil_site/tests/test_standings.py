"""How full the limits in force are."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from policies import boosts
from policies.models import Boost
from policies.standing import limit_subjects, standing_wording
from policies.standing.standings import Standing, standings
from tenants.console.parts import State
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, later, limits, set_price
from usage.amounts import Amounts, Subjects
from usage.counting import in_flight
from usage.counting.store import StoreUnavailable, store
from usage.ledger import leading
from usage.ledger.writing import record
from usage.settling import recount
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import report

DAILY = "{metric: requests, window: day, amount: 10, per: user}"


def only(environment: Environment) -> Standing:
    (standing,) = standings(environment)
    return standing


def of(environment: Environment, policy: str) -> Standing:
    (found,) = (each for each in standings(environment) if each.policy.name == policy)
    return found


def taken(standing: Standing) -> list[tuple[str, int | None, int | None]]:
    return [(each.subject.user_id, each.used, each.held) for each in standing.subjects]


def seen(environment: Environment, user: str, calls: int = 1, **subjects: Any) -> None:
    """In the ledger alone: as if the store had lost it."""
    record(
        [
            report(
                environment,
                f"{user}-{subjects}-{number}",
                charged_at=datetime.now(UTC),
                subjects=Subjects(user_id=user, **subjects),
            )
            for number in range(calls)
        ]
    )


def test_the_fullest_user_comes_first_with_what_is_used_and_held(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits(DAILY))
    for user, calls in (("ann", 2), ("bob", 8), ("cy", 10)):
        for _ in range(calls):
            api.use(user)
    api.evaluate("bob")

    standing = only(environment)

    assert taken(standing) == [("cy", 10, 0), ("bob", 8, 1), ("ann", 2, 0)]
    assert (standing.near, standing.full, standing.complete) == (1, 1, True)
    assert standing.bar is not None
    assert standing.bar.state is State.FULL
    assert standing.resets_at is not None


def test_what_nobody_used_has_no_subject_and_is_known_to_have_none(environment: Environment) -> None:
    apply_policies(environment, limits(DAILY))
    assert (only(environment).subjects, only(environment).complete) == ((), True)


@pytest.mark.parametrize(
    ("per", "subjects"),
    [
        ("environment", {}),
        ("plan", {"plan": "free"}),
        ("feature", {"feature": "chat"}),
    ],
)
def test_what_is_shared_is_read_from_its_counter(
    environment: Environment, api: Api, per: str, subjects: dict[str, str]
) -> None:
    row = f"{{metric: requests, window: month, amount: 4, per: {per}}}"
    apply_policies(environment, "plans: [free]\n" + limits(row))
    api.use("ann", plan="free", feature="chat")
    api.evaluate("bob", plan="free", feature="chat")

    standing = only(environment)

    assert [each.subject for each in standing.subjects] == [Subjects(user_id="", **subjects)]
    assert [(each.used, each.held) for each in standing.subjects] == [(1, 1)]


def test_of_what_the_scope_names_it_is_known_too_what_nobody_used(environment: Environment, api: Api) -> None:
    row = "{metric: cost_usd, window: minute, amount: 5, per: %s}"
    policies = "".join(
        f"  - {{name: {name}, kind: guardrail, scope: {{{scope}}}, limits: [{row % per}]}}\n"
        for name, scope, per in (
            ("of all", "", "environment"),
            ("of free", "plan: free", "plan"),
            ("of chat", "feature: chat", "feature"),
            ("of ann", "user: ann", "user"),
        )
    )
    apply_policies(environment, f"plans: [free]\npolicies:\n{policies}")
    api.evaluate("zoe")
    # Counters of the minute before are not trusted to be complete.
    store.clock_offset_ms += 120_000
    api.evaluate("zoe")

    found = standings(environment)

    assert [each.policy.name for each in found] == ["of all", "of free", "of chat", "of ann"]
    assert [(each.fullest.used, each.complete) for each in found if each.fullest] == [(0, True)] * 4


def test_calls_in_flight_are_what_a_concurrency_limit_holds(environment: Environment, api: Api) -> None:
    row = "{metric: concurrency, window: total, amount: 2, per: user}"
    apply_policies(environment, limits(row))
    api.use("ann")
    assert taken(only(environment)) == [("ann", 0, 0)]
    api.evaluate("ann")
    assert taken(only(environment)) == [("ann", 0, 1)]
    assert only(environment).resets_at is None


def test_who_only_holds_is_the_fullest_as_soon_as_the_limit_stops_them(
    environment: Environment, api: Api
) -> None:
    apply_policies(environment, limits(DAILY))
    for _ in range(10):
        api.evaluate("ana")
    assert not api.evaluate("ana")["allowed"]
    assert taken(only(environment)) == [("ana", 0, 10)]

    api.use("zoe")

    standing = only(environment)
    assert taken(standing) == [("ana", 0, 10), ("zoe", 1, 0)]
    assert (standing.full, standing.complete) == (1, True)
    assert standing_wording.says(standing) == "ana: 0 of 10 requests a day, 10 more held"


@pytest.mark.parametrize(
    ("per", "subject"),
    [
        ("user_feature", Subjects(user_id="ana", feature="chat")),
        ("feature", Subjects(user_id="", feature="chat")),
        ("plan", Subjects(user_id="", plan="free")),
        ("run", Subjects(user_id="", run_id="run-1")),
    ],
)
def test_holds_are_those_of_the_subject_that_the_limit_counts(
    environment: Environment, api: Api, per: str, subject: Subjects
) -> None:
    row = f"{{metric: requests, window: day, amount: 4, per: {per}}}"
    apply_policies(environment, "plans: [free]\n" + limits(row))
    api.evaluate("ana", plan="free", feature="chat", run_id="run-1")
    api.evaluate("ana", plan="free", feature="chat", run_id="run-1")

    assert [(each.subject, each.used, each.held) for each in only(environment).subjects] == [(subject, 0, 2)]


def test_who_holds_under_another_policy_is_not_among_those_of_this_one(
    environment: Environment, api: Api
) -> None:
    apply_policies(
        environment,
        f"""policies:
  - {{name: All, unknown_price: allow, limits: [{DAILY}]}}
  - {{name: Kavya, unknown_price: allow, scope: {{user: kavya}}, limits: [{DAILY}]}}
""",
    )
    api.evaluate("ann")
    api.evaluate("kavya")
    found = {each.policy.name: {user for user, *_ in taken(each)} for each in standings(environment)}
    assert found == {"All": {"ann"}, "Kavya": {"kavya"}}


def test_a_limit_on_calls_at_once_is_known_whole_by_the_calls_in_flight(
    environment: Environment, api: Api
) -> None:
    row = "{metric: concurrency, window: total, amount: 2, per: user}"
    apply_policies(environment, limits(row))
    assert standing_wording.says(only(environment)) == "no calls in flight"
    api.evaluate("ann")
    api.evaluate("ann")
    standing = only(environment)
    assert (taken(standing), standing.full, standing.complete) == ([("ann", 0, 2)], 1, True)


def test_more_calls_in_flight_than_are_looked_at_are_said_to_be_more(
    environment: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(DAILY))
    monkeypatch.setattr(in_flight, "OF_ENVIRONMENT_MAX", 2)
    for user in ("ann", "ben", "ben"):
        later(seconds=1)
        api.evaluate(user)
    standing = only(environment)
    assert (taken(standing), standing.complete) == ([("ben", 0, 2)], False)


def test_whom_a_limit_meets_that_was_published_after_their_call_is_not_said_to_hold(
    environment: Environment, api: Api
) -> None:
    apply_policies(environment, limits("{metric: requests, window: month, amount: 10, per: environment}"))
    api.evaluate("ann")
    apply_policies(environment, limits(DAILY))
    assert taken(only(environment)) == [("ann", 0, None)]


def test_whom_another_policy_meets_is_not_among_those_of_this_one(environment: Environment, api: Api) -> None:
    apply_policies(
        environment,
        f"""plans: [free]
policies:
  - {{name: All, unknown_price: allow, limits: [{DAILY}]}}
  - {{name: Free, unknown_price: allow, scope: {{plan: free}}, limits: [{DAILY}]}}
  - {{name: Kavya, unknown_price: allow, scope: {{user: kavya}}, limits: [{DAILY}]}}
  - {{name: Rail, unknown_price: allow, kind: guardrail, limits: [{DAILY}]}}
""",
    )
    for user, plan in (("ann", None), ("fred", "free"), ("kavya", "free")):
        api.use(user, plan=plan)
    found = {each.policy.name: {user for user, *_ in taken(each)} for each in standings(environment)}
    assert found == {
        "All": {"ann"},
        "Free": {"fred"},
        "Kavya": {"kavya"},
        "Rail": {"ann", "fred", "kavya"},
    }


def test_users_are_ranked_by_all_that_their_counter_counts(environment: Environment, api: Api) -> None:
    apply_policies(
        environment,
        f"""policies:
  - {{name: Code, unknown_price: allow, kind: guardrail, scope: {{feature: code}}, limits: [{DAILY}]}}
  - {{name: Free, unknown_price: allow}}
""",
    )
    for user, feature, calls in (
        ("ann", "code", 2),
        ("bob", "code", 1),
        ("bob", "chat", 4),
        ("cy", "chat", 5),
    ):
        for _ in range(calls):
            api.use(user, feature=feature)
    assert taken(of(environment, "Code")) == [("bob", 5, 0), ("ann", 2, 0)]


def test_a_watched_limit_can_be_over(environment: Environment, api: Api) -> None:
    apply_policies(
        environment, limits("{metric: requests, window: day, amount: 1, per: user}", mode="monitor")
    )
    api.use("ann")
    api.use("ann")
    standing = only(environment)
    assert standing.watched
    assert standing.bar is not None
    assert standing.bar.state is State.OVER
    assert standing.full == 1


def test_a_policy_that_is_off_does_not_stand_anywhere(environment: Environment) -> None:
    apply_policies(environment, limits(DAILY, mode='"off"'))
    assert standings(environment) == []


def test_costs_are_those_of_the_price_book(environment: Environment, api: Api) -> None:
    set_price("gpt-x", input_usd="1000")
    apply_policies(environment, limits("{metric: cost_usd, window: month, amount: 5, per: user}"))
    api.evaluate("ann", model="gpt-x", input_tokens=1000)
    seen(environment, "ann")
    assert taken(only(environment)) == [("ann", 0, 10**9)]


def test_of_what_is_used_and_held_cents_are_said_and_of_the_limit_all(
    environment: Environment, api: Api
) -> None:
    set_price("gpt-x", input_usd="1234.567")
    apply_policies(environment, limits("{metric: cost_usd, window: month, amount: '5.125', per: user}"))
    api.evaluate("ann", model="gpt-x", input_tokens=1000)
    seen(environment, "ann")
    assert standing_wording.says(only(environment)) == "ann: $0.00 of $5.125 a month, $1.23 more held"


def test_a_store_that_is_away_leaves_used_to_the_ledger_and_held_unknown(
    environment: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(
        environment,
        limits(
            DAILY,
            "{metric: requests, window: day, amount: 10, per: environment}",
            "{metric: requests, window: total, amount: 10, per: user}",
            "{metric: concurrency, window: total, amount: 10, per: environment}",
        ),
    )
    api.use("ann")
    with monkeypatch.context() as patch:
        patch.setattr(store, "breaker", _Away())
        per_user, shared, ever, in_flight = standings(environment)
    assert taken(per_user) == [("ann", 1, None)]
    assert taken(shared) == [("", 1, None)]
    assert taken(ever) == [("ann", None, None)], "the ledger was asked for the last month alone"
    assert taken(in_flight) == [("", None, None)]
    assert (ever.bar, in_flight.bar, in_flight.near, in_flight.full) == (None, None, 0, 0)


class _Away:
    def admit(self) -> bool:
        raise StoreUnavailable("away")


def test_a_counter_that_is_not_complete_is_not_believed(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits(DAILY))
    api.use("ann")
    seen(environment, "bob", calls=3)
    store.client.flushdb()
    assert sorted(taken(only(environment))) == [("ann", 1, None), ("bob", 3, None)]
    api.evaluate("ann")
    assert sorted(taken(only(environment)))[0] == ("ann", 1, 1)


def test_a_ledger_that_takes_too_long_leaves_users_unknown(
    environment: Environment, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    apply_policies(
        environment, limits(DAILY, "{metric: requests, window: day, amount: 10, per: environment}")
    )
    api.use("ann")
    slow = "(SELECT count(*) FROM generate_series(1, 100000000)) >= 0 AND %s"
    monkeypatch.setattr(limit_subjects, "LEDGER_MS_MAX", 100)
    original = leading.leading

    def slowly(*arguments: Any, **options: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {slow}", [True])
        return original(*arguments, **options)

    monkeypatch.setattr(leading, "leading", slowly)
    with caplog.at_level(logging.WARNING):
        per_user, shared = standings(environment)
    assert (per_user.subjects, per_user.complete) == ((), False)
    assert taken(shared) == [("", 1, 0)]
    assert "statement timeout" in caplog.text


def test_the_statement_timeout_is_what_it_was(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits(DAILY))
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        before = cursor.fetchone()
        standings(environment)
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == before


def test_more_users_than_are_looked_at_are_said_to_be_more(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_subjects, "SUBJECTS_MAX", 3)
    apply_policies(environment, limits(DAILY))
    for number in range(5):
        seen(environment, f"user_{number}", calls=number + 1)
    standing = only(environment)
    assert [user for user, *_ in taken(standing)] == ["user_4", "user_3", "user_2"]
    assert not standing.complete


def test_another_environment_is_not_looked_at(
    environment: Environment, other_environment: Environment, api: Api, other_api: Api
) -> None:
    for each in (environment, other_environment):
        apply_policies(each, limits(DAILY))
    other_api.use("mallory")
    api.use("ann")
    assert taken(only(environment)) == [("ann", 1, 0)]


def test_rolled_up_rows_count_as_the_tail_does(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits(DAILY))
    api.use("ann")
    roll_all(environment.pk)
    api.use("ann")
    assert taken(only(environment)) == [("ann", 2, 0)]
    assert recount.rebuild(environment) == 1
    assert taken(only(environment)) == [("ann", 2, 0)]


def costs(environment: Environment) -> tuple[int, int]:
    trips = store.round_trips
    with CaptureQueriesContext(connection) as queries:
        standings(environment)
    return len(queries), store.round_trips - trips


def test_it_costs_as_much_of_two_hundred_policies_as_of_two(environment: Environment) -> None:
    def policies(count: int) -> str:
        rows = "".join(
            f"  - {{name: p{number}, scope: {{feature: f{number}}}, limits: ["
            f"{DAILY}, {{metric: tokens, window: month, amount: 9, per: feature}}, "
            "{metric: cost_usd, window: month, amount: 9, per: feature}]}\n"
            for number in range(count)
        )
        return f"policies:\n{rows}"

    apply_policies(environment, policies(2))
    seen(environment, "ann", feature="f0")
    few = costs(environment)
    apply_policies(environment, policies(200))
    for number in range(20):
        seen(environment, f"user_{number}", feature=f"f{number}")
    assert costs(environment) == few
    assert few[1] == 2, "who holds anything, and how the counters stand"


def test_only_the_policies_asked_for_are_looked_at(environment: Environment) -> None:
    apply_policies(
        environment, f"policies:\n  - {{name: A, limits: [{DAILY}]}}\n  - {{name: B, limits: [{DAILY}]}}\n"
    )
    wanted = environment.policies.get(name="B")
    assert [each.policy for each in standings(environment, {wanted.pk})] == [wanted]


def test_a_limit_of_none_is_at_its_limit(environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: environment}"))
    standing = only(environment)
    assert standing.full == 1
    assert standing.urgency > (1.0, True)


def test_amounts_of_the_ledger_are_of_the_limits_metric(environment: Environment) -> None:
    apply_policies(environment, limits("{metric: tokens, window: day, amount: 100, per: user}"))
    seen(environment, "ann")
    assert taken(only(environment)) == [
        ("ann", Amounts(1, 10, 20, 300).of(only(environment).limit.metric), None)
    ]


def test_a_boost_is_part_of_how_full_a_limit_is(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 2, per: user}"))
    for _ in range(2):
        api.use("ben")
    ends_at = datetime.now(UTC) + timedelta(days=1)
    boost = Boost(
        environment=environment, per="user", subject="ben", metric="requests", window="day", extra=20,
        reason="A pilot.", ends_at=ends_at,
    )  # fmt: skip
    boosts.give(boost, actor="test")

    (standing,) = standings(environment)

    assert standing.full == 0
    assert standing.bar is not None
    assert (standing.bar.limit, standing.bar.standing, standing.bar.left) == (22, 2, 20)
    assert standing_wording.says(standing) == "ben: 2 of 22 requests a day (20 by boost)"
