"""`GET /v1/usage/summary`: totals of the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api, set_price
from tokvigil_site.tests.callers import assert_problem
from usage.amounts import Amounts, Subjects
from usage.ledger import totals
from usage.ledger.models import Status
from usage.ledger.rows import NewEvent
from usage.ledger.writing import record
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import estimate, report

BERLIN = ZoneInfo("Europe/Berlin")


def summarize(api: Api, **query: str) -> Any:
    answer = api.get(f"/v1/usage/summary?{urlencode(query)}")
    assert answer.status == 200, answer
    return answer.json


def use(
    environment: Environment, at: datetime, *, user: str = "u", cost_nano: int | None = 1, **fields: Any
) -> None:
    """A row of the ledger at any time, as a report of that time would have made it."""
    report = NewEvent(
        environment_id=environment.pk,
        request_id=uuid4().hex,
        body_digest=b"x" * 32,
        charged_at=at,
        occurred_at=at,
        subjects=Subjects(user_id=user, **fields),
        model="m",
        provider="",
        status=Status.SUCCEEDED,
        used=Amounts(1, 1, 1, cost_nano or 0),
        priced=cost_nano is not None,
    )
    record([report])


def test_the_total_is_that_of_the_ledger(api: Api) -> None:
    set_price("m", input_usd="1", output_usd="2")
    api.report("r1", model="m", input_tokens=10, output_tokens=5)
    api.report("r2", model="m", input_tokens=1, output_tokens=0)
    api.report("r3", model="unpriced", input_tokens=7, output_tokens=7)
    api.report("r4", model="m", input_tokens=0, output_tokens=0, status="failed")

    found = summarize(api)

    assert found["total"] == {
        "requests": 3,
        "input_tokens": 18,
        "output_tokens": 12,
        "cost_usd": "0.000021",
        "unpriced": 1,
        "quantities": {},
    }
    assert found["groups"] == []
    assert found["group_by"] == []


SPOKEN = {"input_audio_tokens": 5, "web_searches": 2}
# By user, feature and what it used beside text.
KINDS: list[tuple[str, str, dict[str, int]]] = [
    ("anna", "chat", SPOKEN),
    ("anna", "chat", {"web_searches": 1}),
    ("anna", "sum", {}),
    ("ben", "chat", {"images": 4}),
    ("ben", "", SPOKEN),
    ("cem", "", {}),
]


def report_kinds(api: Api, kinds: Sequence[tuple[str, str, dict[str, int]]] = KINDS) -> None:
    for user, feature, quantities in kinds:
        more = {"feature": feature} if feature else {}
        api.report(uuid4().hex, user=user, model="m", input_tokens=10, quantities=quantities, **more)


def added(each: Iterable[dict[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for one in each:
        found.update(one)
    return dict(found)


@pytest.mark.parametrize("rolled_up", [0, 3, 6])
@pytest.mark.parametrize("top", [None, 1, 2])
def test_each_row_says_what_it_used_beside_text_tokens(
    api: Api, environment: Environment, rolled_up: int, top: int | None
) -> None:
    """Rolled up or not, and of names beyond the top together."""
    report_kinds(api, KINDS[:rolled_up])
    roll_all(environment.pk)
    report_kinds(api, KINDS[rolled_up:])
    more = {} if top is None else {"top": str(top), "rank_by": "input_tokens"}

    found = summarize(api, group_by="user", **more)
    of_user = {user: added(used for name, _, used in KINDS if name == user) for user, _, _ in KINDS}
    first = ["anna", "ben", "cem"][: top or 3]
    assert {group["user_id"]: group["quantities"] for group in found["groups"]} == {
        user: of_user[user] for user in first
    }
    everything = {"input_audio_tokens": 10, "images": 4, "web_searches": 5}
    assert found["total"]["quantities"] == everything
    assert list(found["total"]["quantities"]) == list(everything)
    if top is not None:
        rest = added(used for user, used in of_user.items() if user not in first)
        assert [other["quantities"] for other in found["others"]] == [rest]

    by_day = summarize(api, group_by="feature,day", feature="chat")
    assert [group["quantities"] for group in by_day["groups"]] == [
        {"input_audio_tokens": 5, "images": 4, "web_searches": 3}
    ]
    assert summarize(api, user_id="cem")["total"]["quantities"] == {}
    assert summarize(api)["total"]["quantities"] == everything


def test_more_groups_than_are_answered_lack_nothing_in_the_total(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "GROUPS_MAX", 1)
    report_kinds(api)
    found = summarize(api, group_by="user")
    assert found["truncated"]
    assert found["total"]["quantities"] == added(used for _, _, used in KINDS)


def test_an_estimate_that_was_taken_back_used_nothing(api: Api, environment: Environment) -> None:
    record([estimate(environment, "late", quantities={"web_searches": 7})])
    assert summarize(api, group_by="user")["groups"][0]["quantities"] == {"web_searches": 7}
    record([report(environment, "late", quantities={"web_searches": 2})])
    found = summarize(api, group_by="user,model")
    assert [group["quantities"] for group in found["groups"]] == [{"web_searches": 2}]
    assert found["total"]["quantities"] == {"web_searches": 2}


def test_groups_name_what_they_have_in_common_and_the_dearest_comes_first(api: Api) -> None:
    set_price("m", input_usd="1")
    api.report("r1", user="anna", model="m", input_tokens=10, feature="chat")
    api.report("r2", user="anna", model="m", input_tokens=10, feature="chat")
    api.report("r3", user="ben", model="m", input_tokens=50)

    found = summarize(api, group_by="user,feature")

    assert [(group["user_id"], group["feature"], group["requests"]) for group in found["groups"]] == [
        ("ben", None, 1),
        ("anna", "chat", 2),
    ]
    assert "model" not in found["groups"][0]
    assert found["total"]["cost_usd"] == "0.00007"
    assert found["truncated"] is False


@pytest.mark.parametrize(
    "group_by", ["user", "feature", "model", "plan", "day", "day,plan,model,feature,user"]
)
def test_every_grouping_adds_up_to_the_total(api: Api, group_by: str) -> None:
    for number in range(6):
        api.report(
            f"r{number}", user=f"u{number % 2}", feature="chat" if number % 3 else None, input_tokens=number
        )

    found = summarize(api, group_by=group_by)

    for amount in ("requests", "input_tokens", "output_tokens", "unpriced"):
        assert sum(group[amount] for group in found["groups"]) == found["total"][amount]
    assert found["total"]["requests"] == 6


def test_by_default_it_is_the_tenants_calendar_month(api: Api, environment: Environment) -> None:
    now = datetime.now(BERLIN)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    use(environment, month.astimezone(UTC))
    use(environment, month.astimezone(UTC) - timedelta(microseconds=1))

    found = summarize(api)

    assert found["total"]["requests"] == 1
    assert datetime.fromisoformat(found["from"]) == month
    assert datetime.fromisoformat(found["to"]).astimezone(BERLIN).day == 1
    assert found["timezone"] == "Europe/Berlin"


def test_a_day_is_the_tenants_day(api: Api, environment: Environment) -> None:
    use(environment, datetime(2026, 3, 1, 22, 59, 59, tzinfo=UTC))
    use(environment, datetime(2026, 3, 1, 23, 0, 0, tzinfo=UTC))

    found = summarize(api, group_by="day", **{"from": "2026-02-28T23:00:00Z", "to": "2026-03-31T22:00:00Z"})

    assert sorted((group["day"], group["requests"]) for group in found["groups"]) == [
        ("2026-03-01", 1),
        ("2026-03-02", 1),
    ]


def test_the_days_of_clock_changes_have_23_and_25_hours(api: Api, environment: Environment) -> None:
    for start in (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)):
        for hour in range(26):
            use(environment, start + timedelta(hours=hour))

    found = summarize(api, group_by="day", **{"from": "2026-01-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"})

    assert {group["day"]: group["requests"] for group in found["groups"]} == {
        "2026-03-29": 23,
        "2026-03-30": 3,
        "2026-10-25": 25,
        "2026-10-26": 1,
    }


def test_a_repeated_midnight_belongs_to_the_day_that_began(empty_store: None, transactional_db: None) -> None:
    """As the counters have it: Havana's clocks fall back from 01:00 to 00:00, so that it is midnight twice."""
    environment = Tenant.create_with_environments("cuba", timezone="America/Havana").environments.get(
        slug="prod"
    )
    midnight = datetime(2026, 11, 1, 4, tzinfo=UTC)
    for minutes in (-1, 0, 59, 60, 119):
        use(environment, midnight + timedelta(minutes=minutes))

    found = summarize(
        Api(environment), group_by="day", **{"from": "2026-10-01T04:00:00Z", "to": "2026-12-01T05:00:00Z"}
    )

    assert {group["day"]: group["requests"] for group in found["groups"]} == {
        "2026-10-31": 1,
        "2026-11-01": 4,
    }


def test_an_estimate_that_was_taken_back_is_not_unpriced(api: Api, environment: Environment) -> None:
    at = datetime.now(UTC)
    estimate = NewEvent(
        environment_id=environment.pk,
        request_id="late",
        body_digest=None,
        charged_at=at,
        occurred_at=None,
        subjects=Subjects(user_id="u"),
        model="unpriced",
        provider="",
        status=Status.UNSETTLED,
        used=Amounts(1, 100, 100),
        priced=False,
    )
    record([estimate])
    api.report("late", user="u", model="unpriced", input_tokens=3, output_tokens=0)

    total = summarize(api)["total"]

    assert total == {
        "requests": 1,
        "input_tokens": 3,
        "output_tokens": 0,
        "cost_usd": "0.00",
        "unpriced": 1,
        "quantities": {},
    }


def test_more_groups_than_fit_are_cut_and_the_total_is_still_whole(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "GROUPS_MAX", 2)
    for number in range(4):
        api.report(f"r{number}", user=f"u{number}")

    found = summarize(api, group_by="user")

    assert found["truncated"] is True
    assert len(found["groups"]) == 2
    assert found["total"]["requests"] == 4


def test_sums_may_leave_the_range_of_a_single_row(api: Api, environment: Environment) -> None:
    for _ in range(3):
        use(environment, datetime.now(UTC), cost_nano=2**62)

    assert summarize(api)["total"]["cost_usd"] == "13835058055.282163712"
    assert summarize(api, group_by="user")["groups"][0]["cost_usd"] == "13835058055.282163712"


def test_filters_leave_out_what_does_not_match(api: Api, environment: Environment) -> None:
    at = datetime.now(UTC)
    use(environment, at, user="ana", feature="chat", plan="pro", run_id="r-1")
    use(environment, at, user="ana", feature="chat")
    use(environment, at, user="ben", feature="code")

    assert summarize(api, user_id="ana")["total"]["requests"] == 2
    assert summarize(api, user_id="ana", run_id="r-1", plan="pro", model="m")["total"]["requests"] == 1
    assert summarize(api, feature="code", group_by="user")["groups"][0]["user_id"] == "ben"
    assert summarize(api, feature="code", user_id="ana")["total"]["requests"] == 0


def test_names_beyond_the_top_are_others_by_the_same_days(api: Api, environment: Environment) -> None:
    first, second = datetime(2026, 11, 2, 12, tzinfo=UTC), datetime(2026, 11, 3, 12, tzinfo=UTC)
    for user, at, cost in (
        ("a", first, 9),
        ("a", second, 1),
        ("b", first, 3),
        ("c", second, 2),
        ("c", second, 2),
    ):
        use(environment, at, user=user, cost_nano=cost)
    asked = {"from": "2026-11-01T23:00:00Z", "to": "2026-11-03T23:00:00Z"}

    found = summarize(api, group_by="user,day", top="1", **asked)

    assert [(group["user_id"], group["day"], group["requests"]) for group in found["groups"]] == [
        ("a", "2026-11-02", 1),
        ("a", "2026-11-03", 1),
    ]
    assert [(group["day"], group["requests"], "user_id" in group) for group in found["others"]] == [
        ("2026-11-03", 2, False),
        ("2026-11-02", 1, False),
    ]
    assert found["total"]["requests"] == 5
    most_calls = summarize(api, group_by="user", top="2", rank_by="requests", **asked)
    assert [group["user_id"] for group in most_calls["groups"]] == ["a", "c"]
    assert "others" not in summarize(api, group_by="user", **asked)


def test_hours_weeks_and_months_are_those_of_the_zone(api: Api, environment: Environment) -> None:
    for hour in range(26):
        use(environment, datetime(2026, 10, 24, 22, tzinfo=UTC) + timedelta(hours=hour))
    asked = {"from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}

    hours = {group["hour"]: group["requests"] for group in summarize(api, group_by="hour", **asked)["groups"]}
    assert len(hours) == 26
    assert {"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"} <= set(hours)
    weeks = {group["week"]: group["requests"] for group in summarize(api, group_by="week", **asked)["groups"]}
    assert weeks == {"2026-10-19": 25, "2026-10-26": 1}
    months = summarize(api, group_by="month,run", **asked)["groups"]
    assert [(group["month"], group["run_id"], group["requests"]) for group in months] == [
        ("2026-10-01", None, 26)
    ]


def test_parts_of_the_tokens_are_answered_if_asked_for(api: Api) -> None:
    api.report("r1", model="m", input_tokens=10, output_tokens=5, cached_input_tokens=4, reasoning_tokens=2)

    assert "reasoning_tokens" not in summarize(api)["total"]
    total = summarize(api, token_parts="true")["total"]
    assert (total["cached_input_tokens"], total["cache_write_tokens"], total["reasoning_tokens"]) == (4, 0, 2)


def test_another_tenants_usage_is_not_counted(api: Api, other_api: Api) -> None:
    api.report("r1")

    assert summarize(other_api)["total"]["requests"] == 0
    assert summarize(other_api, group_by="user")["groups"] == []


def test_a_name_may_be_said_as_the_answer_says_it(api: Api) -> None:
    api.report("r1", "ann", run_id="run-1")
    found = summarize(api, group_by="user_id,run_id,day")
    assert found == summarize(api, group_by="user,run,day")
    assert found["group_by"] == ["user", "run", "day"]
    assert [(group["user_id"], group["run_id"]) for group in found["groups"]] == [("ann", "run-1")]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("group_by=colour", "group_by"),
        ("group_by=user,user_id", "group_by"),
        ("group_by=user,", "group_by"),
        ("group_by=", "group_by"),
        ("group_by=user,user", "group_by"),
        ("group_by=" + "user," * 50, "group_by"),
        ("group_by=day,hour", "group_by"),
        ("top=5", "top"),
        ("group_by=day&top=5", "top"),
        ("group_by=user&top=0", "top"),
        ("rank_by=colour", "rank_by"),
        ("user_id=", "user_id"),
        ("from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", "to"),
        ("from=2026-11-01T00:00:00Z&to=2026-11-01T00:00:00Z", "to"),
        ("from=2024-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("from=9998-01-01T00:00:00Z", "to"),
        ("from=1969-01-01T00:00:00Z", "from"),
        ("to=2026-13-01T00:00:00Z", "to"),
        ("limit=5", "limit"),
    ],
)
def test_a_bad_parameter_is_refused_with_a_hint(api: Api, query: str, field: str) -> None:
    assert_problem(api.get(f"/v1/usage/summary?{query}"), 422, "VALIDATION_ERROR", field=field)


def test_an_unknown_dimension_is_answered_with_the_known_ones(api: Api) -> None:
    detail = api.get("/v1/usage/summary?group_by=colour").json["detail"]

    assert "user, feature, model, plan, run, day, hour, week, month" in detail
