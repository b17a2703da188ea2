"""What an end user used over a period, on their page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from policies.blocked import decision_log
from policies.models import BlockedDecision
from tenants.models import Environment, Tenant
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.test_usage_summary import use
from usage.analytics import known_since
from usage.tests.rolling import roll_all

pytestmark = pytest.mark.django_db(transaction=True)

# The clocks of Berlin were set back on 25 October; the month ends inside.
CUSTOM = {"period": "custom", "from": "2026-10-20", "to": "2026-11-05"}
START, END = datetime(2026, 10, 19, 22, tzinfo=UTC), datetime(2026, 11, 5, 23, tzinfo=UTC)
FEATURES = ["chat", "", "code", "search", "mail", "draw", "talk"]
HOSTILE = "<script>alert(1)</script> \u202eevil\u202c 💥/%?&#\"'"


def look(client: Client, environment: Environment, user_id: str = "ann", **parameters: str) -> Any:
    named = {"environment": str(environment), "user_id": user_id}
    answer = client.get(reverse("admin:end_user"), {**named, **parameters})
    assert answer.status_code == 200, answer.content
    return answer


def text(answer: Any) -> str:
    """Of the part of the page that is about usage."""
    page = answer.content.decode()
    part = page[page.index('id="usage"') : page.index('id="calls"')]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", part)))


def figures(answer: Any) -> dict[str, tuple[str, str]]:
    return {each.title: (each.value, each.before) for each in answer.context["usage"]["figures"]}


def fill(environment: Environment) -> None:
    """A call of ann each five hours, from before the period until after it, and one of ben in between."""
    at, number = START - timedelta(days=20), 0
    while at < END + timedelta(days=2):
        number += 1
        cost = None if number % 7 == 0 else number * 1_234_567
        feature = FEATURES[number % len(FEATURES)]
        use(environment, at, user="ann", feature=feature, cost_nano=cost)
        use(environment, at, user="ben", feature=feature, cost_nano=1)
        at += timedelta(hours=5)


def block(environment: Environment, at: datetime, user: str = "ann") -> None:
    decision_log.ensure([at])
    BlockedDecision.objects.create(
        environment=environment, stream_id=f"{at} {user}", decided_at=at, request_id=f"{at}", user_id=user,
        feature="", plan="", run_id="", model="m", reason_code="USER_BLOCKED", reason_class="forbidden",
        message="Blocked.", policy_name="", limit_state=[],
    )  # fmt: skip


def plain_sum(environment: Environment, first: str, last: str) -> tuple[int, int, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT sum(cost_nano), sum(requests), sum(input_tokens + output_tokens) FROM usage_event
            WHERE environment_id = %s AND user_id = 'ann'
            AND (charged_at AT TIME ZONE 'Europe/Berlin')::date BETWEEN %s AND %s
            """,
            [environment.pk, first, last],
        )
        cost, calls, tokens = map(int, cursor.fetchone() or ())
    return cost, calls, tokens


def test_the_figures_are_what_plain_sql_sums_up_in_both_periods(prod: Environment, mia: Client) -> None:
    fill(prod)
    roll_all(prod.pk)
    use(prod, END - timedelta(hours=1), user="ann", cost_nano=5)
    for hours, user in ((1, "ann"), (2, "ann"), (3, "ben"), (-1, "ann")):
        block(prod, START + timedelta(hours=hours), user)
    cost, calls, tokens = plain_sum(prod, "2026-10-20", "2026-11-05")
    before = plain_sum(prod, "2026-10-03", "2026-10-19")

    answer = look(mia, prod, **CUSTOM)

    found = figures(answer)
    assert found["Spent"] == (f"${Decimal(cost) / 10**9:.2f}", f"${Decimal(before[0]) / 10**9:.2f} before")
    assert found["Calls"] == (str(calls), f"{before[1]} before")
    assert found["Tokens"] == (str(tokens), f"{before[2]} before")
    assert found["Blocked"] == (f"2 · {200 // (calls + 2)} %", f"{100 // (before[1] + 1)} % before")
    assert "20 Oct to 5 Nov 2026; before: 3 to 19 Oct 2026" in text(answer)


def test_the_course_has_a_bar_for_each_day_and_the_blocks_of_the_models(
    prod: Environment, mia: Client
) -> None:
    fill(prod)
    bars = look(mia, prod, **CUSTOM).context["usage"]["chart"].bars
    assert len(bars) == 17
    assert all(len(bar.blocks) == 1 for bar in bars)
    assert 'class="tv-chart-plot"' in look(mia, prod, **CUSTOM).content.decode()


def test_the_five_dearest_and_other_add_up_and_lead_to_the_explorer_and_to_their_calls(
    prod: Environment, mia: Client
) -> None:
    fill(prod)
    answer = look(mia, prod, **CUSTOM)
    by_feature, by_model = answer.context["usage"]["groups"]
    calls = figures(answer)["Calls"][0]

    assert [used.row.name for used in by_model.rows] == ["m"]
    assert len(by_feature.rows) == 6
    assert by_feature.rows[-1].row.name == "Other (2)"
    assert sum(int(used.row.calls) for used in by_feature.rows) == int(calls)
    assert "No feature" in text(answer)
    for group in (by_feature, by_model):
        for used in group.rows:
            explorer = mia.get(used.url)
            if used.row.is_named or used.row.name == "No feature":
                assert explorer.context["total"].calls == used.row.calls, used
                assert mia.get(used.row.url).context["cl"].result_count == int(used.row.calls)
            else:
                assert len(explorer.context["rows"]) == len(FEATURES)
        assert mia.get(group.url).context["total"].calls == calls
    usage = answer.context["usage"]
    assert mia.get(usage["calls_url"]).context["cl"].result_count == int(calls)
    assert mia.get(usage["explorer_url"]).context["total"].calls == calls


def test_what_was_blocked_leads_to_the_blocked_calls_of_the_user(prod: Environment, mia: Client) -> None:
    for user in ("ann", "ben"):
        block(prod, START + timedelta(hours=1), user)
    answer = look(mia, prod, **CUSTOM)
    assert figures(answer)["Blocked"][0] == "1 · 100 %"
    assert "No call of ann was recorded in this period." in text(answer)
    assert "tv-chart-plot" not in answer.content.decode()
    assert mia.get(answer.context["usage"]["blocked_url"]).context["count"] == 1


def test_without_a_period_it_is_the_last_thirty_days(
    prod: Environment, mia: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr(known_since, "first_call", lambda _: now - timedelta(days=90))
    for days in (0, 28, 40):
        use(prod, now - timedelta(days=days), user="ann")
    assert figures(look(mia, prod))["Calls"] == ("2", "1 before")
    assert figures(look(mia, prod, period="today"))["Calls"] == ("1", "0 before")


def test_a_user_without_any_call_is_told_so_and_sees_no_empty_chart(prod: Environment, mia: Client) -> None:
    use(prod, START, user="ben")
    answer = look(mia, prod, "nobody", **CUSTOM)
    assert "nobody made no call that was recorded or blocked in this period" in text(answer)
    assert "tv-chart" not in answer.content.decode()
    assert 'class="tv-figures"' not in answer.content.decode()


def test_a_user_with_calls_in_the_period_before_alone_sees_them_as_before(
    prod: Environment, mia: Client
) -> None:
    use(prod, START - timedelta(days=18))
    use(prod, START - timedelta(days=1), user="ann")
    answer = look(mia, prod, **CUSTOM)
    assert figures(answer)["Calls"] == ("0", "1 before")
    assert "No call of ann was recorded in this period." in text(answer)


def test_a_period_that_cannot_be_read_is_said_beside_its_field_and_the_page_stays(
    prod: Environment, mia: Client
) -> None:
    use(prod, START, user="ann")
    answer = look(mia, prod, period="custom", **{"from": "yesterday"})
    assert "Enter a valid date." in text(answer)
    assert 'value="yesterday"' in answer.content.decode()
    assert "figures" not in answer.context["usage"]
    assert "Calls and blocks" in answer.content.decode()


def test_a_parameter_that_the_page_does_not_have_is_refused(prod: Environment, mia: Client) -> None:
    named = {"environment": str(prod), "user_id": "ann"}
    for name in ("feature", "user", "show", "run"):
        assert mia.get(reverse("admin:end_user"), {**named, name: "chat"}).status_code == 400


def test_a_change_of_the_user_comes_back_to_the_same_period(prod: Environment, mia: Client) -> None:
    url = f"{reverse('admin:end_user')}?environment={prod}&user_id=ann&period=today"
    answer = mia.post(url, {"do": "block", "block-reason": "Too much"})
    assert answer.headers["Location"] == url


def test_calls_without_a_price_are_said(prod: Environment, mia: Client) -> None:
    for _ in range(2):
        use(prod, START, user="ann", cost_nano=None)
    answer = look(mia, prod, **CUSTOM)
    assert "2 calls without a price" in text(answer)
    assert mia.get(answer.context["usage"]["unpriced_url"]).context["total"].amount == "2"


def test_a_hostile_name_is_counted_and_leads_to_its_own_calls(prod: Environment, mia: Client) -> None:
    use(prod, START, user=HOSTILE, feature=HOSTILE)
    use(prod, START, user="ann", feature="chat")
    answer = look(mia, prod, HOSTILE, **CUSTOM)
    assert figures(answer)["Calls"][0] == "1"
    assert "<script>alert" not in answer.content.decode()
    (used,) = answer.context["usage"]["groups"][0].rows
    assert used.row.name == HOSTILE
    assert mia.get(used.row.url).context["cl"].result_count == 1
    assert mia.get(used.url).context["total"].calls == "1"


def test_nobody_elses_usage_is_shown(prod: Environment, sign_in: SignIn, other: Tenant, mia: Client) -> None:
    use(prod, START, user="ann", feature="secret")
    stranger = sign_in("sam", other)
    theirs = other.environments.get(slug="prod")
    url = reverse("admin:end_user")
    assert stranger.get(url, {"environment": str(prod), "user_id": "ann", **CUSTOM}).status_code == 404
    assert "secret" not in look(stranger, theirs, **CUSTOM).content.decode()


def test_it_reads_the_ledger_as_often_whatever_is_in_it(prod: Environment, mia: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            look(mia, prod, **CUSTOM)
        return len(captured)

    use(prod, START, user="ann", feature="chat")
    queries()
    few = queries()
    fill(prod)
    assert queries() == few <= 24
