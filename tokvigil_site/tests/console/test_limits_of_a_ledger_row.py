"""Beside a call of the ledger: which policies allowed it, and how the limits that count it stand now."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from policies.end_users import set_end_user
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api, apply_policies, set_price
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.test_usage_summary import use
from usage.counting.store import StoreUnavailable, store
from usage.models import UsageEvent

pytestmark = pytest.mark.django_db(transaction=True)

FILE = """
plans: [free, pro]
policies:
  - name: Free plan
    scope: {plan: free}
    limits:
      - {metric: requests, window: day, amount: DAILY, per: user}
      - {metric: cost_usd, window: month, amount: 1, per: plan}
      - {metric: concurrency, window: total, amount: 3, per: user}
  - name: Everybody
    limits: [{metric: requests, window: day, amount: 99, per: user}]
  - name: Ceiling
    kind: guardrail
    limits: [{metric: tokens, window: month, amount: 1000, per: environment}]
"""
HOSTILE = "<script>alert(1)</script> \u202eevil\u202c 💥/%?&#\"'"


@pytest.fixture
def api(prod: Environment) -> Api:
    set_price("test-model", input_usd="1000")
    apply_policies(prod, FILE.replace("DAILY", "5"))
    return Api(prod)


def row(environment: Environment) -> UsageEvent:
    return UsageEvent.objects.filter(environment=environment).latest("id")


def look(client: Client, event: UsageEvent) -> Any:
    answer = client.get(reverse("admin:usage_usageevent_change", args=[event.pk]))
    assert answer.status_code == 200
    return answer


def text(answer: Any) -> str:
    page = answer.content.decode()
    part = page[page.index('aria-labelledby="allowed-by"') :]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", part)))


def called(api: Api, user: str = "ann", **fields: Any) -> None:
    asked = {"plan": "free", "model": "test-model", "input_tokens": 200, "max_output_tokens": 0, **fields}
    decision = api.evaluate(user, **asked)
    assert decision["allowed"], decision
    api.report(decision["request_id"], user, model="test-model", input_tokens=200, output_tokens=0)


def test_each_limit_says_what_the_call_took_and_how_it_stands_now(
    prod: Environment, mia: Client, api: Api
) -> None:
    called(api)
    first = row(prod)
    called(api, feature="chat")
    api.evaluate("ann", plan="free", input_tokens=100, max_output_tokens=0, model="test-model")

    answer = look(mia, first)

    found = answer.context["found"]
    limits = {each.row.title: each for each in found.counting}
    assert {
        title: (each.took, each.row.used, each.row.held, each.row.left) for title, each in limits.items()
    } == {
        "5 requests a day, each user": ("1 request", "2", "1", "2"),
        "$1.00 a month, each plan": ("$0.20", "$0.40", "$0.10", "$0.50"),
        "1,000 tokens a month, everybody together": ("200 tokens", "400", "100", "500"),
    }
    assert [(each.title, each.why) for each in found.apart] == [
        ("3 calls at once, each user", "the call has ended")
    ]
    shown = text(answer)
    assert "as they stand now" in shown
    assert "how they stood when the call was made is not kept" in shown


def test_the_policies_are_those_of_the_time_of_the_call_and_lead_to_their_versions(
    prod: Environment, mia: Client, api: Api
) -> None:
    called(api)
    apply_policies(prod, FILE.replace("DAILY", "7"))

    answer = look(mia, row(prod))

    found = answer.context["found"]
    assert [(each.policy.name, each.policy.version, each.now) for each in found.applied] == [
        ("Free plan", 1, "version 2 now"),
        ("Ceiling", 1, ""),
    ]
    assert "Everybody" not in text(answer)
    for each in found.applied:
        assert mia.get(each.version_url).status_code == 200
    since = {each.row.title: each.since for each in found.counting}
    assert since["7 requests a day, each user"] == "version 1 then, 2 now"
    assert found.differs == ""


def test_a_policy_that_would_not_apply_now_is_said_and_the_plan_of_now(
    prod: Environment, mia: Client, api: Api
) -> None:
    called(api)
    set_end_user(prod, "ann", plan_name="pro", blocked=False, actor="test")

    answer = look(mia, row(prod))

    found = answer.context["found"]
    assert ("Free plan", "would not apply now") in [(each.policy.name, each.now) for each in found.applied]
    assert "The user is on the plan pro now, and was on free then" in text(answer)
    since = {each.row.title: each.since for each in found.counting}
    assert since["99 requests a day, each user"] == "did not apply to the call"


def test_a_limit_of_another_plan_does_not_count_the_call(prod: Environment, mia: Client, api: Api) -> None:
    called(api, "ann", plan="pro")
    set_end_user(prod, "ann", plan_name="free", blocked=False, actor="test")
    apart = {each.title: each.why for each in look(mia, row(prod)).context["found"].apart}
    assert apart["$1.00 a month, each plan"] == "it counts calls of another plan"


def test_a_window_that_is_over_does_not_count_the_call_any_more(
    prod: Environment, mia: Client, api: Api
) -> None:
    use(prod, timezone.now() - timedelta(days=33), user="ann", plan="free")
    answer = look(mia, row(prod))
    found = answer.context["found"]
    assert found.counting == ()
    assert {each.why for each in found.apart} == {
        "the call has ended", "the day of the call is over", "the month of the call is over",
    }  # fmt: skip
    assert "No limit that would bind such a call now counts this one." in text(answer)
    assert "No version of a policy is kept that applied" in text(answer)
    assert "The row names no policy that decided" in text(answer)


def test_the_policy_that_allowed_it_is_named_as_it_was_called_then(
    prod: Environment, mia: Client, api: Api
) -> None:
    called(api)
    event = row(prod)
    assert "<bdi>Free plan</bdi></a>, version 1" in look(mia, event).content.decode()
    policy = prod.policies.get(name="Free plan")
    policy.name = "Renamed"
    policy.save()
    assert "<bdi>Free plan</bdi></a>, version 1" in look(mia, event).content.decode()

    # As of a past that was carried over: no version is as old as the call.
    policy.versions.update(created_at=timezone.now() + timedelta(days=1))
    answer = look(mia, event)
    assert "The call was allowed by version 1 of Free plan, which is not among" in text(answer)
    (of_day,) = (
        each
        for each in answer.context["found"].counting
        if "a day" in each.row.title and "5" in each.row.title
    )
    assert (of_day.took, of_day.since) == ("1 request", "")


def test_without_counters_it_says_so(
    prod: Environment, mia: Client, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    called(api)
    event = row(prod)

    def away(*arguments: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "_guarded", away)
    shown = text(look(mia, event))
    assert "How the limits stand cannot be read right now" in shown
    assert "Free plan" in shown


def test_looking_counts_and_holds_nothing(prod: Environment, mia: Client, api: Api) -> None:
    called(api)
    event = row(prod)
    first, second = look(mia, event), look(mia, event)
    stood = [[each.row.says for each in answer.context["found"].counting] for answer in (first, second)]
    assert stood[0] == stood[1]
    assert UsageEvent.objects.filter(environment=prod).count() == 1


def test_hostile_names_are_text(prod: Environment, mia: Client, api: Api) -> None:
    apply_policies(
        prod, FILE.replace("DAILY", "5").replace("Ceiling", json.dumps(HOSTILE, ensure_ascii=False))
    )
    called(api, HOSTILE, feature=HOSTILE)
    answer = look(mia, row(prod))
    assert "<script>alert" not in answer.content.decode()
    assert HOSTILE in {each.policy.name for each in answer.context["found"].applied}


def test_a_stranger_learns_nothing(
    prod: Environment, sign_in: SignIn, other: Tenant, api: Api, mia: Client
) -> None:
    called(api)
    stranger = sign_in("sam", other)
    answer = stranger.get(reverse("admin:usage_usageevent_change", args=[row(prod).pk]), follow=True)
    assert "found" not in (answer.context or {})
    assert "Free plan" not in answer.content.decode()


def test_it_costs_the_same_however_many_policies_there_are(prod: Environment, mia: Client, api: Api) -> None:
    def queries() -> int:
        event = row(prod)
        look(mia, event)
        with CaptureQueriesContext(connection) as captured:
            look(mia, event)
        return len(captured)

    called(api)
    few = queries()
    more = "".join(
        f"  - {{name: P{n}, kind: guardrail, limits: [{{metric: requests, window: day, amount: 9{n}}}]}}\n"
        for n in range(12)
    )
    apply_policies(prod, FILE.replace("DAILY", "5") + more)
    called(api)
    assert queries() == few <= 21
