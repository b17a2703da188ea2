"""`GET /v1/usage`: the ledger, to read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from tokvigil_site.testing import Api, set_price
from tokvigil_site.tests.callers import assert_problem


def pages(api: Api, **query: Any) -> Iterator[list[str]]:
    """The request ids of each page."""
    while True:
        answer = api.get(f"/v1/usage?{urlencode(query)}")
        assert answer.status == 200, answer
        yield [event["request_id"] for event in answer.json["events"]]
        if (cursor := answer.json["next_cursor"]) is None:
            return
        query["cursor"] = cursor


def ids(api: Api, **query: Any) -> list[str]:
    return [request_id for page in pages(api, **query) for request_id in page]


def report(api: Api, request_id: str, **fields: Any) -> None:
    assert api.report(request_id, **fields).status == 201


def at(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def test_an_event_shows_what_was_recorded(api: Api) -> None:
    set_price("gpt-x", input_usd="1", output_usd="2")
    report(
        api,
        "r1",
        user="anna",
        model="gpt-x",
        feature="chat",
        plan="pro",
        run_id="run",
        input_tokens=10,
        output_tokens=5,
        cached_input_tokens=4,
        reasoning_tokens=2,
        latency_ms=250,
        reported_cost_usd="0.5",
        metadata={"team": "blue"},
    )

    (event,) = api.get("/v1/usage").json["events"]

    assert datetime.fromisoformat(event.pop("charged_at")) <= datetime.fromisoformat(event.pop("recorded_at"))
    assert event == {
        "request_id": "r1",
        "occurred_at": None,
        "user_id": "anna",
        "feature": "chat",
        "plan": "pro",
        "run_id": "run",
        "model": "gpt-x",
        "provider": "openai",
        "status": "succeeded",
        "requests": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_input_tokens": 4,
        "cache_write_tokens": 0,
        "reasoning_tokens": 2,
        "cost_usd": "0.00002",
        "reported_cost_usd": "0.50",
        "quantities": {},
        "unpriced": [],
        "requested_model": None,
        "service_tier": "default",
        "region": None,
        "latency_ms": 250,
        "policy_id": None,
        "policy_version": None,
        "metadata": {"team": "blue"},
        "adjustment": None,
    }


def test_what_has_no_price_has_no_cost(api: Api) -> None:
    report(api, "r1", model="nobody-knows-it")

    (event,) = api.get("/v1/usage").json["events"]

    assert event["cost_usd"] is None
    assert (event["feature"], event["plan"], event["run_id"], event["provider"]) == (None,) * 4


def test_the_newest_comes_first(api: Api) -> None:
    now = datetime.now(UTC)
    for hours in (2, 1, 3):
        report(api, f"r{hours}", occurred_at=at(now - timedelta(hours=hours)))

    assert ids(api) == ["r1", "r2", "r3"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_over_equal_times_show_each_event_once(api: Api, limit: int) -> None:
    moment = datetime.now(UTC).replace(microsecond=0)
    for number in range(7):
        # Three times, of which two are shared by many.
        report(api, f"r{number}", occurred_at=at(moment - timedelta(seconds=number // 3)))

    found = list(pages(api, limit=limit))

    assert [request_id for page in found for request_id in page] == ["r2", "r1", "r0", "r5", "r4", "r3", "r6"]
    assert all(len(page) <= limit for page in found)


def test_events_recorded_between_two_pages_move_none_of_the_others(api: Api) -> None:
    for number in range(4):
        report(api, f"r{number}")
    first = api.get("/v1/usage?limit=2").json
    report(api, "late")

    second = api.get(f"/v1/usage?limit=2&cursor={first['next_cursor']}").json

    assert [event["request_id"] for event in second["events"]] == ["r1", "r0"]
    assert second["next_cursor"] is None


def test_each_filter_leaves_the_others_out(api: Api) -> None:
    report(api, "a", user="anna", model="m1", feature="chat", plan="free", run_id="x", status="failed")
    report(api, "b", user="ben", model="m2", feature="mail", plan="pro", run_id="y")

    for name, value in {
        "user_id": "anna",
        "model": "m1",
        "feature": "chat",
        "plan": "free",
        "run_id": "x",
        "status": "failed",
        "request_id": "a",
    }.items():
        assert ids(api, **{name: value}) == ["a"], name
    assert ids(api, user_id="anna", model="m2") == []


def test_from_is_included_and_to_is_not(api: Api) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    for seconds in range(3):
        report(api, f"r{seconds}", occurred_at=at(moment + timedelta(seconds=seconds)))

    period = {"from": at(moment), "to": at(moment + timedelta(seconds=2))}

    assert ids(api, **period) == ["r1", "r0"]


def test_a_moment_may_be_named_in_any_offset(api: Api) -> None:
    moment = datetime.now(UTC).replace(microsecond=0)
    report(api, "r1", occurred_at=at(moment))
    local = moment.astimezone(datetime.strptime("+0530", "%z").tzinfo)

    assert ids(api, **{"from": local.isoformat()}) == ["r1"]


def test_another_tenants_events_are_not_there(api: Api, other_api: Api) -> None:
    report(api, "r1")
    report(api, "r2")
    cursor = api.get("/v1/usage?limit=1").json["next_cursor"]

    assert ids(other_api) == []
    assert ids(other_api, request_id="r1") == []
    assert ids(other_api, cursor=cursor) == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1.0", "limit"),
        ("limit=1e2", "limit"),
        ("limit=", "limit"),
        ("limit=%D9%A5", "limit"),
        ("limit=" + "9" * 400, "limit"),
        ("status=done", "status"),
        ("from=yesterday", "from"),
        ("from=2026-11-01", "from"),
        ("from=2026-11-01T00:00:00", "from"),
        ("from=1700000000", "from"),
        ("from=null", "from"),
        ("from=0001-01-01T00:00:00Z", "from"),
        ("to=9999-12-31T23:59:59-12:00", "to"),
        ("to=2026-11-01T00:00:00+01:00", "to"),
        ("cursor=abc", "cursor"),
        ("cursor=%C3%BC", "cursor"),
        ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OjE=", "cursor"),
        ("cursor=MTo5OTk5OTk5OTk5OTk5OTk5OTk5", "cursor"),
        ("cursor=" + "A" * 101, "cursor"),
        ("user_id=", "user_id"),
        ("user_id=a%00b", "user_id"),
        ("user_id=" + "a" * 256, "user_id"),
        ("request_id=" + "a" * 129, "request_id"),
    ],
)
def test_a_bad_parameter_is_refused_with_a_hint(api: Api, query: str, field: str) -> None:
    assert_problem(api.get(f"/v1/usage?{query}"), 422, "VALIDATION_ERROR", field=field)


def test_the_hint_names_what_is_possible(api: Api) -> None:
    status = api.get("/v1/usage?status=done").json
    moment = api.get("/v1/usage?from=yesterday").json

    assert "cancelled, failed, partial" in status["detail"]
    assert "2026-11-01T00:00:00Z" in moment["detail"]


def test_a_page_is_found_in_the_index(api: Api) -> None:
    """However far back the page, no row before it is read."""
    from django.db import connection

    from usage.ledger import listing

    report(api, "r1")
    report(api, "r2")
    cursor = api.get("/v1/usage?limit=1").json["next_cursor"]
    query = listing.matching(api.environment.pk, listing.EventQuery(cursor=cursor)).order_by(
        "-charged_at", "-id"
    )
    with connection.cursor() as cursor_of_database:
        cursor_of_database.execute(
            "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off"
        )
    try:
        plan = query.explain()
    finally:
        with connection.cursor() as cursor_of_database:
            cursor_of_database.execute("RESET enable_seqscan; RESET enable_bitmapscan; RESET enable_sort")

    assert "ROW(charged_at, id) <" in plan.replace('"', "")
    assert "Index Cond" in plan
    assert "Sort" not in plan
