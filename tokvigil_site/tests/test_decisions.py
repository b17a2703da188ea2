"""`GET /v1/decisions`: the blocked calls."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.db import connection

from audit import roles
from policies.blocked import counts, decision_log
from policies.blocked.counts import Question
from policies.models import BlockedDecision
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, limits, set_clock
from tokvigil_site.tests.callers import assert_problem
from usage import assessment
from usage.counting import blocked_stream
from usage.counting.store import StoreUnavailable
from usage.ledger.buckets import Range

NONE = "{metric: requests, window: day, amount: 0, per: user}"


@pytest.fixture
def blocking(environment: Environment) -> None:
    apply_policies(environment, limits(NONE))


def decisions(api: Api, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"/v1/decisions?{query}")
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.json["decisions"]
    return found


def test_a_blocked_call_is_listed_at_once_with_its_reason(api: Api, blocking: None) -> None:
    answered = api.evaluate("anna", feature="chat", request_id="r1")

    (decision,) = decisions(api, "allowed=false")

    assert decision["request_id"] == "r1"
    assert decision["user_id"] == "anna"
    assert (decision["feature"], decision["plan"], decision["run_id"]) == ("chat", None, None)
    assert decision["allowed"] is False
    for name in ("reason_code", "reason_class", "message", "limit_state"):
        assert decision[name] == answered[name]
    assert decision["policy"] == {name: answered["policy"][name] for name in ("id", "name", "version")}


def test_a_blocked_call_names_the_key_that_asked(api: Api, blocking: None, environment: Environment) -> None:
    second = Api(environment)
    api.evaluate(request_id="r1")
    second.evaluate(request_id="r2")

    assert {each["request_id"]: each["key_id"] for each in decisions(api)} == {
        "r1": api.key.key_id,
        "r2": second.key.key_id,
    }
    assert [each["request_id"] for each in decisions(api, f"key_id={second.key.key_id}")] == ["r2"]
    assert decisions(api, "key_id=nobody") == []
    assert BlockedDecision.objects.get(request_id="r2").api_key_id == second.key.pk


def test_the_key_of_another_environment_finds_nothing(api: Api, blocking: None, other_api: Api) -> None:
    api.evaluate()

    assert decisions(api, f"key_id={other_api.key.key_id}") == []


def test_a_decision_of_a_version_that_knew_no_keys_is_stored_without(
    api: Api, blocking: None, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = assessment.pack
    monkeypatch.setattr(
        assessment, "pack", lambda made: packed(msgspec.structs.replace(made, api_key_id=None))
    )
    api.evaluate()

    assert [each["key_id"] for each in decisions(api)] == [None]


def test_a_blocked_call_that_passed_when_it_was_asked_for_again_says_so(
    api: Api, environment: Environment
) -> None:
    apply_policies(environment, limits("{metric: concurrency, window: total, amount: 1, per: user}"))
    first = api.evaluate("anna")
    for request_id in ("again", "given-up"):
        assert not api.evaluate("anna", request_id=request_id)["allowed"]
    assert [decision["passed_later"] for decision in decisions(api)] == [False, False]
    api.report(first["request_id"], "anna")

    assert api.evaluate("anna", request_id="again")["allowed"]
    assert api.report("again", "anna").status == 201

    assert {decision["request_id"]: decision["passed_later"] for decision in decisions(api)} == {
        "again": True,
        "given-up": False,
    }


def asked_twice(api: Api, environment: Environment, request_id: str) -> dict[str, Any]:
    """Blocked while another call takes up the room, and again when that has used it up."""
    other = api.evaluate("anna")
    assert api.evaluate("anna", request_id=request_id)["reason_class"] == "transient"
    api.report(other["request_id"], "anna")
    again = api.evaluate("anna", request_id=request_id)
    assert again["reason_class"] == "exhausted"
    return again


@pytest.mark.parametrize("stored_between", [False, True])
def test_a_call_that_is_blocked_again_is_one_blocked_call_with_its_last_reason(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch, stored_between: bool
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    if stored_between:
        report = api.report
        monkeypatch.setattr(api, "report", lambda *given: (decision_log.drain(environment), report(*given)))
    asked_twice(api, environment, "r1")
    api.evaluate("anna", request_id="r2")

    found = decisions(api)

    assert [(each["request_id"], each["reason_class"]) for each in found] == [
        ("r2", "exhausted"),
        ("r1", "exhausted"),
    ]
    assert [each["message"] for each in found] == [found[0]["message"]] * 2
    today = Range(datetime.now(UTC) - timedelta(days=2), datetime.now(UTC) + timedelta(days=2))
    assert counts.count(Question(environment.pk, today)) == 2
    assert counts.most(Question(environment.pk, today), "user_id", 9) == [("anna", 2)]


def test_an_answer_that_is_stored_late_does_not_take_the_place_of_a_later_one(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two store the same stream, and the slower has only seen the first."""
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    asked_twice(api, environment, "r1")
    both = blocked_stream.blocked(environment.pk, 9)
    decision_log.drain(environment)
    with monkeypatch.context() as patched:
        patched.setattr(blocked_stream, "blocked", lambda *_: both[:1])
        decision_log.drain(environment)

    assert [each["reason_class"] for each in decisions(api)] == ["exhausted"]


def test_the_same_request_id_on_another_day_or_elsewhere_is_another_call(
    api: Api, blocking: None, other_environment: Environment, other_api: Api
) -> None:
    apply_policies(other_environment, limits(NONE))
    now = datetime.now(UTC)
    for moment in (now, now + timedelta(days=1, minutes=1)):
        set_clock(moment)
        api.evaluate(request_id="r1")
        other_api.evaluate(request_id="r1")
        decisions(api)

    assert len(decisions(api)) == len(decisions(other_api)) == 2


def test_an_allowed_call_is_not_listed(api: Api) -> None:
    api.evaluate()

    assert decisions(api) == []


def test_whoever_asks_for_allowed_calls_is_told_where_they_are(api: Api) -> None:
    answer = api.get("/v1/decisions?allowed=true")

    assert_problem(answer, 422, "VALIDATION_ERROR", field="allowed")
    assert "GET /v1/usage" in answer.json["detail"]


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_pages_show_each_decision_once_newest_first(api: Api, blocking: None, limit: int) -> None:
    """Many are of the same millisecond."""
    for number in range(5):
        api.evaluate(request_id=f"r{number}")
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = api.get(f"/v1/decisions?limit={limit}" + (f"&cursor={cursor}" if cursor else "")).json
        found += [decision["request_id"] for decision in page["decisions"]]
        cursor = page["next_cursor"]

    assert found == ["r4", "r3", "r2", "r1", "r0"]


def test_equal_times_are_told_apart_by_the_row(api: Api, blocking: None) -> None:
    for number in range(3):
        api.evaluate(request_id=f"r{number}")
    decisions(api)
    BlockedDecision.objects.update(decided_at=datetime.now(UTC))
    first = api.get("/v1/decisions?limit=2").json

    assert [d["request_id"] for d in decisions(api, f"cursor={first['next_cursor']}")] == ["r0"]


def test_the_filters_leave_the_others_out(api: Api, blocking: None, environment: Environment) -> None:
    api.evaluate("anna")
    environment.frozen = True
    environment.save()
    from tenants import revisions

    revisions.bump(environment.pk)
    api.evaluate("ben")

    assert [d["user_id"] for d in decisions(api, "reason_code=ENVIRONMENT_FROZEN")] == ["ben"]
    assert [d["user_id"] for d in decisions(api, "user_id=anna")] == ["anna"]
    assert decisions(api, "user_id=anna&reason_code=ENVIRONMENT_FROZEN") == []


def test_another_tenants_decisions_are_not_there(api: Api, blocking: None, other_api: Api) -> None:
    api.evaluate("anna")
    api.evaluate("anna")
    cursor = api.get("/v1/decisions?limit=1").json["next_cursor"]

    assert decisions(other_api) == []
    assert decisions(other_api, f"cursor={cursor}") == []


def test_without_the_counter_store_what_is_stored_is_answered(
    api: Api, blocking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.evaluate("anna")
    decisions(api)

    def away(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(blocked_stream, "blocked", away)

    assert [decision["user_id"] for decision in decisions(api)] == ["anna"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("allowed=yes", "allowed"),
        ("allowed=", "allowed"),
        ("reason_code=SOMETHING", "reason_code"),
        ("reason_code=a%00", "reason_code"),
        ("user_id=", "user_id"),
        ("limit=0", "limit"),
        ("limit=true", "limit"),
        ("cursor=x", "cursor"),
    ],
)
def test_a_bad_parameter_is_refused_with_a_hint(api: Api, query: str, field: str) -> None:
    assert_problem(api.get(f"/v1/decisions?{query}"), 422, "VALIDATION_ERROR", field=field)


def months_there() -> list[date]:
    return [each.month for each in decision_log.TABLE.partitions()]


@pytest.fixture
def far_months() -> Iterator[tuple[datetime, datetime]]:
    """Two months far from now; what the test makes of them is gone afterwards."""
    before = set(months_there())
    yield datetime(2031, 1, 15, tzinfo=UTC), datetime(2031, 2, 15, tzinfo=UTC)
    with roles.as_owner(), connection.cursor() as cursor:
        for month in {*months_there()} - before:
            cursor.execute(f"DROP TABLE {decision_log.TABLE.name(month)}")


def test_a_decision_of_a_month_without_a_partition_makes_it(
    api: Api, blocking: None, far_months: tuple[datetime, datetime]
) -> None:
    set_clock(far_months[0])
    api.evaluate(request_id="r1")

    assert [decision["request_id"] for decision in decisions(api)] == ["r1"]
    assert date(2031, 1, 1) in months_there()


def test_an_entry_that_is_drained_twice_is_one_row(
    api: Api, blocking: None, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker died after the row was stored and before the entry was dropped."""
    api.evaluate(request_id="r1")
    with monkeypatch.context() as patched:
        patched.setattr(blocked_stream, "drop_blocked", lambda *_: None)
        decision_log.drain(environment, batches_max=1)
    decision_log.drain(environment)

    assert BlockedDecision.objects.filter(environment=environment).count() == 1


def test_a_month_of_decisions_goes_when_its_last_day_is_old_enough(
    api: Api, blocking: None, environment: Environment, far_months: tuple[datetime, datetime]
) -> None:
    now = datetime.now(UTC)
    for number, moment in enumerate((*far_months, now)):
        set_clock(moment)
        api.evaluate(request_id=f"r{number}")
        decision_log.drain(environment)
    kept_days = timedelta(days=settings.BLOCKED_DECISIONS_KEPT_DAYS)
    before = months_there()

    decision_log.keep_up(datetime(2031, 2, 1, tzinfo=UTC) + kept_days - timedelta(seconds=1))
    assert date(2031, 1, 1) in months_there()
    gone = decision_log.keep_up(datetime(2031, 2, 1, tzinfo=UTC) + kept_days)

    assert "blocked_decision_2031_01" in gone
    assert date(2031, 1, 1) not in months_there()
    assert date(2031, 2, 1) in months_there()
    decision_log.ensure([datetime(month.year, month.month, 1, tzinfo=UTC) for month in before])
    assert [row.request_id for row in BlockedDecision.objects.filter(environment=environment)] == ["r1"]


def test_a_call_that_passed_later_is_known_as_long_as_the_ledger_has_it(
    api: Api, blocking: None, environment: Environment
) -> None:
    """Request ids are kept for a shorter time than decisions may be."""
    api.evaluate(request_id="r1")
    api.report("r1")
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM usage_request WHERE environment_id = %s", [environment.pk])

    assert [decision["passed_later"] for decision in decisions(api)] == [True]
