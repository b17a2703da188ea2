"""One request id many times in a batch: recorded once, each answered, and no transaction for each."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext

from tenants.models import Environment
from tokvigil_site.testing import Api, ledger
from usage.api.usage import BATCH_MAX, CONTENTS_MAX


def event(request_id: str = "r", **fields: Any) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "user_id": "u",
        "model": "m",
        "input_tokens": 1,
        "output_tokens": 0,
        **fields,
    }


def statuses(api: Api, events: list[dict[str, Any]]) -> list[str]:
    answer = api.post("/v1/usage/batch", {"events": events})
    assert answer.status == 200, answer
    assert [result["index"] for result in answer.json["results"]] == list(range(len(events)))
    return [result["status"] for result in answer.json["results"]]


def test_the_same_report_is_a_duplicate_of_its_first(api: Api, environment: Environment) -> None:
    with CaptureQueriesContext(
        connection,
    ) as alone:
        statuses(api, [event("other")])
    with CaptureQueriesContext(connection) as queries:
        found = statuses(api, [event()] * BATCH_MAX)
    assert found == ["recorded"] + ["duplicate"] * (BATCH_MAX - 1)
    assert len(queries) <= len(alone)
    assert len(ledger(environment, request_id="r")) == 1


def test_reports_of_an_id_that_differ_are_conflicts_and_bounded(api: Api, environment: Environment) -> None:
    with CaptureQueriesContext(connection) as alone:
        statuses(api, [event("other")])
    with CaptureQueriesContext(connection) as queries:
        found = statuses(api, [event(input_tokens=number) for number in range(BATCH_MAX)])
    assert Counter(found) == {
        "recorded": 1,
        "conflict": CONTENTS_MAX - 1,
        "invalid": BATCH_MAX - CONTENTS_MAX,
    }
    assert len(queries) <= CONTENTS_MAX * len(alone)
    assert ledger(environment, request_id="r")[0].amounts.input_tokens == 0


def test_order_is_kept_among_others(api: Api, environment: Environment) -> None:
    events = [event("a"), event("b"), event("a", input_tokens=2), event("a"), event("b"), event("c")]
    assert statuses(api, events) == ["recorded", "recorded", "conflict", "duplicate", "duplicate", "recorded"]
    assert statuses(api, events) == [
        "duplicate",
        "duplicate",
        "conflict",
        "duplicate",
        "duplicate",
        "duplicate",
    ]


def test_one_that_is_invalid_spoils_no_other_of_its_id(api: Api, environment: Environment) -> None:
    bad = event(occurred_at="2001-01-01T00:00:00Z")
    assert statuses(api, [bad, bad, event(), event()]) == ["invalid", "invalid", "recorded", "duplicate"]
