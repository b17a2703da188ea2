"""The Explorer: a question in the address, its answer as a chart, a table and files."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import escape

from tenants.console.display import user_url
from tenants.models import Environment, Tenant
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.test_usage_summary import use
from usage.amounts import Subjects
from usage.ledger.writing import record
from usage.models import UsageEvent
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import report

pytestmark = pytest.mark.django_db

# The clocks of Berlin were set back on 25 October; the month ends inside.
CUSTOM = {"period": "custom", "from": "2026-10-20", "to": "2026-11-05"}
START, END = datetime(2026, 10, 19, 22, tzinfo=UTC), datetime(2026, 11, 5, 23, tzinfo=UTC)


def opened(client: Client, name: str = "explorer", **parameters: Any) -> Any:
    return client.get(reverse(f"admin:{name}"), parameters)


def exported(client: Client, **parameters: Any) -> str:
    answer = opened(client, "explorer_export", **parameters)
    assert answer.status_code == 200, answer.content
    return b"".join(answer.streaming_content).decode()


def fill(environment: Environment) -> None:
    """One call each nine hours around the period, of some users, features and prices."""
    at, number = START - timedelta(days=3), 0
    while at < END + timedelta(days=3):
        number += 1
        use(
            environment, at, user="abc"[number % 3], feature=["chat", "", "code"][number % 3],
            plan=["", "pro"][number % 2], cost_nano=None if number % 7 == 0 else number * 1_234_567,
        )  # fmt: skip
        at += timedelta(hours=9)


def text(answer: Any) -> str:
    return unescape(re.sub(r"<[^>]*>", " ", answer.content.decode()))


def links(answer: Any) -> list[str]:
    found = re.findall(r'href="([^"]*usageevent/\?[^"]*)"', answer.content.decode())
    return [unescape(url) for url in found]


def test_the_total_is_what_plain_sql_sums_up_in_the_zone(prod: Environment, mia: Client) -> None:
    fill(prod)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT sum(requests), sum(cost_nano) FROM usage_event WHERE environment_id = %s
            AND (charged_at AT TIME ZONE 'Europe/Berlin')::date BETWEEN '2026-10-20' AND '2026-11-05'
            """,
            [prod.pk],
        )
        calls, nano = map(int, cursor.fetchone() or ())
    answer = opened(mia, **CUSTOM, by="user")
    assert answer.context["total"].calls == str(calls)
    assert answer.context["total"].in_full == f"${Decimal(nano) / 10**9:f}"
    assert f"of {prod}" not in text(answer)
    assert "20 Oct to 5 Nov 2026" in text(answer)


@pytest.mark.parametrize("by", ["user", "feature", "plan", "model"])
def test_rows_add_up_to_the_total_and_each_leads_to_its_calls(
    prod: Environment, mia: Client, by: str
) -> None:
    fill(prod)
    answer = opened(mia, **CUSTOM, by=by, then="plan" if by != "plan" else "user", show="calls")
    rows, total = answer.context["rows"], answer.context["total"]
    assert sum(int(row.amount) for row in rows if not row.is_part) == int(total.amount)
    for row in [*rows, total]:
        events = mia.get(row.url)
        assert events.context["cl"].result_count == int(row.calls), row
    assert links(answer)


def test_a_day_of_the_chart_leads_to_the_calls_of_that_day(prod: Environment, mia: Client) -> None:
    fill(prod)
    answer = opened(mia, **CUSTOM, show="calls", user="a")
    steps = answer.context["step_rows"]
    assert len(steps) == 17
    for step in steps:
        assert mia.get(step.url).context["cl"].result_count == int(step.amount), step


def test_other_leads_to_all_names(prod: Environment, mia: Client) -> None:
    for number in range(8):
        use(prod, START, user=f"u{number}")
    rows = opened(mia, **CUSTOM, by="user").context["rows"]
    assert rows[-1].name == "Other (3)"
    everyone = mia.get(rows[-1].url)
    assert len(everyone.context["rows"]) == 8


def test_the_chart_and_the_table_name_the_same_others(prod: Environment, mia: Client) -> None:
    for number in range(12):
        use(prod, START, user=f"u{number}")
    five = opened(mia, **CUSTOM, by="user")
    assert five.context["keys"][-1].name == five.context["rows"][-1].name == "Other (7)"
    assert [row.pattern for row in five.context["rows"]] == [1, 2, 3, 4, 5, 6]
    ten = opened(mia, **CUSTOM, by="user", top="10")
    assert ten.context["rows"][-1].name == "Other (2)"
    assert ten.context["keys"][-1].name == "All after the first 5 (7)"
    assert [row.pattern for row in ten.context["rows"]] == [1, 2, 3, 4, 5, *[0] * 6]


def test_who_made_no_call_in_the_period_is_one_row_that_says_so(prod: Environment, mia: Client) -> None:
    use(prod, START, user="ana")
    use(prod, START - timedelta(days=1), user="ben")
    rows = opened(mia, **CUSTOM, by="user").context["rows"]
    assert [row.name for row in rows] == ["ana", "Without calls in this period"]
    (leading, *_) = opened(mia, "index", **CUSTOM).context["leaders"]
    assert [row.name for row in leading.rows] == ["ana"]
    rising = opened(mia, **CUSTOM, by="user", rank="rise").context["rows"]
    assert [row.name for row in rising] == ["ana", "ben"]


def test_names_that_are_told_apart_twice_are_told_apart_once(prod: Environment, mia: Client) -> None:
    use(prod, START)
    twice = opened(mia, **CUSTOM, by="model", then="model")
    assert [row.name for row in twice.context["rows"]] == ["m"]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"by": "none", "then": "user"}, "Choose first by what calls are told apart."),
        ({"show": "money"}, "money is not one of the available choices."),
        ({"top": "7"}, "7 is not one of the available choices."),
        ({"top": "x" * 1000}, "is not one of the available choices."),
        (
            {"step": "hour", "period": "custom", "from": "2026-01-01", "to": "2026-10-01"},
            "choose longer ones",
        ),
        ({"period": "custom", "from": "yesterday"}, "Enter a valid date."),
        ({"user": "a\0"}, "Null characters are not allowed."),
    ],
)
def test_what_cannot_be_asked_is_said_beside_its_field(
    prod: Environment, mia: Client, parameters: dict[str, str], says: str
) -> None:
    answer = opened(mia, **parameters)
    assert answer.status_code == 200
    assert says in text(answer)
    assert "rows" not in answer.context or answer.context.get("rows") is None
    assert opened(mia, "explorer_export", **parameters).status_code == 400


def test_a_parameter_that_is_none_of_the_page_is_refused(prod: Environment, mia: Client) -> None:
    assert opened(mia, fature="chat").status_code == 400
    assert opened(mia, "explorer_export", format="xlsx").status_code == 400


@pytest.mark.parametrize("step", ["none", "hour", "day", "week", "month"])
@pytest.mark.parametrize("show", ["cost", "cached-tokens", "unpriced"])
def test_every_figure_in_every_step_is_shown(prod: Environment, mia: Client, step: str, show: str) -> None:
    fill(prod)
    period = {"period": "custom", "from": "2026-10-24", "to": "2026-10-26"}
    answer = opened(mia, **period, step=step, show=show, by="model", then="run", cumulative="on", rank="rise")
    assert answer.status_code == 200
    assert ('<svg class="tv-chart-plot"' in answer.content.decode()) == (step != "none")


def test_adding_up_ends_with_the_total(prod: Environment, mia: Client) -> None:
    fill(prod)
    answer = opened(mia, **CUSTOM, show="calls", cumulative="on")
    assert answer.context["step_rows"][-1].amount == answer.context["total"].amount


def test_the_day_of_a_clock_change_is_one_bar(prod: Environment, mia: Client) -> None:
    for hour in range(25):
        use(prod, datetime(2026, 10, 24, 22, tzinfo=UTC) + timedelta(hours=hour))
    answer = opened(mia, **{**CUSTOM, "show": "calls"})
    by_day = {step.label: step.amount for step in answer.context["step_rows"]}
    assert (by_day["24 Oct"], by_day["25 Oct"], by_day["26 Oct"]) == ("0", "25", "0")


def test_the_period_before_stands_beside_each_step(prod: Environment, mia: Client) -> None:
    use(prod, datetime(2026, 10, 24, 12, tzinfo=UTC))
    use(prod, datetime(2026, 10, 25, 12, tzinfo=UTC))
    use(prod, datetime(2026, 10, 25, 12, tzinfo=UTC))
    day = {"period": "custom", "from": "2026-10-25", "show": "calls"}
    answer = opened(mia, **day)
    assert (answer.context["total"].before, answer.context["total"].change) == ("1", "+100.0 %")
    assert "against 1, 24 Oct 2026" in re.sub(r"\s+", " ", text(answer))
    hours = {
        row.label: (row.amount, row.before) for row in opened(mia, **day, step="hour").context["step_rows"]
    }
    assert hours["13:00"] == ("2", "0")
    assert hours["14:00"] == ("0", "1")


def test_weeks_are_compared_with_as_many_days_or_not_at_all(prod: Environment, mia: Client) -> None:
    """From a Friday to a Wednesday, 13 days: the period before begins on a Saturday."""
    for day in range(1, 31):
        use(prod, datetime(2026, 10, day, 12, tzinfo=UTC))
    asked = {"period": "custom", "from": "2026-10-16", "to": "2026-10-28", "show": "calls", "step": "week"}
    answer = opened(mia, **asked)
    rows = [
        (row.label, row.part, row.amount, row.before, row.before_days) for row in answer.context["step_rows"]
    ]
    assert rows == [
        ("16 Oct", "3 of 7 days", "3", "3", "3 to 5 Oct 2026"),
        ("19 Oct", "", "7", "7", "6 to 12 Oct 2026"),
        ("26 Oct", "3 of 7 days", "3", "3", "13 to 15 Oct 2026"),
    ]
    assert {row.change for row in answer.context["step_rows"]} == {"0.0 %"}
    assert [bar.is_part for bar in answer.context["chart"].bars] == [True, False, True]
    assert "paler bars are of a part of a step" in answer.content.decode()


def test_a_month_is_not_compared_with_a_shorter_part_of_the_one_before(
    prod: Environment, mia: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of December the last week has four days, and as far into November there are three."""
    asked_at = datetime(2027, 1, 2, 12, tzinfo=UTC)
    monkeypatch.setattr("usage.admin.explorer.timezone", SimpleNamespace(now=lambda: asked_at))
    for day in range(1, 31):
        use(prod, datetime(2026, 11, day, 12, tzinfo=UTC))
    rows = opened(mia, period="last-month", show="calls", step="week").context["step_rows"]
    assert [(row.label, row.before) for row in rows] == [
        ("1 Dec", "6"), ("7 Dec", "7"), ("14 Dec", "7"), ("21 Dec", "7"), ("28 Dec", ""),
    ]  # fmt: skip


def test_a_period_before_the_first_call_is_nothing_to_compare_with(prod: Environment, mia: Client) -> None:
    use(prod, datetime(2026, 10, 24, 12, tzinfo=UTC))
    use(prod, datetime(2026, 10, 26, 12, tzinfo=UTC))
    earlier = opened(mia, **{"period": "custom", "from": "2026-10-25", "to": "2026-10-27", "show": "calls"})
    assert "nothing to compare: calls are known since 24 Oct 2026" in text(earlier)
    total, (row,) = earlier.context["total"], earlier.context["rows"]
    assert (total.before, total.change, row.change, row.calls_change) == ("1", "", "", "")
    assert all(bar.tick is None for bar in earlier.context["chart"].bars)
    assert all(each.change == "" for each in earlier.context["step_rows"])
    use(prod, datetime(2026, 10, 22, 12, tzinfo=UTC))
    later = opened(mia, **{"period": "custom", "from": "2026-10-25", "to": "2026-10-27", "show": "calls"})
    assert "nothing to compare" not in text(later)
    assert later.context["total"].change == "−50.0 %"


def test_names_with_few_calls_come_last_by_the_mean_and_the_chart_shows_the_mean(
    prod: Environment, mia: Client
) -> None:
    """Of 42 calls a name needs two."""
    use(prod, START, user="once", cost_nano=900_000_000)
    use(prod, START - timedelta(days=18))
    for _ in range(2):
        use(prod, START, user="twice", cost_nano=300_000_000)
    for _ in range(39):
        use(prod, START, user="often", cost_nano=100_000_000)
    answer = opened(mia, **CUSTOM, by="user", rank="per-call")
    assert [row.name for row in answer.context["rows"]] == ["twice", "often", "once"]
    assert "names with fewer than 2 calls come last" in text(answer)
    first_day = answer.context["chart"].bars[:3]
    assert [bar.blocks[0].says for bar in first_day] == [
        "20 Oct, twice: $0.30", "20 Oct, often: $0.10", "20 Oct, once: $0.90",
    ]  # fmt: skip
    assert first_day[0].x < first_day[1].x < first_day[2].x
    assert answer.context["step_rows"][0].amount == "$0.13"
    assert "Spend a call, mean, by step and name" in answer.content.decode()


def test_calls_without_a_price_are_said_and_lead_to_their_models(prod: Environment, mia: Client) -> None:
    fill(prod)
    answer = opened(mia, **CUSTOM)
    assert "calls have no price" in text(answer)
    assert mia.get(answer.context["unpriced_url"]).context["measure"] == "Calls without a price"


@pytest.mark.parametrize("step", ["none", "day"])
def test_both_files_sum_to_the_page_and_say_what_they_are(prod: Environment, mia: Client, step: str) -> None:
    fill(prod)
    asked = {**CUSTOM, "by": "user", "then": "feature", "plan": "pro", "step": step}
    page = opened(mia, **asked)
    as_json = json.loads(exported(mia, **asked, format="json"))
    about, rows = as_json["about"], as_json["rows"]
    assert about["usage_of"] == "acme/prod"
    assert about["from"] == "2026-10-20T00:00:00+02:00"
    assert about["to"] == "2026-11-06T00:00:00+01:00"
    assert (about["time_zone"], about["filters"]) == ("Europe/Berlin", {"plan": "pro"})
    assert re.fullmatch(r"\d+:\d+:[\d,]*", about["ledger_mark"])
    assert sum(row["calls"] for row in rows) == int(page.context["total"].calls)
    cost = sum(Decimal(row["cost_usd"]) for row in rows)
    assert f"${cost:f}" == page.context["total"].in_full
    lines = list(csv.reader(io.StringIO(exported(mia, **asked, format="csv"))))
    heads = next(place for place, line in enumerate(lines) if line[0] == "from")
    of_csv = [dict(zip(lines[heads], line, strict=True)) for line in lines[heads + 1 :]]
    assert sum(Decimal(row["cost_usd"]) for row in of_csv) == cost
    assert ["#", "time_zone", "Europe/Berlin"] in lines
    assert None in {row["feature"] for row in rows}


@pytest.mark.django_db(transaction=True)
def test_a_quantity_is_shown_like_any_figure_and_its_files_sum_to_the_page(
    prod: Environment, mia: Client
) -> None:
    """Offered once it was used, and rolled up."""
    fill(prod)
    assert "Other quantities" not in text(opened(mia, **CUSTOM))
    searched = (("a", "chat", 2), ("b", "chat", 1), ("b", "code", 4))
    for number, (user, feature, searches) in enumerate(searched):
        at, subjects = START + timedelta(days=5 * number), Subjects(user_id=user, feature=feature)
        quantities = {"web_searches": searches, "input_audio_seconds": 60}
        record([report(prod, f"s{number}", charged_at=at, subjects=subjects, quantities=quantities)])
    roll_all(prod.pk)
    asked = {**CUSTOM, "show": "web_searches", "by": "user", "then": "feature"}
    page = opened(mia, **asked)
    shown = [(row.name, row.amount) for row in page.context["rows"] if row.amount != "0"]
    assert shown == [("b", "5"), ("code", "4"), ("chat", "1"), ("a", "2"), ("chat", "2")]
    assert (page.context["measure"], page.context["total"].amount) == ("Web searches", "7")
    offered = re.search(r'<optgroup label="Other quantities">(.*?)</optgroup>', page.content.decode(), re.S)
    assert offered is not None
    assert re.findall(r">([^<]+)</option>", offered[1]) == ["Input audio seconds", "Web searches"]
    rows = json.loads(exported(mia, **asked, format="json"))["rows"]
    assert sum(row["web_searches"] for row in rows) == 7
    lines = list(csv.reader(io.StringIO(exported(mia, **asked, format="csv"))))
    place = next(line for line in lines if line[0] == "from").index("input_audio_seconds")
    assert sum(int(line[place]) for line in lines[-len(rows) :]) == 180
    assert opened(mia, **{**asked, "then": "", "user": "a"}).context["total"].amount == "2"


def test_a_quantity_that_is_asked_for_is_offered_though_it_was_never_used(
    prod: Environment, mia: Client
) -> None:
    page = opened(mia, **CUSTOM, show="images")
    assert '<option value="images" selected>Images</option>' in page.content.decode()
    assert "Choose" not in text(page)


def test_the_files_are_linked_under_the_same_question(prod: Environment, mia: Client) -> None:
    fill(prod)
    answer = opened(mia, **CUSTOM, by="user", user="a", step="week")
    for kind, url in answer.context["export_urls"]:
        file = mia.get(url)
        name = "usage-acme-prod-by-user-each-week-filtered-2026-10-20-2026-11-05"
        assert file["Content-Disposition"] == f'attachment; filename="{name}.{kind}"'
        assert b"2026-10-26T00:00:00+01:00" in b"".join(file)


def test_files_of_other_questions_have_other_names(prod: Environment, mia: Client) -> None:
    def name(**asked: str) -> str:
        return str(opened(mia, "explorer_export", **{**CUSTOM, **asked})["Content-Disposition"])

    asked = [{}, {"by": "none"}, {"then": "user"}, {"step": "none"}, {"user": "a"}, {"to": "2026-11-04"}]
    assert len({name(**each) for each in asked}) == len(asked)
    assert 'filename="usage-acme-prod-each-day-2026-10-20-2026-11-05.csv"' in name(by="none")


@pytest.mark.django_db(transaction=True)
def test_a_user_leads_to_their_page_over_the_same_period(prod: Environment, mia: Client) -> None:
    use(prod, START, user="a&b", feature="chat")
    row = opened(mia, **CUSTOM, by="feature", then="user").context["rows"][1]
    assert (row.name, row.is_part) == ("a&b", True)
    page = mia.get(row.user_url)
    period = page.context["usage"]["asked"].shown
    assert (str(period.days.first), str(period.days.last)) == ("2026-10-20", "2026-11-05")
    assert f'href="{escape(row.user_url)}"' in opened(mia, **CUSTOM, by="user").content.decode()
    leading = opened(mia, "index", **CUSTOM).context["leaders"][0]
    assert leading.rows[0].user_url == row.user_url


def test_the_largest_rise_is_said_in_dollars_too(prod: Environment, mia: Client) -> None:
    use(prod, START - timedelta(days=18))
    use(prod, START - timedelta(days=1), user="a", cost_nano=2_000_000_000)
    use(prod, START, user="a", cost_nano=5_500_000_000)
    use(prod, START, user="b", cost_nano=1_000_000_000)
    rising = opened(mia, **CUSTOM, by="user", rank="rise").context["rows"]
    assert [row.change for row in rising] == ["+$3.50 · +175.0 %", "+$1.00 · new"]
    assert opened(mia, **CUSTOM, by="user").context["rows"][0].change == "+175.0 %"


def test_a_change_is_told_apart_into_calls_and_what_a_call_was(prod: Environment, mia: Client) -> None:
    """Twice as many calls, each at 1.5 times the money: three times as much."""
    use(prod, START - timedelta(days=18))
    use(prod, START - timedelta(days=1), user="a", cost_nano=2_000_000_000)
    for _ in range(2):
        use(prod, START, user="a", cost_nano=3_000_000_000)
    use(prod, START, user="b", cost_nano=0)
    answer = opened(mia, **CUSTOM, by="user")
    ana, ben = answer.context["rows"]
    assert (ana.change, ana.calls_change, ana.per_call_change) == ("+200.0 %", "+100.0 %", "+50.0 %")
    assert (ben.calls_change, ben.per_call_change) == ("", "")
    said = re.sub(r"<[^>]*>", "", answer.content.decode())
    assert re.search(r"against \$2.00, .*: calls \+200.0 %, a call on average 0.0 %", said)
    assert ": calls +" not in opened(mia, **CUSTOM, by="user", show="calls").content.decode()


def test_a_column_of_money_has_the_same_places(prod: Environment, mia: Client) -> None:
    use(prod, START, user="a", cost_nano=5_000_000_000)
    use(prod, START, user="b", cost_nano=9_718_950)
    dollars = opened(mia, **CUSTOM, by="user")
    assert [row.amount for row in dollars.context["rows"]] == ["$5.00", "$0.01"]
    assert dollars.context["rows"][1].in_full == "$0.00971895"
    use(prod, START, user="c", feature="tiny", cost_nano=186_000)
    tiny = opened(mia, **CUSTOM, by="user", feature="tiny")
    assert [row.amount for row in tiny.context["rows"]] == ["$0.000186"]
    assert tiny.context["total_says"] == "$0.000186"


def test_names_cannot_become_formulas_of_a_spreadsheet(prod: Environment, mia: Client) -> None:
    use(prod, START, user="=1+1")
    assert "'=1+1" in exported(mia, **CUSTOM, by="user")


def test_a_stranger_sees_and_exports_nothing_of_another_tenant(
    prod: Environment, other: Tenant, sign_in: SignIn
) -> None:
    fill(prod)
    sam = sign_in("sam", other)
    assert opened(sam, **CUSTOM, environment="acme/prod").context["rows"] == []
    assert "acme" not in exported(sam, **CUSTOM, environment="acme/prod")


def test_an_auditor_sees_no_usage(acme: Tenant, sign_in: SignIn) -> None:
    auditor = sign_in("aud", acme, role="auditor")
    assert opened(auditor).status_code == 403
    assert opened(auditor, "explorer_export").status_code == 403


def test_the_list_of_calls_has_the_same_filters_and_says_what_it_cannot_read(
    prod: Environment, mia: Client
) -> None:
    fill(prod)
    ledger = reverse("admin:usage_usageevent_changelist")
    all_rows = UsageEvent.objects.filter(environment=prod).count()
    assert mia.get(ledger).context["cl"].result_count == all_rows
    wrong = mia.get(ledger, {"period": "custom", "from": "x"})
    assert "Enter a valid date." in text(wrong)
    assert wrong.context["cl"].result_count == 0
    found = mia.get(ledger, {**CUSTOM, "user": "a", "without": "feature", "q": "a"})
    assert found.context["cl"].result_count == 0
    searched = mia.get(ledger, {"user": "a", "q": "b"})
    assert searched.context["cl"].result_count == 0


# By user the ledger is asked twice: who is at the top, and then what they and all together used. Each of the sums asks
# where its tail begins.
@pytest.mark.parametrize(("by", "then", "most"), [("feature", "model", 12), ("user", "feature", 15)])
def test_the_page_reads_the_ledger_as_often_whatever_is_in_it(
    prod: Environment, mia: Client, by: str, then: str, most: int
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert opened(mia, **CUSTOM, by=by, then=then).status_code == 200
        return len(captured)

    use(prod, START)
    queries()
    few = queries()
    fill(prod)
    assert queries() == few <= most


@pytest.mark.django_db(transaction=True)
def test_the_page_of_a_user_leads_to_what_they_used_over_a_period(prod: Environment, mia: Client) -> None:
    use(prod, datetime.now(UTC), user="a&b", feature="chat")
    use(prod, datetime.now(UTC), user="ben")
    page = mia.get(user_url(prod, "a&b")).content.decode()
    found = re.search(r'href="([^"]*/explorer/[^"]*)"', page[page.index('id="usage"') :])
    assert found
    answer = mia.get(unescape(found[1]))
    assert [row.name for row in answer.context["rows"]] == ["chat", "m"]
    assert answer.context["total"].calls == "1"
