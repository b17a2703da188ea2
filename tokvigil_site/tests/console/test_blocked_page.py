"""The page of blocked calls: its figures are those of the decisions, and each leads to them."""

from __future__ import annotations

import csv
import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from policies.admin import blocked_page
from policies.blocked import counts, decision_log
from policies.models import BlockedDecision, Policy
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.test_usage_summary import use
from usage import wording

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_store")]

BLOCKED = reverse("admin:blocked")
LIST = reverse("admin:policies_blockeddecision_changelist")
BERLIN = ZoneInfo("Europe/Berlin")
# From the day on which the clocks are set back until the second day of the next month.
FIRST, LAST = "2026-10-25", "2026-11-02"
START, END = datetime(2026, 10, 25, tzinfo=BERLIN), datetime(2026, 11, 3, tzinfo=BERLIN)
QUERIES_MAX = 60


@pytest.fixture
def decisions(prod: Environment) -> list[BlockedDecision]:
    """One each 47 minutes, from a day before the period until a day after."""
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}", name="Free plan"))
    policy = Policy.objects.get(environment=prod)
    rows: list[BlockedDecision] = []
    at = START.astimezone(UTC) - timedelta(days=1)
    while at < END + timedelta(days=1):
        number = len(rows)
        rows.append(
            BlockedDecision(
                environment=prod, stream_id=f"{number}-0", decided_at=at, request_id=f"r-{number}",
                user_id=f"user {number % 7}", feature=["chat", "", "summary"][number % 3], plan="free", run_id="",
                model=["gpt", "opus"][number % 2], message="", limit_state=[],
                reason_code=["DAILY_REQUEST_LIMIT_EXCEEDED", "MODEL_DENIED", "USER_BLOCKED"][number % 3],
                reason_class="exhausted", policy_id=policy.pk if number % 3 == 0 else None,
                policy_name="Free plan" if number % 3 == 0 else "",
            )
        )  # fmt: skip
        at += timedelta(minutes=47)
    decision_log.ensure(row.decided_at for row in rows)
    BlockedDecision.objects.bulk_create(rows)
    return [row for row in rows if START <= row.decided_at < END]


def look(client: Client, environment: Environment, **asked: Any) -> Any:
    given = {"environment": str(environment), "period": "custom", "from": FIRST, "to": LAST, **asked}
    answer = client.get(BLOCKED, given)
    assert answer.status_code == 200, answer
    return answer


def rows_of(answer: Any, title: str) -> dict[str, int]:
    rows = next(rows for name, rows, _ in answer.context["groups"] if name == title)
    return {row.name: int(row.calls.replace(",", "")) for row in rows}


def test_the_figures_are_those_of_the_decisions(
    mia: Client, prod: Environment, decisions: list[BlockedDecision]
) -> None:
    answer = look(mia, prod)

    assert answer.context["count"] == len(decisions)
    assert sum(rows_of(answer, "users").values()) == len(decisions)
    for title, column, none in [("features", "feature", "no feature"), ("models", "model", "")]:
        expected: dict[str, int] = {}
        for row in decisions:
            name = getattr(row, column) or none
            expected[name] = expected.get(name, 0) + 1
        assert rows_of(answer, title) == expected
    with_policy = sum(row.policy_id is not None for row in decisions)
    assert rows_of(answer, "policies") == {
        "Free plan": with_policy,
        "no policy": len(decisions) - with_policy,
    }
    days = answer.context["course"].buckets
    assert len(days) == 9
    for bucket in days:
        on_the_day = [
            row
            for row in decisions
            if row.decided_at.astimezone(BERLIN).date() == bucket.at.astimezone(BERLIN).date()
        ]
        assert int(bucket.calls) == len(on_the_day)
    # A day of 25 hours.
    assert days[0].at == START


def test_the_plain_sum_and_the_files_agree_with_the_page(
    mia: Client, prod: Environment, decisions: list[BlockedDecision]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (decided_at AT TIME ZONE 'Europe/Berlin')::date::text, reason_code, count(*) FROM blocked_decision"
            " WHERE environment_id = %s AND (decided_at AT TIME ZONE 'Europe/Berlin')::date BETWEEN %s AND %s"
            " AND model = 'gpt' GROUP BY 1, 2",
            [prod.pk, FIRST, LAST],
        )
        plain = {(day, reason): calls for day, reason, calls in cursor.fetchall()}

    answer = look(mia, prod, model="gpt")
    assert answer.context["count"] == sum(plain.values())
    files = dict(answer.context["exports"]["over_time"])
    found = json.loads(mia.get(files["JSON"]).getvalue())
    assert {(row["at"][:10], row["reason_code"]): row["calls"] for row in found["rows"]} == plain
    assert found["about"]["time_zone"] == "Europe/Berlin"
    assert found["about"]["filters"] == {"model": "gpt"}
    assert "rolled_up_before_transaction" in found["about"]
    (users,) = [files for title, _, files in answer.context["groups"] if title == "users"]
    lines = list(csv.reader(mia.get(dict(users)["CSV"]).getvalue().decode().splitlines()))
    assert sum(int(line[2]) for line in lines if line[0].startswith("user ")) == sum(plain.values())


def test_each_figure_leads_to_its_decisions(
    mia: Client, prod: Environment, decisions: list[BlockedDecision]
) -> None:
    answer = look(
        mia, prod, reason="MODEL_DENIED", period="custom", **{"from": "2026-10-25", "to": "2026-10-25"}
    )
    (row,) = answer.context["reasons"]
    assert row.name == "Model denied"
    first = answer.context["course"].buckets[0]
    for url in (row.url, answer.context["all_url"]):
        listed = mia.get(url)
        assert listed.status_code == 200
        found = [each for burst in listed.context["rows"] for each in burst.burst.decisions]
        assert len(found) == int(row.calls)
        assert {each.reason_code for each in found} == {"MODEL_DENIED"}
    assert answer.context["course"].hourly
    assert len(answer.context["course"].buckets) == 25
    assert first.url is not None


def test_each_hour_leads_to_its_calls_also_one_that_comes_twice(
    mia: Client, prod: Environment, decisions: list[BlockedDecision]
) -> None:
    day = {"from": "2026-10-25", "to": "2026-10-25"}
    for hour in look(mia, prod, period="custom", **day).context["course"].buckets:
        listed = mia.get(hour.url)
        assert sum(row.count for row in listed.context["rows"]) == int(hour.calls), hour.at
        assert f'value="{hour.at.astimezone(BERLIN):%Y-%m-%dT%H:%M}"' in listed.content.decode()


def test_what_the_list_cannot_be_asked_for_has_no_link(
    mia: Client, prod: Environment, decisions: list[BlockedDecision]
) -> None:
    answer = look(mia, prod)
    urls = {
        row.name: row.url
        for title, rows, _ in answer.context["groups"]
        for row in rows
        if title == "features"
    }
    assert urls["no feature"] is None
    assert "feature=chat" in (urls["chat"] or "")


@pytest.mark.parametrize(("url", "title"), [(BLOCKED, "Block trends"), (LIST, "Blocked calls")])
def test_the_navigation_names_each_page_as_its_title_does(
    mia: Client, prod: Environment, url: str, title: str
) -> None:
    text = unescape(mia.get(url, {"environment": str(prod)}).content.decode())
    assert re.findall("<h1><bdi>(.*)</bdi></h1>", text) == [title]
    assert re.search(rf"<title>\s*{title} \|", text)
    links = {each.url: each.title for group in mia.get(url).context["navigation"] for each in group.links}
    assert links[url] == title


def lead(answer: Any, title: str) -> str:
    """Where the first line leads under this name."""
    (url,) = re.findall(
        rf'<p class="tv-subtle">[^\n]*?<a href="([^"]*)">{title}</a>', answer.content.decode()
    )
    return unescape(url)


def test_the_list_and_the_trends_lead_to_each_other_with_what_both_can_be_asked(
    mia: Client, prod: Environment, decisions: list[BlockedDecision]
) -> None:
    asked = {"reason": "DAILY_REQUEST_LIMIT_EXCEEDED", "user": "user 3", "feature": "chat", "plan": "free"}
    listed = mia.get(lead(look(mia, prod, **asked), "Blocked calls"))
    filters = listed.context["filters"].data
    assert {name: filters[name] for name in asked} == asked
    assert (filters["since"], filters["until"]) == ("2026-10-25T00:00+02:00", "2026-11-03T00:00+01:00")

    # A key is asked for in the list alone.
    again = mia.get(lead(mia.get(LIST, {**filters, "key": ""}), "Block trends")).context["asked"]
    assert again.is_valid()
    assert {name: again.data[name] for name in asked} == asked
    assert (again.data["period"], again.data["from"], again.data["to"]) == ("custom", FIRST, LAST)


def test_without_a_beginning_the_trends_are_asked_for_their_own_period(
    mia: Client, prod: Environment
) -> None:
    url = lead(
        mia.get(LIST, {"environment": str(prod), "user": "a&b", "until": "2026-11-03T00:00"}), "Block trends"
    )
    assert parse_qs(urlsplit(url).query) == {"environment": [str(prod)], "user": ["a&b"]}
    wrong = mia.get(LIST, {"environment": str(prod), "since": "soon"})
    assert parse_qs(urlsplit(lead(wrong, "Block trends")).query) == {"environment": [str(prod)]}


def test_the_list_is_led_to_without_what_it_cannot_be_asked_for(mia: Client, prod: Environment) -> None:
    url = lead(look(mia, prod, without="feature", user="ana"), "Blocked calls")
    assert mia.get(url).status_code == 200
    assert parse_qs(urlsplit(url).query).keys() == {"environment", "user", "since", "until"}


def test_calls_that_passed_later_and_the_share_of_all_calls(mia: Client, prod: Environment) -> None:
    apply_policies(prod, limits("{metric: concurrency, window: total, amount: 1, per: user}"))
    api = Api(prod)
    for number in range(3):
        api.evaluate("ana", request_id=f"r-{number}")
    api.report("r-0", "ana")
    assert api.evaluate("ana", request_id="r-1")["allowed"]
    api.report("r-1", "ana")

    answer = mia.get(BLOCKED, {"environment": str(prod)})

    text = " ".join(unescape(answer.content.decode()).split())
    assert answer.context["count"] == 2
    assert (answer.context["newest"].looked_up, answer.context["newest"].passed) == (2, 1)
    assert '<p class="tv-figure">1 of 2</p>' in text
    assert "50 %" in text
    assert "2 calls were made" in text


def test_of_users_it_is_said_whether_they_called_again_and_what_blocked_them_most(
    mia: Client, prod: Environment
) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}", name="Free plan"))
    policy = Policy.objects.get(environment=prod)
    at = datetime(2026, 10, 27, 23, 30, tzinfo=BERLIN)
    rows = [
        BlockedDecision(
            environment=prod, stream_id=f"{number}-0", decided_at=at, request_id=f"r-{number}", user_id=user,
            feature="", plan="", run_id="", model="m", message="", limit_state=[], reason_code=reason,
            reason_class="exhausted", policy_id=policy.pk if reason.startswith("DAILY") else None,
            policy_name="",
        )
        for number, (user, reason) in enumerate(
            [("same", "DAILY_REQUEST_LIMIT_EXCEEDED"), ("same", "DAILY_REQUEST_LIMIT_EXCEEDED"),
             ("same", "MODEL_DENIED"), ("next", "MODEL_DENIED"), ("late", "MODEL_DENIED"), ("gone", "MODEL_DENIED")]
        )
    ]  # fmt: skip
    decision_log.ensure(row.decided_at for row in rows)
    BlockedDecision.objects.bulk_create(rows)
    for user, later in (("same", 1), ("next", 6 * 60), ("late", 25 * 60), ("gone", -1)):
        use(prod, at + timedelta(minutes=later), user=user)

    answer = look(mia, prod)

    text = " ".join(unescape(answer.content.decode()).split())
    assert "2 of 4 had a call allowed within 24 h of a block, 1 on the same day" in text
    users = next(rows for name, rows, _ in answer.context["groups"] if name == "users")
    assert {row.name: (row.back, row.most_by) for row in users} == {
        "same": ("same day", "Daily request limit exceeded, Free plan"),
        "next": ("within 24 h", "Model denied"),
        "late": ("no", "Model denied"),
        "gone": ("no", "Model denied"),
    }
    narrowed = look(mia, prod, policy=str(policy.pk)).context
    assert (narrowed["back"], narrowed["back_of"]) == ("1", "1")


def test_of_more_than_are_looked_up_it_says_so(
    mia: Client, prod: Environment, decisions: list[BlockedDecision], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "LOOKED_UP_MAX", 5)
    assert "of the newest 5 calls; allowed later" in unescape(look(mia, prod).content.decode())


def test_what_cannot_be_read_is_said_beside_its_field(mia: Client, prod: Environment) -> None:
    answer = look(mia, prod, to="2026-10-01")
    assert "This is before the first day" in unescape(answer.content.decode())
    assert "course" not in answer.context


@pytest.mark.parametrize("asked", [{"table": "users"}, {"table": "hopes", "format": "csv"}, {"hope": "1"}])
def test_a_question_that_there_is_not_is_refused(
    mia: Client, prod: Environment, asked: dict[str, str]
) -> None:
    assert mia.get(BLOCKED, {"environment": str(prod), **asked}).status_code == 400


def test_another_tenants_decisions_are_in_no_figure(
    other: Tenant, sign_in: SignIn, prod: Environment, decisions: list[BlockedDecision]
) -> None:
    sam = sign_in("sam", other)
    answer = look(sam, prod)
    assert answer.context["environment"].tenant == other
    assert answer.context["count"] == 0


def test_the_page_costs_a_bounded_number_of_queries(
    mia: Client, prod: Environment, decisions: list[BlockedDecision]
) -> None:
    look(mia, prod)
    with CaptureQueriesContext(connection) as captured:
        look(mia, prod)
    assert len(captured) < QUERIES_MAX


def test_names_beyond_the_first_are_one_row_and_all_make_up_the_total(
    mia: Client, prod: Environment, decisions: list[BlockedDecision], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked_page, "NAMES_SHOWN", 3)
    answer = look(mia, prod)
    users = rows_of(answer, "users")
    assert list(users)[-1] == "Other (4)"
    assert sum(users.values()) == len(decisions)
    # As many as are shown: nobody is left.
    assert "Other" not in "".join(rows_of(answer, "features"))
    assert next(rows for name, rows, _ in answer.context["groups"] if name == "users")[-1].url is None


def test_what_blocked_calls_would_have_cost_at_most(mia: Client, prod: Environment) -> None:
    set_price("gpt-test", input_usd="1000")
    apply_policies(prod, limits("{metric: requests, window: day, amount: 1, per: user}"))
    api = Api(prod)
    api.use("ana")
    for number in range(2):
        api.evaluate("ana", model="gpt-test", request_id=f"r-{number}", input_tokens=1_000)
    answer = mia.get(BLOCKED, {"environment": str(prod)})
    assert "could not be priced" not in answer.content.decode()
    # Each as the decision itself says.
    (cost,) = set(BlockedDecision.objects.values_list("estimated_cost_nano", flat=True))
    assert cost is not None
    assert cost >= 10**9
    assert answer.context["cost"] == wording.money_rounded(2 * cost)
    api.evaluate("ana", model="mystery", request_id="r-unpriced")
    said = mia.get(BLOCKED, {"environment": str(prod)}).content.decode()
    assert "; 1 could not be priced" in said


def test_how_long_decisions_are_kept_is_said_in_days(mia: Client, prod: Environment, settings: Any) -> None:
    settings.BLOCKED_DECISIONS_KEPT_DAYS = 45
    said = look(mia, prod).content.decode()
    assert "Blocked calls are kept for 45 days" in said
    assert "KEPT_DAYS" not in said
