"""Made-up calls are rows like any other: counted, rolled up, taken back, and never written twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tenants.models import Environment
from tokvigil_site.testing import Api, set_price
from usage.ledger import synthetic
from usage.ledger.synthetic import FEATURES, AllowedBy, Asked, Deciding, Plan
from usage.models import UsageEvent
from usage.prices import stored_book
from usage.tests.rolling import roll_all

UNTIL = "2026-11-03T00:00:00+00:00"
CALLS = 20_000


def made(path: str, **options: Any) -> str:
    given = {"events": CALLS, "days": 5, "users": 50, "until": None, "seed": 1, **options}
    output = StringIO()
    arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
    call_command("synthesize_usage", path, *arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def dev(environment: Environment) -> Environment:
    for model, provider in [("gpt-4o-mini", "openai"), ("claude-sonnet-4-5", "anthropic")]:
        price = set_price(model, input_usd="1", output_usd="4")
        price.provider = provider
        price.save()
    return environment.tenant.environments.get(slug="dev")


def read(environment: Environment, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {sql} FROM usage_event WHERE environment_id = %s", [environment.pk])  # noqa: S608
        return cursor.fetchone()


def test_as_many_calls_as_asked_for_over_the_days_of_all_users(dev: Environment) -> None:
    assert f"{CALLS} of {CALLS} calls" in made(str(dev), until=UNTIL)
    calls, first, last, users = read(
        dev, "count(DISTINCT request_id), min(charged_at), max(charged_at), count(DISTINCT user_id)"
    )
    assert (calls, users) == (CALLS, 50)
    assert f"{first:%m-%d %H:%M}" == "10-29 00:00"
    assert f"{last:%m-%d %H}" == "11-02 23"


def test_the_mix_has_all_kinds_of_calls_and_what_is_taken_back_is_nothing(dev: Environment) -> None:
    made(str(dev), until=UNTIL)
    found = dict(
        UsageEvent.objects.filter(environment=dev)
        .values_list("status")
        .distinct()
        .values_list("status", "status")
    )
    assert set(found) == {"succeeded", "partial", "failed", "cancelled", "unsettled", "reversal"}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FILTER (WHERE rows = 3), count(*) FILTER (WHERE rows NOT IN (1, 3)),
                count(*) FILTER (WHERE rows = 3
                    AND (requests, tokens, cost) IS DISTINCT FROM (1, of_report, cost_of_report))
            FROM (
                SELECT count(*) AS rows, sum(requests) AS requests, sum(input_tokens + output_tokens) AS tokens,
                    sum(cost_nano) AS cost, sum(cost_nano) FILTER (WHERE status = 'succeeded') AS cost_of_report,
                    sum(input_tokens + output_tokens) FILTER (WHERE status = 'succeeded') AS of_report
                FROM usage_event WHERE environment_id = %s GROUP BY request_id, charged_at
            ) AS call
            """,
            [dev.pk],
        )
        late, odd, wrong = cursor.fetchone()
    assert late > 0
    assert (odd, wrong) == (0, 0)
    unpriced, reported = read(dev, "count(*) FILTER (WHERE cost_nano IS NULL), count(reported_cost_nano)")
    assert unpriced > 0
    assert reported > CALLS / 10


def test_they_are_rolled_up_as_other_rows_are(dev: Environment) -> None:
    made(str(dev), until=UNTIL)
    rolled = roll_all(dev.pk)
    (rows,) = read(dev, "count(*)")
    assert rolled == rows
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(cost_nano) FROM usage_total_day WHERE environment_id = %s", [dev.pk])
        assert cursor.fetchone() == read(dev, "sum(cost_nano)")


def test_the_same_seed_makes_the_same_calls_and_a_second_time_is_refused(
    dev: Environment, other_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "ROWS_AT_ONCE", 7_000)
    made(str(dev), until=UNTIL)
    other = other_environment.tenant.environments.get(slug="dev")
    made(str(other), until=UNTIL)
    said = "concat(request_id, charged_at, user_id, model, input_tokens, latency_ms)"
    checksum = f"md5(string_agg({said}, '' ORDER BY id))"
    assert read(dev, checksum) == read(other, checksum)
    with pytest.raises(CommandError, match="choose another --seed"):
        made(str(dev), until=UNTIL)
    assert read(dev, "count(DISTINCT request_id)") == (CALLS,)
    made(str(dev), until=UNTIL, seed=2, events=10)


def write(environment: Environment, decide: Deciding | None = None, **changed: Any) -> int:
    given: dict[str, Any] = {
        "calls": CALLS,
        "until": datetime.fromisoformat(UNTIL),
        "days": 10,
        "users": 50,
        "seed": 1,
    }
    plan = Plan(environment_id=environment.pk, **given | changed)
    return max(synthetic.write(plan, stored_book.load(environment.tenant_id), decide))


def test_a_feature_that_is_launched_within_the_time_adds_its_calls_from_then_on(dev: Environment) -> None:
    launched_at = datetime.fromisoformat(UNTIL) - timedelta(days=4)
    as_usual, new = replace(FEATURES[0], share=75), replace(FEATURES[-1], share=25, launched_at=launched_at)
    assert write(dev, features=(new, as_usual)) == CALLS
    first, of_new, of_all = read(
        dev,
        "min(charged_at) FILTER (WHERE feature = 'agent'), count(DISTINCT request_id) FILTER (WHERE feature = 'agent'),"
        f"count(DISTINCT request_id) FILTER (WHERE charged_at >= '{launched_at}')",
    )
    assert launched_at <= first < launched_at + timedelta(hours=1)
    assert 0.22 < of_new / of_all < 0.28
    # On Monday 26 October and Monday 2 November.
    before, after = read(
        dev,
        "count(DISTINCT request_id) FILTER (WHERE charged_at::date = '2026-10-26' AND feature = 'chat'),"
        "count(DISTINCT request_id) FILTER (WHERE charged_at::date = '2026-11-02' AND feature = 'chat')",
    )
    assert 0.9 < after / before < 1.1


def test_a_call_that_does_not_pass_is_left_out_and_all_are_asked_in_order_of_time(dev: Environment) -> None:
    asked: list[Asked] = []

    def decide(call: Asked) -> AllowedBy | None:
        asked.append(call)
        return None if call.user_id == "user-0" else AllowedBy(None, None, 7)

    written = write(dev, decide, calls=2_000)
    assert len(asked) == 2_000
    assert [call.at for call in asked] == sorted(call.at for call in asked)
    left_out = [call for call in asked if call.user_id == "user-0"]
    assert left_out
    assert written == 2_000 - len(left_out)
    assert read(dev, "count(DISTINCT request_id), min(api_key_id), count(policy_id)") == (written, 7, 0)
    assert not UsageEvent.objects.filter(environment=dev, user_id="user-0").exists()


def test_what_a_call_is_said_to_use_is_what_its_rows_add_up_to(dev: Environment) -> None:
    asked: list[Asked] = []

    def decide(call: Asked) -> AllowedBy:
        asked.append(call)
        return AllowedBy(None, None, 7)

    write(dev, decide, calls=2_000)
    said = [call.kind.amounts for call in asked]
    assert read(dev, "sum(requests), sum(input_tokens), sum(output_tokens), sum(cost_nano)") == tuple(
        sum(column) for column in zip(*said, strict=True)
    )


def test_their_request_ids_are_taken(dev: Environment) -> None:
    made(str(dev), events=100, days=1)
    api = Api(dev)
    answers = {api.report(f"made-1-{number}").status for number in range(100)}
    # Another body under the same id; an id that only an estimate has is the report's.
    assert answers <= {409, 201}
    assert 409 in answers


def test_prod_is_left_alone(environment: Environment) -> None:
    with pytest.raises(CommandError, match="named prod"):
        made(str(environment), events=1)
    assert not UsageEvent.objects.filter(environment=environment).exists()
    call_command("synthesize_usage", str(environment), "--events=1", "--days=1", "--force", stdout=StringIO())
    assert UsageEvent.objects.filter(environment=environment).exists()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"events": 0}, "--events 0"),
        ({"days": 400}, "--days 400"),
        ({"until": "2026-11-03"}, "offset from UTC"),
    ],
)
def test_what_cannot_be_made_is_refused(dev: Environment, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        made(str(dev), **asked)
