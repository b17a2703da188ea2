"""Suggest a limit: the page says what the amounts would have blocked, and what it cannot tell."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from policies.admin import suggested_limits
from policies.blocked import decision_log
from policies.changing import drafts
from policies.models import Draft
from policies.replaying import suggesting
from policies.rules import PolicyRule
from tenants.models import Environment, Role
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = reverse("admin:suggested_limits")


@pytest.fixture(autouse=True)
def traffic(prod: Environment, empty_store: None) -> None:
    """user_1 makes one call of a cent, user_2 two, and so on to user_8."""
    set_price("test-model", input_usd="10000")
    apply_policies(prod, "policies:\n  - {name: Everyone}\n")
    api = Api(prod)
    for number in range(1, 9):
        for _ in range(number):
            api.use(f"user_{number}", input_tokens=1)


def read(client: Client, **asked: str) -> str:
    response = client.get(PAGE, asked)
    assert response.status_code == 200
    return response.content.decode()


def amounts(text: str) -> list[list[str]]:
    """Each row of the table: its cells in words, without the button."""
    _, _, table = text.partition('id="suggested"')
    rows = re.findall(r"<tr><th scope=\"row\" data-label[^>]*>(.*?)</tr>", table, re.DOTALL)
    return [
        [
            # Without the names, which stand below a number.
            re.sub(r"<[^>]+>", "", cell.partition("<small")[0]).strip()
            for cell in re.split(r"</t[hd]>", row)[:-1]
            if "<form" not in cell
        ]
        for row in rows
    ]


def test_amounts_are_said_with_how_many_they_would_have_blocked(mia: Client, prod: Environment) -> None:
    found = amounts(read(mia, environment=str(prod)))
    assert found[-2:] == [
        ["25 %", "6 requests a day, each user", "2 of 8", "3"],
        ["50 %", "4 requests a day, each user", "4 of 8", "10"],
    ]


def test_those_whom_an_amount_would_have_blocked_are_named(mia: Client, prod: Environment) -> None:
    text = read(mia, environment=str(prod))
    beside = re.findall(r"user_id=(user_\d)", text)
    assert beside == ["user_8", "user_7", "user_8", "user_7", "user_6"]
    assert text.count(" and 1 more") == 1
    (url,) = re.findall(r'href="(\?[^"]*who=4)#listed"', text)
    listed = mia.get(PAGE + unescape(url)).content.decode().partition('id="listed"')[2]
    assert re.findall(r"user_id=(user_\d).*?(\d requests)", listed, re.DOTALL) == [
        (f"user_{number}", f"{number} requests") for number in (8, 7, 6, 5)
    ]
    assert 'id="listed"' not in read(mia, environment=str(prod), who="5"), "it is none of the amounts"


@pytest.mark.parametrize(
    ("per", "named"),
    [
        ("user_feature", r'user_id=user_2"><bdi>user_2</bdi></a> in <bdi>chat</bdi></th>'),
        ("feature", "<bdi>code</bdi></th>"),
    ],
)
def test_who_would_have_been_blocked_is_named_as_the_limit_tells_them_apart(
    mia: Client, prod: Environment, per: str, named: str
) -> None:
    for user, feature in (
        ("user_1", "chat"),
        ("user_2", "chat"),
        ("user_2", "chat"),
        *[("user_3", "code")] * 4,
    ):
        Api(prod).use(user, feature=feature, input_tokens=1)
    amount = "3" if per == "feature" else "1"
    text = read(mia, environment=str(prod), per=per, who=amount, share="67")
    assert named in text.partition('id="listed"')[2]


def test_a_share_can_be_typed(mia: Client, prod: Environment) -> None:
    (row,) = amounts(read(mia, environment=str(prod), share="38"))
    assert row == ["38 %", "5 requests a day, each user", "3 of 8", "6"]
    assert "less than or equal to 99" in read(mia, environment=str(prod), share="100")
    (saved,) = amounts(read(mia, environment=str(prod), metric="cost_usd", of="money", share="50"))
    assert saved[0] == "50 %"


def test_a_share_of_the_money_says_what_would_not_have_been_spent(mia: Client, prod: Environment) -> None:
    found = amounts(read(mia, environment=str(prod), metric="cost_usd", of="money"))
    assert [row[0] for row in found] == ["1 %", "5 %", "10 %", "25 %", "50 %"]
    # What six users made above 2.5 calls: 18 of 36.
    assert found[-1] == ["50 %", "$0.025 a day, each user", "6 of 8", "$0.18"]


def test_a_share_of_the_money_needs_a_limit_on_cost(mia: Client, prod: Environment) -> None:
    text = read(mia, environment=str(prod), of="money")
    assert "Choose a limit on cost, or a share of those it counts for." in text
    assert amounts(text) == []


def test_a_plan_that_nobody_used_is_said_to_be(mia: Client, prod: Environment) -> None:
    prod.plans.create(name="unused")
    assert "Nobody used anything of this in the period" in read(mia, environment=str(prod), plan="unused")


def test_plans_and_features_are_those_that_there_are(mia: Client, prod: Environment) -> None:
    prod.plans.create(name="unused")
    Api(prod).use("user_1", feature="chat", input_tokens=1)
    form = mia.get(PAGE, {"environment": str(prod)}).context["form"]
    assert ("unused", "unused") in form.fields["plan"].choices
    assert ("chat", "chat") in form.fields["feature"].choices
    text = read(mia, environment=str(prod), feature="<b>none</b>", plan="Everyone")
    assert text.count("Select a valid choice.") == 2
    assert "<b>none" not in text


def held_at(prod: Environment, amount: int) -> None:
    """A limit is in force, and user_8 asks for three calls more than it has."""
    apply_policies(
        prod, limits(f"{{metric: requests, window: day, amount: {amount}, per: user}}", name="Held")
    )
    api = Api(prod)
    for number in range(3):
        assert not api.evaluate(user_id="user_8", request_id=f"more-{number}")["allowed"]
    decision_log.drain(prod)


def test_calls_that_a_limit_blocked_were_asked_for_too(mia: Client, prod: Environment) -> None:
    held_at(prod, 8)
    text = read(mia, environment=str(prod))
    # Of 8 users one asked for 11; the next highest peaks are 7 and 6.
    assert amounts(text)[0] == ["25 %", "6 requests a day, each user", "2 of 8", "6"]
    assert "In force of this kind now: <b>8 requests a day, each user</b> (<bdi>Held</bdi>)" in text
    assert "are left out" not in text
    assert "0 of 8" not in text


def test_of_tokens_it_is_said_that_blocked_calls_are_left_out(mia: Client, prod: Environment) -> None:
    text = read(mia, environment=str(prod), metric="tokens")
    assert "Calls that were blocked in the period are left out:" in text
    assert "No limit of this kind is in force" in text


def test_where_all_are_alike_no_share_is_promised(mia: Client, prod: Environment) -> None:
    text = read(mia, environment=str(prod), metric="requests", window="month", per="environment")
    assert amounts(text) == []
    assert "No amount would have blocked so small a share." in text


def test_an_amount_goes_into_a_draft_instead_of_the_limit_in_force(mia: Client, prod: Environment) -> None:
    held_at(prod, 8)
    asked = f"{PAGE}?{urlencode({'environment': str(prod)})}"
    answer = mia.post(asked, {"amount": "6"})
    draft = Draft.objects.get()
    assert answer["Location"] == reverse("admin:policy_draft", args=[draft.pk])
    assert drafts.rules_of(draft)["Held"].limits[0].amount == 6
    assert drafts.live_of(prod)["Held"].limits[0].amount == 8
    mia.post(f"{asked}&window=week&feature=", {"amount": "6"})
    beside = drafts.rules_of(Draft.objects.latest("pk"))["Held"]
    assert [(limit.window, limit.amount) for limit in beside.limits] == [("day", 8), ("week", 6)]
    assert "into the policy in force for these calls, <bdi>Held</bdi>" in read(mia, environment=str(prod))


def test_where_no_policy_decides_these_calls_the_limit_is_a_guardrail(mia: Client, prod: Environment) -> None:
    asked = {"environment": str(prod), "feature": "chat", "per": "user_feature"}
    for user in ("user_1", "user_2", "user_2"):
        Api(prod).use(user, feature="chat")
    assert "into a guardrail, for no policy in force decides just these calls" in read(mia, **asked)
    mia.post(f"{PAGE}?{urlencode(asked)}", {"amount": "0"})
    new = drafts.rules_of(Draft.objects.get())["Suggested: requests a day, each user of a feature, chat"]
    assert (new.kind, new.scope.feature, new.limits[0].amount) == ("guardrail", "chat", 0)
    page = mia.get(reverse("admin:policy_draft", args=[Draft.objects.get().pk])).content.decode()
    assert (
        "2 at or over it already, blocked on the next call: <bdi>user_2, chat</bdi>, <bdi>user_1, chat</bdi>"
        in page
    )


def test_it_is_said_where_a_limit_counts_more_than_was_asked_about(mia: Client, prod: Environment) -> None:
    Api(prod).use("user_1", feature="chat", input_tokens=1)
    said = "Such a limit counts other calls too."
    asked = {"environment": str(prod), "feature": "chat"}
    assert said in read(mia, **asked)
    assert said not in read(mia, **asked, per="user_feature")
    assert said not in read(mia, environment=str(prod))


def test_a_draft_says_of_a_policy_that_it_would_decide_no_call(mia: Client, prod: Environment) -> None:
    rule = PolicyRule(name="Second", limits=drafts.live_of(prod)["Everyone"].limits)
    draft = drafts.begin(prod, "Idle", actor="admin:mia", rule=rule)
    page = mia.get(reverse("admin:policy_draft", args=[draft.pk])).content.decode()
    assert "<b><bdi>Second</bdi> would decide no call.</b>" in page
    assert "every call of the last 7 days that it is for: <bdi>Everyone</bdi>." in page
    assert "Nobody is at or over a limit" in page


@pytest.mark.parametrize("amount", ["", "-1", "x", "9" * 17, "9" * 16])
def test_what_is_no_amount_goes_nowhere(mia: Client, prod: Environment, amount: str) -> None:
    assert mia.post(f"{PAGE}?environment={prod}", {"amount": amount}).status_code == 400
    assert not Draft.objects.exists()


def test_a_viewer_puts_nothing_into_a_draft(sign_in: SignIn, prod: Environment) -> None:
    viewer = sign_in("vi", prod.tenant, role=Role.VIEWER)
    assert "Into a draft" not in read(viewer, environment=str(prod))
    assert viewer.post(f"{PAGE}?environment={prod}", {"amount": "6"}).status_code == 403


@pytest.mark.parametrize("page", ["limits", "policies_plan_changelist", "policy_replays"])
def test_it_is_found_where_limits_are_looked_for(mia: Client, prod: Environment, page: str) -> None:
    assert f'href="{PAGE}"' in mia.get(reverse(f"admin:{page}")).content.decode()


def test_what_takes_too_long_says_what_to_do(
    mia: Client, prod: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(1)")

    monkeypatch.setattr(suggested_limits, "LEDGER_MS_MAX", 1)
    monkeypatch.setattr(suggesting, "of_subjects", slow)
    assert "It takes too long to add up" in read(mia, environment=str(prod))


def test_an_unknown_limit_is_an_error_beside_its_field(mia: Client, prod: Environment) -> None:
    assert "Select a valid choice" in read(mia, environment=str(prod), window="minute")
