"""The overview: what will go wrong next, what today costs, what changed; for a new environment a checklist."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tenants import freezing
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.console.test_alert_pages import alert_of
from usage.tests.rolling import roll_all

pytestmark = pytest.mark.django_db(transaction=True)

OVERVIEW = reverse("admin:index")


def overview(client: Client, environment: Environment) -> str:
    response = client.get(f"{OVERVIEW}?environment={environment}")
    assert response.status_code == 200
    return unescape(response.content.decode())


def done(text: str) -> list[bool]:
    """Of the checklist's steps."""
    return [
        found == ' class="tv-step-done"' for found in re.findall(r"<li( class=\"tv-step-done\")?><div>", text)
    ]


@pytest.fixture
def api(prod: Environment) -> Api:
    return Api(prod)


def test_a_new_environment_has_a_checklist_that_is_ticked_by_what_was_seen(
    mia: Client, prod: Environment
) -> None:
    text = overview(mia, prod)
    assert done(text) == [False] * 5
    assert "http://testserver/v1/evaluate" in text

    set_price("gpt-4o-mini")
    apply_policies(prod, limits("{metric: requests, window: day, amount: 1, per: user}"))
    Api(prod)
    assert done(overview(mia, prod)) == [True, True, True, False, False]


def test_the_tightest_limit_comes_first_with_what_is_used_held_and_left(
    mia: Client, prod: Environment, api: Api
) -> None:
    apply_policies(
        prod,
        limits(
            "{metric: requests, window: month, amount: 1000, per: environment}",
            "{metric: requests, window: day, amount: 4, per: user}",
        ),
    )
    for _ in range(2):
        api.use("ana")
    api.evaluate("ana")

    text = overview(mia, prod)

    rows = re.findall(r'<th scope="row" class="tv-across"><a [^>]*>([^<]*)</a><small>', text)
    assert rows == ["4 requests a day, each user", "1,000 requests a month, everybody together"]
    assert "ana: 2 of 4 requests a day, 1 more held" in text
    assert "Fine 75 %" in text


def test_who_is_at_a_limit_and_near_it_is_counted(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}"))
    for _ in range(5):
        api.use("ana")
    for _ in range(4):
        api.use("ben")
    text = overview(mia, prod)
    assert "1 at a limit" in text
    assert "1 near a limit" in text


def test_a_freeze_is_seen(mia: Client, prod: Environment, api: Api) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}"))
    api.use("ana")
    freezing.freeze(prod, features=["chat"], actor="test")
    assert "1 feature frozen" in overview(mia, prod)


def test_what_today_cost_and_who_spent_it(mia: Client, prod: Environment, api: Api) -> None:
    set_price("test-model", input_usd="1000")
    api.report("r1", "ana", feature="chat", input_tokens=2000)
    api.report("r2", "ben", input_tokens=1000)
    text = overview(mia, prod)
    figures = re.findall(r'<p class="tv-figure">([^<]*)</p>', text)
    assert figures == ["$3.00", "2", "3,000", "0 · 0 %"]
    assert re.findall(r'<th scope="row"><a [^>]*><bdi>(\w+)</bdi>', text) == ["ana", "ben"]
    assert ">67 %<" in text


def test_what_was_used_beside_text_tokens_leads_to_its_course(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.report("text", "ana", input_tokens=10)
    assert "Other quantities" not in overview(mia, prod)
    for number in range(2):
        api.report(
            f"s{number}", "ana", input_tokens=9, quantities={"web_searches": 600, "input_audio_tokens": 5}
        )
        roll_all(prod.pk)
    text = overview(mia, prod)
    (url,) = re.findall(r'<a href="([^"]*)">Web searches 1,200</a>', text)
    assert "Input audio tokens 10" in text
    assert mia.get(url).context["total"].amount == "1,200"


def test_where_nothing_was_spent_there_is_a_sentence_and_no_scale(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.use("ana")
    text = overview(mia, prod)
    assert "Nothing was spent in this period, nor in the one before." in text
    assert "tv-chart-levels" not in text


def test_sums_below_cents_are_written_with_the_places_they_need(
    mia: Client, prod: Environment, api: Api
) -> None:
    set_price("test-model", input_usd="1")
    api.report("r1", "ana", input_tokens=2_982)
    text = overview(mia, prod)
    assert re.findall(r'<p class="tv-figure">([^<]*)</p>', text)[0] == "$0.002982"
    assert set(re.findall(r'data-label="spent"[^>]*>([^<]*)<', text)) == {"$0.002982"}
    assert "tv-chart-levels" in text


def test_figures_are_of_the_period_and_filters_of_the_address_and_lead_to_their_calls(
    mia: Client, prod: Environment, api: Api
) -> None:
    set_price("test-model", input_usd="1000")
    api.report("r1", "ana", feature="chat", input_tokens=2000)
    api.report("r2", "ben", input_tokens=1000)
    month = mia.get(OVERVIEW, {"period": "month", "feature": "chat"})
    assert [figure.value for figure in month.context["figures"]] == ["$2.00", "1", "2,000", "0 · 0 %"]
    for leading in month.context["leaders"]:
        (row,) = leading.rows
        assert mia.get(row.url).context["cl"].result_count == 1
        assert [each.name for each in mia.get(leading.url).context["rows"]] == [row.name]
    before = mia.get(OVERVIEW, {"period": "yesterday"})
    assert [figure.value for figure in before.context["figures"]] == ["$0.00", "0", "0", "0 · 0 %"]


def test_a_period_that_cannot_be_read_is_said_and_the_limits_are_shown(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.report("r1", "ana")
    answer = mia.get(OVERVIEW, {"period": "custom", "from": "x"})
    assert "Enter a valid date." in answer.content.decode()
    assert "figures" not in answer.context
    assert "Limits, tightest first" in answer.content.decode()


def test_a_model_without_a_price_is_named(mia: Client, prod: Environment, api: Api) -> None:
    api.report("r1", "ana", model="mystery-1")
    assert "Without a price: mystery-1" in overview(mia, prod)


def test_what_changed_is_said_to_who_may_know(
    mia: Client, sign_in: SignIn, prod: Environment, acme: Tenant, api: Api
) -> None:
    api.report("r1", "ana")
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}", name="Everyone"))
    assert "Changed in the last day" in overview(mia, prod)
    viewer = sign_in("vera", acme, role=Role.VIEWER)
    assert "Changed in the last day" not in overview(viewer, prod)


def test_nobody_elses_environment_is_shown(
    sign_in: SignIn, other: Tenant, prod: Environment, api: Api
) -> None:
    api.report("r1", "ana")
    text = overview(sign_in("sam", other), prod)
    assert "acme" not in re.sub(r"There is no environment 'acme/prod'", "", text)
    assert "ana" not in re.findall(r"<bdi>(\w+)</bdi>", text)


def test_it_costs_the_same_however_many_limits_and_users_there_are(
    mia: Client, prod: Environment, api: Api
) -> None:
    def queries(names: int) -> int:
        rows = "".join(
            f"  - {{name: P{n}, scope: {{feature: f{n}}}, limits: [{{metric: requests, window: day, amount: 9}}]}}\n"
            for n in range(names)
        )
        apply_policies(prod, f"policies:\n{rows}")
        for n in range(names):
            api.report(f"r{names}-{n}", f"user{n}", feature=f"f{n}")
        overview(mia, prod)
        with CaptureQueriesContext(connection) as captured:
            overview(mia, prod)
        return len(captured)

    assert queries(2) == queries(12)


def test_what_changed_names_the_frozen_feature_and_leaves_other_environments_out(
    mia: Client, prod: Environment, dev: Environment
) -> None:
    freezing.freeze(prod, features=["summarize"], reason="It runs away.", actor="admin:mia")
    freezing.freeze(dev, reason="A test.", actor="admin:mia")
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}"))
    Api(prod).use("ana", feature="chat")
    changes = mia.get(reverse("admin:index"), {"environment": str(prod)}).context["changes"]
    said = [str(change.sentence) for change in changes]
    assert "mia froze feature summarize in acme/prod: It runs away." in said
    assert not any("acme/dev" in each for each in said)


def test_under_a_filter_the_cards_that_it_does_not_change_say_so(
    mia: Client, prod: Environment, api: Api
) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 5, per: user}"))
    for _ in range(5):
        api.use("ana")
    says = "of the whole of acme/prod, whatever the filters"
    assert says not in overview(mia, prod)
    of_ana = mia.get(OVERVIEW, {"user": "ana", "period": "month"})
    # The chips, the limits and what changed.
    assert of_ana.content.decode().count(says) == 3
    link = re.search(r'<a href="([^"]*)">Limits of <bdi>ana</bdi>', of_ana.content.decode())
    assert link
    assert mia.get(unescape(link[1])).context["user_id"] == "ana"
    of_chat = mia.get(OVERVIEW, {"feature": "chat"}).content.decode()
    assert says in of_chat
    assert "Limits of" not in of_chat


def test_spend_leads_to_what_its_chart_shows_and_plans_have_a_table(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.report("r1", "ana", plan="pro")
    answer = mia.get(OVERVIEW)
    shown = mia.get(answer.context["explorer_url"])
    assert [row.name for row in shown.context["rows"]] == ["All calls"]
    assert [bar.blocks for bar in shown.context["chart"].bars] == [
        bar.blocks for bar in answer.context["chart"].bars
    ]
    plans = {leading.title: leading.rows for leading in answer.context["leaders"]}["Plans"]
    assert [row.name for row in plans] == ["pro"]


def test_alerts_that_are_not_over_are_named_and_lead_to_their_list(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.use("ana")
    alert_of(prod, title="is over", ended_at=timezone.now())
    alert_of(prod.tenant.environments.get(slug="dev"), title="another's")
    assert "not over yet" not in overview(mia, prod)
    alert_of(prod, title="stands")
    chips = mia.get(OVERVIEW, {"environment": str(prod)}).context["chips"]
    (url,) = [chip.url for chip in chips if chip.text == "1 alert not over yet"]
    listed = mia.get(url).content.decode()
    assert ("stands" in listed, "is over" in listed) == (True, False)
    assert "is over" in mia.get(url.replace("standing", "over")).content.decode()


def test_a_chosen_period_goes_along_in_the_navigation_and_one_that_nobody_chose_does_not(
    mia: Client, prod: Environment, api: Api
) -> None:
    api.report("r1", "ana")

    def links(answer: Any) -> dict[str, str]:
        return {link.title: link.url for group in answer.context["navigation"] for link in group.links}

    chosen = links(mia.get(OVERVIEW, {"period": "30d", "feature": "chat"}))
    for title in ("Overview", "Explorer", "Block trends", "Budgets", "Health", "Usage"):
        assert chosen[title].endswith("/?period=30d"), title
        assert mia.get(chosen[title]).status_code == 200
    assert "period" not in chosen["Limits"]
    custom = links(mia.get(OVERVIEW, {"period": "custom", "from": "2026-10-01", "to": "2026-10-02"}))
    assert custom["Explorer"].endswith("/?period=custom&from=2026-10-01&to=2026-10-02")
    budgets = mia.get(reverse("admin:budgets"))
    assert not any("period" in url for url in links(budgets).values())
    assert not any("period" in tab.url for tab in budgets.context["asked"].tabs)
