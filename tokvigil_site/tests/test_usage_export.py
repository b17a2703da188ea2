"""`GET /v1/usage` as one file: every row of a period once, newest first, a few in memory at a time."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from tenants.models import Environment
from tokvigil_site.testing import Answer, Api
from tokvigil_site.tests.callers import assert_problem
from usage.amounts import Subjects
from usage.ledger import export
from usage.ledger.writing import record
from usage.tests.test_ledger import estimate, one, report

NOW = datetime.now(UTC)


@pytest.fixture
def rows(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two share a time, so that a batch ends between them."""
    monkeypatch.setattr(export, "BATCH", 2)
    record(
        [
            report(environment, f"r{n}", charged_at=NOW - timedelta(seconds=n // 2), metadata={"team": "a"})
            for n in range(5)
        ]
    )


def file(api: Api, query: str, **headers: str) -> tuple[str, str]:
    """Its type and its text."""
    client = Client(headers={"authorization": f"Bearer {api.text}", **headers})
    answer = client.get(f"/v1/usage{query}")
    assert answer.status_code == 200, answer.content
    assert answer.streaming, "it must not be in memory as a whole"
    return answer["Content-Type"], b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]


def jsonl(
    api: Api, query: str = "?format=jsonl", **headers: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    about, *events = [json.loads(line) for line in file(api, query, **headers)[1].splitlines()]
    return about["about"], events


def test_it_has_the_rows_that_the_pages_have(api: Api, rows: None) -> None:
    about, events = jsonl(api)
    assert events == api.get("/v1/usage").json["events"]
    assert len(events) == 5
    assert (about["environment"], about["time_zone"], about["filters"]) == ("acme/prod", "Europe/Berlin", {})


def test_filters_and_the_period_are_those_of_the_pages(
    api: Api, environment: Environment, rows: None
) -> None:
    one(report(environment, "other", subjects=Subjects(user_id="bob", feature="sum")))
    about, events = jsonl(api, "?format=jsonl&user_id=bob&feature=sum")
    assert ([event["request_id"] for event in events], about["filters"]) == (
        ["other"],
        {"user_id": "bob", "feature": "sum"},
    )
    until = (NOW - timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    assert [
        event["request_id"] for event in jsonl(api, f"?format=jsonl&from=2026-01-01T00:00:00Z&to={until}")[1]
    ] == ["r4"]


def test_without_a_period_it_is_this_month(api: Api, environment: Environment) -> None:
    one(report(environment, "now"))
    one(report(environment, "long ago", charged_at=NOW - timedelta(days=33)))
    about, events = jsonl(api)
    assert [event["request_id"] for event in events] == ["now"]
    assert about["from"] < about["to"]


def test_a_csv_has_numbers_where_money_is_below_zero(api: Api, environment: Environment) -> None:
    subjects = Subjects(user_id="=1+1", feature="chat")
    one(estimate(environment, "late", charged_at=NOW, cost_nano=1_500_000_000, subjects=subjects))
    one(report(environment, "late", charged_at=NOW, cost_nano=2, subjects=subjects))
    kind, text = file(api, "?format=csv")
    assert kind.startswith("text/csv")
    lines = [line for line in csv.reader(io.StringIO(text)) if line[0] != "#"]
    found = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    costs = [row["cost_usd"] for row in found]
    assert "-1.50" in costs
    assert sum(map(Decimal, costs)) == Decimal("0.000000002")
    assert "'=1+1" in {row["user_id"] for row in found}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv", "text/csv"),
        ("application/x-ndjson", "application/jsonl"),
        ("application/jsonl", "application/jsonl"),
    ],
)
def test_the_header_asks_for_a_file_too(api: Api, rows: None, accept: str, kind: str) -> None:
    assert file(api, "", accept=accept)[0].startswith(kind)


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_any_other_header_gets_a_page_and_the_address_counts_first(api: Api, rows: None, accept: str) -> None:
    answer: Answer = api.request("GET", "/v1/usage", accept=accept)
    assert len(answer.json["events"]) == 5
    answer = api.request("GET", "/v1/usage?format=json", accept="text/csv")
    assert len(answer.json["events"]) == 5


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("format=xml", "format"),
        ("format=csv&limit=5", "limit"),
        ("format=jsonl&cursor=MTox", "cursor"),
        ("format=csv&from=2020-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_file(api: Api, query: str, field: str) -> None:
    assert_problem(api.get(f"/v1/usage?{query}"), 422, "VALIDATION_ERROR", field=field)


def test_nothing_of_another_environment_is_in_it(
    api: Api, other_environment: Environment, rows: None
) -> None:
    one(report(other_environment, "theirs"))
    assert "theirs" not in {event["request_id"] for event in jsonl(api)[1]}


def test_what_is_recorded_meanwhile_is_not_in_it(api: Api, environment: Environment, rows: None) -> None:
    client = Client(headers={"authorization": f"Bearer {api.text}"})
    lines = iter(client.get("/v1/usage?format=jsonl").streaming_content)  # type: ignore[attr-defined]
    next(lines)
    one(report(environment, "meanwhile", charged_at=NOW - timedelta(seconds=2)))
    assert b"meanwhile" not in b"".join(lines)
