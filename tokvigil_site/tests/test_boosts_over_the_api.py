"""`/v1/boosts`: given once by an id that the caller chooses, listed, ended; guarded by the revision, audited."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.utils import timezone

from audit.models import Entry
from policies.api import boosts as views
from policies.api.boost_listing import BoostAnswer
from policies.boosts import USER_MAX
from policies.models import Boost
from tenants.lengths import NAME_LENGTH_MAX, REASON_LENGTH_MAX
from tenants.models import Environment
from tokvigil_site.testing import Answer, Api, apply_policies, at_once, limits
from tokvigil_site.tests.callers import assert_problem

ONE = "6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f"
OTHER = "0b8f6f0e-3d0a-4f4e-9a35-7f6f1c1d2e3f"


def instant(**by: int) -> str:
    return (timezone.now() + timedelta(**by)).isoformat()


def body(**fields: Any) -> dict[str, Any]:
    return {
        "per": "user",
        "subject": "anna",
        "metric": "requests",
        "window": "day",
        "extra": 2,
        "ends_at": instant(hours=1),
        "reason": "Trial week",
    } | fields


def put(api: Api, given: Any, boost_id: str = ONE, *, if_match: str = "*") -> Answer:
    return api.request("PUT", f"/v1/boosts/{boost_id}", given, **{"if-match": if_match})


def listed(api: Api, query: str = "") -> list[str]:
    return [each["boost_id"] for each in api.get(f"/v1/boosts{query}").json["boosts"]]


def actions(environment: Environment) -> list[tuple[str, str]]:
    entries = Entry.objects.filter(tenant_id=environment.tenant_id, action__startswith="boost.").order_by(
        "seq"
    )
    return list(entries.values_list("action", "actor"))


@pytest.fixture(autouse=True)
def policies(environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))


def test_a_boost_binds_the_next_call_until_it_is_ended(api: Api, environment: Environment) -> None:
    assert [api.evaluate("anna")["allowed"] for _ in range(2)] == [True, False]
    answer = put(api, body())
    assert (answer.status, answer.json["state"], answer.json["extra"]) == (201, "running", 2)
    assert api.evaluate("anna")["allowed"]

    for _ in range(2):
        assert api.request("DELETE", f"/v1/boosts/{ONE}").status == 204
    assert not api.evaluate("anna")["allowed"]
    by = f"key:{api.key.key_id}"
    assert actions(environment) == [("boost.given", by), ("boost.ended", by)]
    ended = api.get(f"/v1/boosts/{ONE}").json
    assert (ended["state"], ended["ended_by"], ended["given_by"]) == ("ended", by, by)


def test_sent_again_it_is_not_given_twice(api: Api, environment: Environment) -> None:
    given = body(reason=" Trial week ")
    first = put(api, given)
    again = put(api, given)
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json
    assert again.headers["ETag"] == first.headers["ETag"]
    assert len(actions(environment)) == 1


def test_a_boost_that_is_over_is_not_given_anew(api: Api, environment: Environment) -> None:
    given = body()
    put(api, given)
    api.request("DELETE", f"/v1/boosts/{ONE}")
    past = timezone.now() - timedelta(minutes=1)
    Boost.objects.update(ends_at=past)
    again = put(api, given | {"ends_at": past.isoformat()})
    assert (again.status, again.json["state"]) == (200, "ended")
    assert Boost.objects.count() == 1


@pytest.mark.parametrize(
    "other", [{"extra": 3}, {"subject": "bob"}, {"reason": "Another"}, {"starts_at": instant(minutes=1)}]
)
def test_an_id_is_not_used_for_something_else(api: Api, other: dict[str, Any]) -> None:
    given = body()
    put(api, given)
    assert_problem(put(api, given | other), 409, "IDEMPOTENCY_CONFLICT", field="boost_id")
    assert api.get(f"/v1/boosts/{ONE}").json["extra"] == 2


def test_many_who_send_the_same_give_one(api: Api, environment: Environment) -> None:
    given = body()
    assert sorted(at_once(4, lambda _: put(api, given).status)) == [200, 200, 200, 201]
    assert Boost.objects.count() == len(actions(environment)) == 1


def test_a_revision_that_has_moved_is_not_overwritten(api: Api) -> None:
    seen = api.get("/v1/boosts").headers["ETag"]
    now = put(api, body(per="environment", subject=""), if_match=seen).headers["ETag"]
    assert_problem(put(api, body(), OTHER, if_match=seen), 412, "PRECONDITION_FAILED")
    ending = f"/v1/boosts/{ONE}"
    assert_problem(api.request("DELETE", ending, **{"if-match": seen}), 412, "PRECONDITION_FAILED")
    assert listed(api) == [ONE]
    assert api.request("DELETE", ending, **{"if-match": now}).status == 204


def test_money_is_a_decimal_string(api: Api) -> None:
    answer = put(api, body(metric="cost_usd", window="month", extra="2.50"))
    assert (answer.status, answer.json["extra"]) == (201, "2.50")


def test_what_runs_is_listed_apart_from_what_is_over(api: Api) -> None:
    put(api, body(ends_at=instant(hours=2)), ONE)
    put(api, body(subject="bob", starts_at=instant(hours=1), ends_at=instant(hours=3)), OTHER)
    third = str(uuid.uuid4())
    put(api, body(per="environment", subject=""), third)
    api.request("DELETE", f"/v1/boosts/{third}")

    assert listed(api) == [OTHER, ONE]
    assert listed(api, "?subject=anna") == [ONE]
    assert listed(api, "?per=plan") == []
    assert listed(api, "?ended=true") == [third]
    page = api.get("/v1/boosts?limit=1").json
    assert [each["state"] for each in page["boosts"]] == ["coming"]
    assert listed(api, f"?limit=1&cursor={page['next_cursor']}") == [ONE]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"per": "run"}, "per"),
        ({"per": "everyone"}, "per"),
        ({"per": 1}, "per"),
        ({"subject": ""}, "subject"),
        ({"subject": "a\0b"}, "subject"),
        ({"subject": "u" * (NAME_LENGTH_MAX + 1)}, "subject"),
        ({"per": "environment"}, "subject"),
        ({"per": "plan", "subject": "unknown"}, "subject"),
        ({"metric": "wishes"}, "metric"),
        ({"window": "decade"}, "window"),
        ({"window": None}, "window"),
        ({"extra": 0}, "extra"),
        ({"extra": 10**13}, "extra"),
        ({"extra": 10**400}, "extra"),
        ({"extra": 1.5}, "extra"),
        ({"extra": "2"}, "extra"),
        ({"extra": True}, "extra"),
        ({"metric": "cost_usd", "extra": 2}, "extra"),
        ({"metric": "cost_usd", "extra": "NaN"}, "extra"),
        ({"metric": "cost_usd", "extra": "0"}, "extra"),
        ({"metric": "cost_usd", "extra": "-1"}, "extra"),
        ({"metric": "cost_usd", "extra": "9" * 40}, "extra"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "ends_at"),
        ({"ends_at": "9999-12-31T23:59:59-23:59"}, "ends_at"),
        ({"ends_at": "2099-01-01"}, "ends_at"),
        ({"ends_at": 1}, "ends_at"),
        (
            {"starts_at": "9999-12-30T00:00:00Z", "ends_at": "9999-12-31T23:59:59-23:59"},
            "starts_at",
        ),
        ({"starts_at": "0001-01-01T00:00:00+23:59"}, "ends_at"),
        ({"reason": ""}, "reason"),
        ({"reason": "r" * (REASON_LENGTH_MAX + 1)}, "reason"),
        ({"reason": "a\0b"}, "reason"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_given(api: Api, fields: dict[str, Any], named: str) -> None:
    assert_problem(put(api, body(**fields)), 422, "VALIDATION_ERROR", field=named)
    assert not Boost.objects.exists()


@pytest.mark.parametrize("missing", ["per", "metric", "window", "extra", "ends_at", "reason"])
def test_what_is_missing_is_named(api: Api, missing: str) -> None:
    given = {name: value for name, value in body().items() if name != missing}
    assert_problem(put(api, given), 422, "VALIDATION_ERROR", field=missing)


def test_a_user_has_only_so_many(api: Api) -> None:
    for _ in range(USER_MAX):
        assert put(api, body(), str(uuid.uuid4())).status == 201
    answer = put(api, body(), str(uuid.uuid4()))
    assert_problem(answer, 422, "VALIDATION_ERROR")
    assert "end one first" in answer.json["detail"]


@pytest.mark.parametrize("boost_id", ["1", "x" * 300, "%00", "%3Cscript%3E"])
def test_what_is_no_id_is_no_boost(api: Api, boost_id: str) -> None:
    assert_problem(put(api, body(), boost_id), 422, "VALIDATION_ERROR", field="boost_id")
    for verb in ("GET", "DELETE"):
        assert_problem(api.request(verb, f"/v1/boosts/{boost_id}"), 404, "NOT_FOUND")


@pytest.mark.parametrize("subject", ["<script>alert(1)</script>", "ü" * NAME_LENGTH_MAX, "\u202eevil", "🙂"])
def test_subjects_may_have_any_name_that_calls_can_give(api: Api, subject: str) -> None:
    assert put(api, body(subject=subject)).json["subject"] == subject
    assert api.get(f"/v1/boosts/{ONE}").json["subject"] == subject


def test_another_tenant_sees_and_ends_none(api: Api, other_api: Api) -> None:
    put(api, body())
    assert listed(other_api) == []
    for verb in ("GET", "DELETE"):
        assert_problem(other_api.request(verb, f"/v1/boosts/{ONE}"), 404, "NOT_FOUND")
    assert api.get(f"/v1/boosts/{ONE}").json["state"] == "running"
    # Ids are of an environment: nothing is learned from a choice.
    assert put(other_api, body(extra=9)).status == 201


def test_the_examples_work(api: Api) -> None:
    answer = put(api, views.BOOST_REQUEST | {"ends_at": instant(hours=1)}).json
    assert answer.keys() == views.BOOST_ANSWER.keys()
    msgspec.convert(views.BOOST_ANSWER, BoostAnswer)
