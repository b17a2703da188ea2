"""The page of an end user, and what can be done on it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import Entry
from policies import activity, boosts
from policies.end_users import set_end_user
from policies.models import Boost, EndUser
from tenants import freezing
from tenants.models import Environment, Membership, Role
from tokvigil_site.testing import Api, apply_policies, later, limits, set_price
from tokvigil_site.tests.filled_forms import submit
from usage.counting.store import StoreUnavailable, store

FILE = """
plans: [free, pro]
policies:
  - name: Free plan
    scope: {plan: free}
    unknown_price: allow
    limits: [{metric: requests, window: day, amount: 2, per: user}]
  - name: Company budget
    kind: guardrail
    unknown_price: allow
    limits: [{metric: requests, window: month, amount: 1000, per: environment}]
  - name: Chat burst
    kind: guardrail
    scope: {feature: chat}
    unknown_price: allow
    limits: [{metric: concurrency, window: total, amount: 20, per: feature}]
"""
HOSTILE = "<script>alert(1)</script> \u202eevil\u202c 💥/%?&#"


@pytest.fixture(autouse=True)
def policies(environment: Environment) -> None:
    apply_policies(environment, FILE)


def signed_in(environment: Environment, role: str = Role.ADMIN) -> Client:
    user = User.objects.create_user(f"mia-{role}-{environment.pk}", is_staff=True)
    Membership.objects.create(tenant=environment.tenant, user=user, role=role)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def mia(environment: Environment) -> Client:
    return signed_in(environment)


def address(environment: Environment, user_id: str = "ann") -> str:
    return f"{reverse('admin:end_user')}?{urlencode({'environment': str(environment), 'user_id': user_id})}"


def look(client: Client, environment: Environment, user_id: str = "ann") -> Any:
    answer = client.get(address(environment, user_id))
    assert answer.status_code == 200
    return answer


def words(answer: Any) -> list[str]:
    return [word for _, word in answer.context["states"]]


def titles(answer: Any) -> list[str]:
    return [row.title for row in answer.context["limits"]]


def test_it_shows_every_limit_that_binds_shared_ones_too(
    mia: Client, api: Api, environment: Environment
) -> None:
    api.use("ann", plan="free", feature="chat")

    answer = look(mia, environment)

    assert titles(answer) == [
        "2 requests a day, each user",
        "1,000 requests a month, everybody together",
        "20 calls at once, each feature",
    ]
    rows = answer.context["limits"]
    assert [row.notes for row in rows] == [
        "",
        "guardrail · shared by all",
        "guardrail · when calling chat · shared by all who use the feature",
    ]
    assert (rows[0].used, rows[0].held, rows[0].left) == ("1", "0", "1")
    assert rows[0].resets.startswith("in ")
    assert words(answer) == ["May call"]


def test_it_says_when_each_limit_runs_out_at_this_pace(
    mia: Client, api: Api, environment: Environment
) -> None:
    api.use("ann", plan="free", feature="chat")
    api.evaluate("ann", plan="free", feature="chat")

    rows = look(mia, environment).context["limits"]

    said = {row.title: row.runs_out and row.runs_out.says for row in rows}
    assert said["2 requests a day, each user"] == "used up"
    assert said["1,000 requests a month, everybody together"] == "not before it resets"
    assert said["20 calls at once, each feature"] is None


def test_a_user_whose_first_call_is_in_flight_has_been_seen(
    mia: Client, environment: Environment, api: Api
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    assert api.evaluate("newbie")["allowed"]
    text = look(mia, environment, "newbie").content.decode()
    assert "has not seen this user" not in text
    assert "1 call in flight, holds 1 token until" in text


def test_calls_in_flight_are_named_until_they_are_reported_or_over(
    mia: Client, environment: Environment, api: Api
) -> None:
    set_price("gpt-4o", input_usd="10", output_usd="20")
    priced: dict[str, Any] = {"model": "gpt-4o", "input_tokens": 1_000, "max_output_tokens": 500}
    first = api.evaluate("newbie", feature="chat", **priced)
    api.evaluate("newbie", **priced)
    api.evaluate("ann", **priced)

    answer = look(mia, environment, "newbie")

    text = answer.content.decode()
    assert "2 calls in flight, hold $0.04 until" in text
    assert [row.holds for row in answer.context["in_flight"]] == ["1,000 tokens in, 500 out, $0.02"] * 2
    assert first["request_id"] in text

    api.report(first["request_id"], "newbie", "gpt-4o")
    assert "1 call in flight, holds $0.02 until" in look(mia, environment, "newbie").content.decode()
    later(minutes=11)
    assert "In flight" not in look(mia, environment, "newbie").content.decode()


def test_calls_in_flight_stand_among_the_others_by_their_time(
    mia: Client, environment: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 3, per: user}"))
    monkeypatch.setattr(activity, "LISTED_MAX", 2)
    for _ in range(3):
        later(seconds=1)
        api.evaluate("newbie")
    later(seconds=1)
    assert not api.evaluate("newbie")["allowed"]

    answer = look(mia, environment, "newbie")

    text = answer.content.decode()
    rows = text[text.index('id="calls"') :]
    assert rows.index("Blocked") < rows.index("In flight")
    assert [each.at for each in answer.context["lately"]] == sorted(
        (each.at for each in answer.context["lately"]), reverse=True
    )
    assert "of 3 calls in flight the newest 2" in " ".join(text.split())


def test_a_call_in_flight_says_the_plan_unless_a_later_one_does(
    mia: Client, environment: Environment, api: Api
) -> None:
    api.evaluate("newbie", plan="free", feature="chat")
    answer = look(mia, environment, "newbie")
    assert answer.context["binds"].plan == "free"
    assert "2 requests a day, each user" in titles(answer)
    assert "20 calls at once, each feature" in titles(answer)

    api.use("newbie", plan="pro")
    assert look(mia, environment, "newbie").context["binds"].plan == "pro"
    api.evaluate("newbie", plan="free")
    assert look(mia, environment, "newbie").context["binds"].plan == "free"


def test_a_guardrail_binds_a_user_whom_nothing_else_does(mia: Client, environment: Environment) -> None:
    answer = look(mia, environment, "never-seen")
    assert titles(answer) == ["1,000 requests a month, everybody together"]
    assert "has not seen this user" in answer.content.decode()


def test_blocking_takes_a_reason_that_staff_reads_and_the_user_does_not(
    mia: Client, api: Api, environment: Environment
) -> None:
    set_end_user(environment, "ann", plan_name="pro", blocked=False, actor="test")
    url = address(environment)

    missing = mia.post(url, {"do": "block", "block-reason": ""})
    assert missing.context["block_form"].errors == {"reason": ["This field is required."]}
    mia.post(url, {"do": "block", "block-reason": "Stolen card"})

    stored = EndUser.objects.get()
    assert (stored.blocked, stored.blocked_reason, stored.plan and stored.plan.name) == (
        True,
        "Stolen card",
        "pro",
    )
    assert words(look(mia, environment)) == ["Blocked: Stolen card"]
    changes = Entry.objects.filter(action="end_user.changed").latest("id").data["changes"]
    assert changes["blocked_reason"]["after"] == "Stolen card"
    decision = api.evaluate("ann")
    assert decision["reason_code"] == "USER_BLOCKED"
    assert "Stolen" not in str(decision)

    mia.post(url, {"do": "unblock"})
    stored.refresh_from_db()
    assert (stored.blocked, stored.blocked_reason, stored.plan and stored.plan.name) == (False, "", "pro")
    assert api.evaluate("ann")["allowed"]


def test_a_reason_without_a_block_is_asked_about_and_kept(mia: Client, environment: Environment) -> None:
    form = {"environment": environment.pk, "user_id": "ann", "plan": "", "blocked_reason": "A stolen card."}
    asked = mia.post(reverse("admin:policies_enduser_add"), form)
    assert list(asked.context["adminform"].form.errors) == ["blocked_reason"]
    assert 'value="A stolen card."' in asked.content.decode()
    assert not EndUser.objects.filter(user_id="ann").exists()


def test_unblocking_on_the_form_takes_the_reason_that_stands_there(
    mia: Client, environment: Environment
) -> None:
    user = set_end_user(
        environment, "ann", plan_name=None, blocked=True, blocked_reason="A stolen card.", actor="test"
    )
    submit(mia, reverse("admin:policies_enduser_change", args=[user.pk]), blocked=None)
    user.refresh_from_db()
    assert (user.blocked, user.blocked_reason) == (False, "")


def test_a_block_stands_before_the_limits_that_it_makes_idle(
    mia: Client, environment: Environment, api: Api
) -> None:
    api.use("ann")
    for blocked in (True, False):
        set_end_user(environment, "ann", plan_name=None, blocked=blocked, blocked_reason="x", actor="test")
        text = mia.get(address(environment)).content.decode()
        assert ("No call is allowed, whatever the limits leave" in text) == blocked
        assert ("Change the plan or unblock…" in text) == blocked


def test_changing_the_plan_leaves_the_block(mia: Client, environment: Environment) -> None:
    set_end_user(environment, "ann", plan_name=None, blocked=True, blocked_reason="x", actor="test")
    mia.post(address(environment), {"do": "plan", "plan-plan": "free"})
    stored = EndUser.objects.get()
    assert (stored.blocked, stored.blocked_reason, stored.plan and stored.plan.name) == (True, "x", "free")
    refused = mia.post(address(environment), {"do": "plan", "plan-plan": "unheard-of"})
    assert refused.context["plan_form"].errors


def test_a_user_over_a_limit_is_read_as_any_other(mia: Client, api: Api, environment: Environment) -> None:
    for _ in range(2):
        api.use("ann", plan="free")
    assert not api.evaluate("ann", plan="free")["allowed"]

    answer = look(mia, environment)

    assert words(answer) == ["At 1 limit"]
    assert [bool(each.block) for each in answer.context["activity"]] == [True, False, False]


def test_a_boost_is_given_shown_and_ended(mia: Client, api: Api, environment: Environment) -> None:
    set_end_user(environment, "ann", plan_name="free", blocked=False, actor="test")
    ends = timezone.localtime() + timedelta(days=1)
    give = reverse("admin:policies_boost_add") + f"?per=user&subject=ann&environment={environment}"
    assert "2 requests a day, each user (Free plan)" in mia.get(give).content.decode()
    form = {
        "environment": environment.pk,
        "raises": "user:requests:day",
        "subject": "ann",
        "extra": "3",
        "ends_at_0": f"{ends:%Y-%m-%d}",
        "ends_at_1": f"{ends:%H:%M:%S}",
        "reason": "Trial week",
    }
    wrong = mia.post(give, form | {"extra": "1.5"})
    assert wrong.context["adminform"].form.errors["extra"]
    assert 'value="Trial week"' in wrong.content.decode()

    answer = mia.post(give, form, follow=True)

    assert "2 → 5 requests a day, each user (Free plan)" in answer.content.decode()
    page = look(mia, environment)
    assert words(page)[1].startswith("Boosted until ")
    row = page.context["limits"][0]
    assert (row.title, row.boosted, row.bar.standing) == (
        "5 requests a day, each user",
        "2 of the policy, 3 by boost",
        2,
    )
    assert sum(api.evaluate("ann")["allowed"] for _ in range(7)) == 5

    mia.post(address(environment), {"do": "end_boost", "boost": Boost.objects.get().pk})
    assert words(look(mia, environment)) == ["At 1 limit"]


def test_the_list_of_boosts_says_which_run(mia: Client, environment: Environment) -> None:
    now, day = timezone.now(), timedelta(days=1)
    for subject, starts_at in (("ann", None), ("bo", now + day), ("<b>", None)):
        boost = Boost(
            environment=environment, per="user", subject=subject, metric="requests", window="day",
            extra=Decimal(1), reason="x", starts_at=starts_at, ends_at=now + 2 * day,
        )  # fmt: skip
        boosts.give(boost, actor="test")
    boosts.end_now(Boost.objects.get(subject="<b>").pk, environment, actor="test")
    changelist = reverse("admin:policies_boost_changelist")

    def subjects(state: str) -> list[str]:
        return [boost.subject for boost in mia.get(changelist, {"state": state}).context["cl"].result_list]

    assert [subjects(state) for state in ("running", "coming", "ended")] == [["ann"], ["bo"], ["<b>"]]
    running = Boost.objects.get(subject="ann")
    mia.post(changelist, {"action": "end_now", "_selected_action": [running.pk]})
    assert subjects("running") == []


def test_a_frozen_environment_is_said(mia: Client, environment: Environment) -> None:
    freezing.freeze(environment, actor="test")
    assert words(look(mia, environment)) == ["Frozen"]


def test_a_viewer_looks_and_changes_nothing(environment: Environment) -> None:
    viewer = signed_in(environment, Role.VIEWER)
    assert 'name="do"' not in look(viewer, environment).content.decode()
    assert viewer.post(address(environment), {"do": "block", "block-reason": "x"}).status_code == 403
    assert not EndUser.objects.exists()


def test_a_stranger_learns_nothing(
    environment: Environment, other_environment: Environment, api: Api
) -> None:
    api.use("ann")
    stranger = signed_in(other_environment)
    assert stranger.get(address(environment)).status_code == 404
    assert stranger.post(address(environment), {"do": "block", "block-reason": "x"}).status_code == 404
    assert not EndUser.objects.exists()
    given = boosts.give(
        Boost(
            environment=environment, per="user", subject="ann", metric="requests", window="day",
            extra=Decimal(1), reason="x", ends_at=timezone.now() + timedelta(days=1),
        ),
        actor="test",
    )  # fmt: skip
    stranger.post(address(other_environment), {"do": "end_boost", "boost": given.pk})
    assert boosts.current(environment.pk).count() == 1


def test_what_is_no_id_of_a_boost_ends_nothing(mia: Client, environment: Environment) -> None:
    for boost_id in ("", "x", "9" * 5000):
        assert mia.post(address(environment), {"do": "end_boost", "boost": boost_id}).status_code == 302


@pytest.mark.parametrize("user_id", ["", "u" * 256])
def test_what_is_no_user_id_is_not_found(mia: Client, environment: Environment, user_id: str) -> None:
    assert mia.get(address(environment, user_id)).status_code == 404


def test_a_hostile_id_and_one_with_a_null(mia: Client, environment: Environment, api: Api) -> None:
    api.use(HOSTILE)
    answer = look(mia, environment, HOSTILE)
    assert "<script>alert" not in answer.content.decode()
    assert len(answer.context["activity"]) == 1
    assert mia.get(address(environment, "a\x00b")).status_code == 400
    mia.post(address(environment, HOSTILE), {"do": "block", "block-reason": HOSTILE})
    listed = mia.get(reverse("admin:policies_enduser_changelist")).content.decode()
    assert "<script>alert" not in listed


def test_without_counters_it_says_so(
    mia: Client, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_end_user(environment, "ann", plan_name="free", blocked=True, blocked_reason="x", actor="test")

    def away(*arguments: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "_guarded", away)
    answer = look(mia, environment)
    assert answer.context["limits"] is None
    assert words(answer) == ["Blocked: x"]
