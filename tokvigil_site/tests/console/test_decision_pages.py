"""Blocked calls in the console: found by anything that is known of them, and explained to who answers the customer."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from policies import blocked
from policies.blocked import Explanation, Remedy, Trace
from policies.describing import reason_words
from policies.describing.trace import Question
from policies.end_users import set_end_user
from policies.models import BlockedDecision
from policies.reasons import ALL_CODES
from tenants import freezing
from tenants.console.display import user_url
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from tokvigil_site.tests.console.conftest import SignIn
from usage.instants import from_ms
from usage.money import NANO

pytestmark = pytest.mark.django_db(transaction=True)

LIST = reverse("admin:policies_blockeddecision_changelist")
DAILY_50 = limits("{metric: requests, window: day, amount: 2, per: user}")


def blocked_call(api: Api, user: str = "ana", **fields: Any) -> BlockedDecision:
    """Stored, as the list finds it."""
    decision = api.evaluate(user, **fields)
    assert not decision["allowed"], decision
    api.get("/v1/decisions")
    return BlockedDecision.objects.get(request_id=decision["request_id"])


def explained(decision: BlockedDecision, now: datetime | None = None) -> Explanation:
    return blocked.explain(decision, ZoneInfo("Europe/Berlin"), now or decision.decided_at)


def remedies(explanation: Explanation) -> list[Remedy]:
    return [way.remedy for way in explanation.ways]


def use_up(api: Api, times: int = 2, user: str = "ana") -> None:
    for _ in range(times):
        api.use(user)


@pytest.fixture
def api(prod: Environment) -> Api:
    return Api(prod)


def test_a_limit_on_some_models_is_said_with_them(api: Api, prod: Environment) -> None:
    apply_policies(
        prod, limits("{metric: requests, window: day, amount: 1, per: user, models: [test-model]}")
    )
    use_up(api, 1)
    said = explained(blocked_call(api))
    assert said.how == "The 1 request of the day with test-model was used"
    assert "allows 1 request a day with test-model, each user" in said.why
    assert "Another model: only calls with test-model are counted" in [way.text for way in said.ways]


def test_the_customer_is_told_which_feature_is_used_up(api: Api, prod: Environment) -> None:
    apply_policies(prod, limits("{metric: requests, window: day, amount: 1, per: user_feature}"))
    decision = api.evaluate("ana", feature="summarize")
    assert api.report(decision["request_id"], "ana", feature="summarize").status == 201
    said = explained(blocked_call(api, feature="summarize"))
    assert said.tell.startswith("You have used the 1 request a day that is included for you in summarize.")
    assert said.how == "The 1 request of the day in summarize was used"


def test_a_limit_that_was_used_up_is_explained(api: Api, prod: Environment) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    decision = blocked_call(api)

    said = explained(decision)

    assert said.headline == "ana: Daily request limit exceeded"
    assert said.how == "All 2 requests of the day were used"
    assert said.why.startswith(
        "Everyone allows 2 requests a day, each user. There were 2 used, 0 held by calls in flight, 0 left; "
        "this call needed 1 request. The day ends on "
    )
    assert "(Europe/Berlin)" in said.why
    assert said.tell.startswith(
        "You have used the 2 requests a day that are included for you. You can go on from"
    )
    assert "Everyone" not in said.tell
    assert remedies(said) == [Remedy.WAIT, Remedy.BOOST, Remedy.POLICY]
    assert said.ways[1].text == "At least 1 request more: a boost for ana"
    assert said.ways[2].text.startswith("A higher limit: at least 3 requests a day in Everyone")
    assert said.vain == ("A shorter prompt or a cheaper model: calls are counted, not tokens or cost",)


def test_waiting_is_said_to_be_over_when_it_is(api: Api, prod: Environment) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    decision = blocked_call(api)
    assert explained(decision).ways[0].text.startswith("Waiting until ")
    later = decision.decided_at + timedelta(days=2)
    assert explained(decision, later).ways[0].text.startswith("Waiting: it passes since ")


def test_what_calls_in_flight_hold_passes_a_moment_later(api: Api, prod: Environment) -> None:
    apply_policies(prod, DAILY_50)
    for _ in range(2):
        api.evaluate("ana")

    said = explained(blocked_call(api))

    assert "held by calls in flight" in said.how
    assert remedies(said)[0] is Remedy.WAIT
    assert "Please try again" in said.tell


def test_a_call_without_a_cap_is_explained_by_what_it_needed_in_any_case(api: Api, prod: Environment) -> None:
    apply_policies(prod, limits("{metric: tokens, window: day, amount: 100, per: user}"))
    first = api.evaluate("ana", input_tokens=60, max_output_tokens=38)
    api.report(first["request_id"], "ana", input_tokens=60, output_tokens=38)
    decision = blocked_call(api, input_tokens=20, max_output_tokens=None)

    said = explained(decision)

    assert decision.needed_output_tokens is not None
    needed = 20 + decision.needed_output_tokens
    assert said.ways[1].text == f"At least {needed - 2} tokens more: a boost for ana"


def test_a_call_that_is_too_large_is_not_told_to_wait(api: Api, prod: Environment) -> None:
    apply_policies(prod, limits("{metric: tokens, window: day, amount: 100, per: user}"))
    said = explained(blocked_call(api, input_tokens=500))
    assert Remedy.WAIT not in remedies(said)
    assert "Waiting: this call alone is more than the limit allows" in said.vain
    assert Remedy.CALLER in remedies(said)


def test_calls_at_once(api: Api, prod: Environment) -> None:
    apply_policies(prod, limits("{metric: concurrency, window: total, amount: 1, per: user}"))
    api.evaluate("ana")
    said = explained(blocked_call(api))
    assert said.how == "The 1 call at once was running"
    assert [way.text for way in said.ways if way.remedy is Remedy.BOOST] == [
        "At least 1 call at once more: a boost for ana"
    ]


@pytest.mark.parametrize(
    ("per", "whose"), [("user_feature", "each user of a feature"), ("run", "each run"), ("user", "")]
)
def test_a_limit_that_no_boost_raises_says_so(api: Api, prod: Environment, per: str, whose: str) -> None:
    apply_policies(prod, limits(f"{{metric: requests, window: total, amount: 1, per: {per}}}"))
    api.use("ana", feature="chat", run_id="r1")
    said = explained(blocked_call(api, feature="chat", run_id="r1"))
    vain = [text for text in said.vain if "boost" in text]
    assert vain == ([f"A boost: none raises a limit that is for {whose}"] if whose else [])
    assert (Remedy.BOOST in remedies(said)) == (not whose)


def test_a_budget_of_all_is_not_told_to_the_customer(api: Api, prod: Environment) -> None:
    set_price("test-model", input_usd="1", output_usd="1")
    apply_policies(prod, limits("{metric: cost_usd, window: month, amount: '0.00001', per: environment}"))
    api.use("ben", input_tokens=10)
    said = explained(blocked_call(api, input_tokens=5))
    assert "$0.00001" in said.how
    assert "$" not in said.tell
    assert said.tell.startswith("What is included for now has been used up. You can go on from ")
    assert "A shorter prompt or a lower max_output_tokens, or a cheaper model" in [w.text for w in said.ways]


def test_where_something_was_left_the_customer_is_not_told_that_all_is_used(
    api: Api, prod: Environment
) -> None:
    apply_policies(prod, limits("{metric: tokens, window: day, amount: 100, per: user}"))
    api.use("ana", input_tokens=60)
    told = explained(blocked_call(api, input_tokens=60)).tell
    assert told.startswith("What is left of what is included for now was not enough for that request.")
    assert re.search(r"From .* Berlin time, there is room again\.", told)


def test_reasons_that_need_no_counter(api: Api, prod: Environment) -> None:
    apply_policies(prod, "policies: [{name: Only, models: {allow: [gpt-*]}}]")
    assert remedies(explained(blocked_call(api))) == [Remedy.CALLER, Remedy.POLICY]
    set_end_user(prod, "ana", plan_name=None, blocked=True, actor="test")
    assert remedies(explained(blocked_call(api))) == [Remedy.UNBLOCK]
    freezing.freeze(prod, actor="test")
    assert remedies(explained(blocked_call(api))) == [Remedy.UNFREEZE]


def test_the_customer_is_told_which_models_are_allowed(mia: Client, api: Api, prod: Environment) -> None:
    names = ", ".join(f"gpt-{number}" for number in range(1, 9))
    apply_policies(
        prod,
        f"""
policies:
  - {{name: Only, models: {{allow: [{names}, "claude-*"]}}}}
  - {{name: Not the second, kind: guardrail, models: {{deny: [gpt-2]}}}}
  - {{name: Watched, kind: guardrail, mode: monitor, models: {{deny: [gpt-3]}}}}
  - {{name: Cheap, scope: {{user: ben}}, models: {{allow: [mini]}}}}
  - {{name: Open, scope: {{user: cyd}}}}
""",
    )

    def told(decision: BlockedDecision) -> str:
        page = mia.get(reverse("admin:policies_blockeddecision_change", args=[decision.pk]))
        return str(page.context["explained"].tell)

    assert "Available to you: gpt-1, gpt-3, gpt-4, gpt-5, gpt-6 and 3 more. Nothing" in told(
        blocked_call(api, model="o1")
    )
    of_ben = blocked_call(api, "ben", model="o1")
    assert "Available to you: mini. Nothing" in told(of_ben)
    assert "Another one will work." in told(blocked_call(api, "cyd", model="gpt-2"))
    # What is allowed now does not matter.
    apply_policies(prod, "policies: [{name: Only, models: {allow: [new]}}]")
    assert "Available to you: mini. Nothing" in told(of_ben)


@pytest.mark.parametrize("code", ALL_CODES)
def test_every_reason_has_an_explanation(code: str) -> None:
    decision = BlockedDecision(
        user_id="ana",
        model="m",
        reason_code=code,
        reason_class="exhausted",
        message="It says why.",
        limit_state=[],
    )
    said = explained(decision, from_ms(0))
    assert said.headline == f"ana: {reason_words.of_code(code)}"
    assert said.why
    assert said.tell


def test_what_a_later_version_stored_is_left_out(api: Api, prod: Environment) -> None:
    decision = BlockedDecision(
        user_id="ana",
        model="m",
        reason_code="YEARLY_REQUEST_LIMIT_EXCEEDED",
        reason_class="exhausted",
        message="It says why.",
        limit_state=[
            {"policy": "P", "metric": "requests", "window": "year", "per": "user"},
            {"since": "later"},
        ],
    )
    said = explained(decision, from_ms(0))
    assert (said.why, said.limits) == ("It says why.", ())


def rows(client: Client, **filters: Any) -> list[str]:
    response = client.get(LIST, filters)
    assert response.status_code == 200
    return re.findall(r'blockeddecision/\d+/change/"><bdi>(\S+): ', unescape(response.content.decode()))


@pytest.fixture
def calls(api: Api, prod: Environment) -> list[BlockedDecision]:
    """Of ana with feature chat, then of ben with another model, blocked by different policies."""
    policies = """
policies:
  - name: Chat
    scope: {feature: chat}
    unknown_price: allow
    limits: [{metric: requests, window: day, amount: 0, per: user}]
  - {name: Others, models: {deny: ["gpt-*"]}}
"""
    apply_policies(prod, policies)
    return [blocked_call(api, "ana", feature="chat"), blocked_call(api, "ben", model="gpt-x")]


def test_the_list_is_filtered_by_all_that_is_known_of_a_call(
    mia: Client, calls: list[BlockedDecision]
) -> None:
    ana, ben = calls
    assert rows(mia) == ["ben", "ana"]
    assert rows(mia, user="ana") == ["ana"]
    assert rows(mia, user="an") == []
    assert rows(mia, feature="chat") == ["ana"]
    assert rows(mia, model="gpt-x") == ["ben"]
    assert rows(mia, reason="MODEL_DENIED") == ["ben"]
    assert rows(mia, policy=str(ana.policy_id)) == ["ana"]
    assert rows(mia, key=str(ana.api_key_id)) == ["ben", "ana"]
    BlockedDecision.objects.filter(pk=ben.pk).update(api_key_id=None)
    assert rows(mia, key=str(ana.api_key_id)) == ["ana"]
    assert rows(mia, request=ben.request_id) == ["ben"]
    assert rows(mia, before=ben.pk) == ["ana"]
    berlin = ben.decided_at.astimezone(ZoneInfo("Europe/Berlin"))
    minute = berlin.replace(second=0, microsecond=0, tzinfo=None)
    assert rows(
        mia, since=f"{minute:%Y-%m-%dT%H:%M}", until=f"{minute + timedelta(minutes=1):%Y-%m-%dT%H:%M}"
    )
    assert rows(mia, until=f"{minute - timedelta(days=1):%Y-%m-%dT%H:%M}") == []


@pytest.mark.parametrize(
    "filters",
    [
        {"reason": "NO_SUCH"},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00+14:00"},
        {"since": "2026-01-01T00:00", "until": "9999-12-31T23:59-14:00"},
        {"before": "9" * 40},
        {"user": "x" * 300},
        {"policy": "x"},
        {"key": "x"},
    ],
)
def test_a_filter_that_cannot_be_read_says_so(
    mia: Client, calls: list[BlockedDecision], filters: dict[str, str]
) -> None:
    response = mia.get(LIST, filters)
    assert response.status_code == 200
    assert rows(mia, **filters) == []
    if "before" not in filters:
        assert "tv-field-errors" in response.content.decode()


def test_older_ones_are_a_page_further(mia: Client, prod: Environment) -> None:
    BlockedDecision.objects.bulk_create(
        BlockedDecision(
            environment=prod, stream_id=str(n), decided_at=datetime.now(UTC), request_id=f"r{n}", user_id=f"u{n}",
            model="m", reason_code="NO_POLICY", reason_class="forbidden", limit_state=[],
        )
        for n in range(120)
    )  # fmt: skip
    found, url = [], LIST
    while True:
        text = unescape(mia.get(url).content.decode())
        found += re.findall(r"<bdi>(u\d+): No policy", text)
        older = re.search(r'href="(\?[^"]*)">Older', text)
        if older is None:
            break
        url = f"{LIST}{older[1]}"
    assert found == [f"u{n}" for n in reversed(range(120))]


def test_a_burst_of_equal_calls_is_one_row_that_opens_to_all_of_them(
    mia: Client, api: Api, prod: Environment
) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    for _ in range(3):
        blocked_call(api)
    blocked_call(api, model="gpt-x")
    asked = BlockedDecision.objects.order_by("-id")[1]
    api.report(asked.request_id, "ana")

    answer = mia.get(LIST)

    other, burst = answer.context["rows"]
    assert (other.count, burst.count) == (1, 3)
    assert burst.afterwards == "1 of 3 passed when asked again"
    assert other.afterwards == "Request not allowed later"
    text = unescape(answer.content.decode())
    assert "3 such calls since" in text
    for decision in BlockedDecision.objects.all():
        assert reverse("admin:policies_blockeddecision_change", args=[decision.pk]) in text
        assert decision.request_id in text


def test_reasons_are_said_in_words(mia: Client, api: Api, prod: Environment) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    blocked_call(api)
    text = unescape(mia.get(LIST).content.decode())
    assert "<bdi>ana: Daily request limit exceeded</bdi>" in text
    assert "<bdi>All 2 requests of the day were used</bdi> · by <bdi>Everyone</bdi>, version 1" in text
    assert '<option value="DAILY_REQUEST_LIMIT_EXCEEDED">Daily request limit exceeded</option>' in text
    assert not re.findall(r"<option[^>]*>[A-Z]+_[A-Z_]+<", text)


def test_every_page_says_a_reason_in_the_same_words(mia: Client, prod: Environment) -> None:
    at = timezone.now()
    codes = [code for code, _ in reason_words.of_blocks()]
    rows = BlockedDecision.objects.bulk_create(
        BlockedDecision(
            environment=prod, stream_id=code, decided_at=at, request_id=code, user_id=code, feature="chat", model="m",
            message="It says why.", reason_code=code, reason_class="exhausted", limit_state=[],
        )
        for code in codes
    )  # fmt: skip
    shown = {"environment": str(prod)}

    listed = mia.get(LIST, shown)
    trends = mia.get(reverse("admin:blocked"), shown)

    words = dict(listed.context["filters"].fields["reason"].choices)
    assert set(words) == {"", *codes} == {"", *ALL_CODES} - {"ALLOWED", "DEGRADED_ALLOWED"}
    assert dict(trends.context["asked"].fields["reason"].choices) == words
    assert {row.decision.reason_code: row.headline for row in listed.context["rows"]} == {
        code: f"{code}: {words[code]}" for code in codes
    }
    assert {row.name for row in trends.context["reasons"]} == {words[code] for code in codes}
    for row in rows:
        page = mia.get(reverse("admin:policies_blockeddecision_change", args=[row.pk]))
        said = words[row.reason_code]
        assert f"<h1><bdi>{row.user_id}: {said}</bdi></h1>" in page.content.decode()
        assert page.context["trace"].explained.title == said
        user = mia.get(user_url(prod, row.user_id)).content.decode()
        assert f'<td class="tv-across">{said}<small><bdi>It says why.</bdi></small></td>' in user


def test_a_long_burst_does_not_hide_what_is_older(mia: Client, prod: Environment) -> None:
    now = datetime.now(UTC)
    BlockedDecision.objects.bulk_create(
        BlockedDecision(
            environment=prod, stream_id=str(n), decided_at=now, request_id=f"r{n}", user_id="ana" if n else "first",
            model="m", reason_code="NO_POLICY", reason_class="forbidden", limit_state=[],
        )
        for n in range(450)
    )  # fmt: skip
    counts, url = [], LIST
    while True:
        answer = mia.get(url)
        counts += [(row.decision.user_id, row.count) for row in answer.context["rows"]]
        if not answer.context["older"]:
            break
        url = f"{LIST}{answer.context['older']}"
    assert counts == [("ana", 200), ("ana", 200), ("ana", 49), ("first", 1)]


def test_a_page_explains_the_call_and_leads_to_what_would_help(
    mia: Client, calls: list[BlockedDecision]
) -> None:
    ana, _ = calls
    text = unescape(mia.get(reverse("admin:policies_blockeddecision_change", args=[ana.pk])).content.decode())
    assert re.findall("<h1><bdi>(.*)</bdi></h1>", text) == ["ana: Daily request limit exceeded"]
    assert "Requests are not allowed at all. Chat allows 0 requests a day, each user." in text
    assert reverse("admin:policies_policy_change", args=[ana.policy_id]) in text
    assert reverse("admin:tenants_apikey_change", args=[ana.api_key_id]) in text
    assert "What you can tell" in text
    assert ana.request_id in text


def traced(client: Client, decision: BlockedDecision) -> Trace:
    url = reverse("admin:policies_blockeddecision_change", args=[decision.pk])
    found: Trace = client.get(url).context["trace"]
    return found


def test_the_page_says_what_had_to_be_left_and_what_the_call_would_have_cost(
    mia: Client, api: Api, prod: Environment
) -> None:
    set_price("test-model", input_usd="10", output_usd="20")
    apply_policies(prod, limits("{metric: cost_usd, window: day, amount: '0.015', per: user}"))
    decision = blocked_call(api, input_tokens=2_000, max_output_tokens=None)

    url = reverse("admin:policies_blockeddecision_change", args=[decision.pk])
    page = mia.get(url).content.decode()

    (least,) = re.findall(r'<td class="tv-number" data-label="needed to pass">([^<]*)</td>', page)
    most = f"{Decimal(decision.estimated_cost_nano or 0) / NANO}"
    assert '>Left</th><th scope="col" class="tv-number">Needed to pass</th>' in page
    assert (
        "that is its input and one token of output; what it uses, and costs, in the end can be more" in page
    )
    assert least == "$0.02002"
    said = f"at most ${most}, as estimated before the call. Nothing was charged."
    assert f"<dt>Would have cost</dt><dd>{said}</dd>" in page
    assert Decimal(most) > Decimal("0.02002")


def test_where_calls_are_counted_the_page_does_not_speak_of_their_length(
    mia: Client, api: Api, prod: Environment
) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    page = mia.get(
        reverse("admin:policies_blockeddecision_change", args=[blocked_call(api).pk])
    ).content.decode()
    assert re.findall(r'data-label="needed to pass">([^<]*)<', page) == ["1"]
    assert "one token of output" not in page
    assert "<dd>Not known: its model has no price. Nothing was charged.</dd>" in page


def parts(trace: Trace) -> list[tuple[str, int, str]]:
    return [(each.name, each.version, each.part.value) for each in trace.explained.policies]


def test_the_trace_has_every_policy_as_it_was_then(mia: Client, api: Api, prod: Environment) -> None:
    daily = "limits: [{metric: requests, window: day, amount: 1, per: user}]"
    policies = f"""
plans: [free]
policies:
  - {{name: Everyone, unknown_price: allow, {daily}}}
  - {{name: Free, unknown_price: allow, scope: {{plan: free}}, {daily}}}
  - {{name: Eye, unknown_price: allow, kind: guardrail, mode: monitor, {daily}}}
  - {{name: Code, scope: {{feature: code}}}}
"""
    apply_policies(prod, policies)
    api.use("ana", plan="free", feature="chat")
    decision = blocked_call(api, plan="free", feature="chat")
    apply_policies(prod, policies.replace("amount: 1", "amount: 9").replace("feature: code", "feature: chat"))

    trace = traced(mia, decision)

    assert parts(trace) == [
        ("Free", 1, "decides"),
        ("Everyone", 1, "stands back"),
        ("Eye", 1, "monitors"),
        ("Code", 1, "no match"),
    ]
    assert trace.differs == ""
    said = trace.explained
    assert (said.stops, said.frozen, said.call) == (
        Question.LIMITS,
        "No: neither the environment nor chat was frozen.",
        "Yes.",
    )
    assert said.user == "No. ana had the plan free."
    assert [(each.policy, each.used, each.needed, each.exceeded, each.enforced) for each in said.limits] == [
        ("Free", 1, 1, True, True),
        ("Eye", 1, 1, True, False),
    ]
    page = mia.get(reverse("admin:policies_blockeddecision_change", args=[decision.pk])).content.decode()
    assert "Worked out now" in page
    assert "names the feature code, not chat" in page


def test_what_was_not_recorded_is_not_invented(mia: Client, api: Api, prod: Environment) -> None:
    apply_policies(prod, DAILY_50)
    set_end_user(prod, "ana", plan_name=None, blocked=True, actor="test")
    said = traced(mia, blocked_call(api)).explained
    assert said.stops is Question.USER
    assert said.frozen == "No."
    assert said.user == ("Yes: ana was blocked. The call named no plan, and none was stored for this user.")
    assert said.call.startswith("Not recorded")
    freezing.freeze(prod, actor="test")
    said = traced(mia, blocked_call(api)).explained
    assert said.frozen == "Yes: the environment was frozen."
    assert said.user.startswith("Not recorded")


def test_a_policy_that_was_archived_since_was_in_force_then(mia: Client, api: Api, prod: Environment) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    decision = blocked_call(api)
    apply_policies(prod, "policies: [{name: New}]")
    assert parts(traced(mia, decision)) == [("Everyone", 1, "decides")]


def test_another_version_than_the_one_that_decided_is_said(mia: Client, api: Api, prod: Environment) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    decision = blocked_call(api)
    apply_policies(prod, DAILY_50.replace("amount: 2", "amount: 3"))
    BlockedDecision.objects.filter(pk=decision.pk).update(decided_at=datetime.now(UTC))
    said = traced(mia, decision).differs
    assert said.startswith("The call was decided by version 1 of Everyone; version 2 had just been published")


def test_a_limit_that_did_not_decide_is_not_the_reason(mia: Client, api: Api, prod: Environment) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    set_end_user(prod, "ana", plan_name=None, blocked=True, actor="test")
    url = reverse("admin:policies_blockeddecision_change", args=[blocked_call(api).pk])
    assert mia.get(url).context["speaking"] is None


def test_a_way_leads_to_where_it_is_gone_for_who_may_go_it(
    mia: Client, acme: Tenant, prod: Environment, api: Api, sign_in: SignIn
) -> None:
    apply_policies(prod, DAILY_50)
    use_up(api)
    of_limit = blocked_call(api)
    freezing.freeze(prod, features=["chat"], reason="It runs away", actor="test")
    of_freeze = blocked_call(api, feature="chat")
    viewer = sign_in("vic", acme, role=Role.VIEWER)
    for decision, way, does in (
        (of_limit, "a boost for ana", "Give a boost…"),
        (of_freeze, "Unfreezing chat", "Unfreeze…"),
    ):
        address = reverse("admin:policies_blockeddecision_change", args=[decision.pk])
        offered = {}
        for client in (mia, viewer):
            page = client.get(address).content.decode().partition("What would have let it pass")[2]
            assert way in page
            offered[client] = re.search(rf'href="([^"]*)">{does}', page)
        assert offered[viewer] is None
        link = offered[mia]
        assert link is not None
        opened = mia.get(unescape(link[1]))
        assert opened.status_code == 200
    assert opened.context["freeze"].feature == "chat"


def test_nobody_else_sees_it(sign_in: SignIn, other: Tenant, calls: list[BlockedDecision]) -> None:
    stranger = sign_in("sam", other)
    assert rows(stranger) == []
    for decision in calls:
        url = reverse("admin:policies_blockeddecision_change", args=[decision.pk])
        assert "What you can tell" not in stranger.get(url, follow=True).content.decode()


def test_the_list_costs_the_same_however_many_there_are(mia: Client, calls: list[BlockedDecision]) -> None:
    mia.get(LIST)
    with CaptureQueriesContext(connection) as few:
        mia.get(LIST)
    BlockedDecision.objects.bulk_create(
        BlockedDecision(
            environment=calls[0].environment, stream_id=f"s{n}", decided_at=datetime.now(UTC), request_id=f"q{n}",
            user_id="u", model="m", reason_code="NO_POLICY", reason_class="forbidden", limit_state=[],
        )
        for n in range(100)
    )  # fmt: skip
    with CaptureQueriesContext(connection) as many:
        mia.get(LIST)
    assert len(many) == len(few)
