"""From the form of a policy into force: what would change is shown first; or into a draft. What is typed is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import escape

from audit.models import Entry
from policies import policy_rows
from policies.blocked.decision_log import drain
from policies.changing import drafts, publishing
from policies.models import Draft, Policy, PolicyVersion
from policies.replaying import at_once
from policies.rules import PolicyRule
from tenants.console import display
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api, apply_policies
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.filled_forms import fields_of

# Committed, as a page says since when a change is in force.
pytestmark = pytest.mark.django_db(transaction=True)

HOSTILE = "<script>alert(1)</script> \u202eevil\u202c 💥"
FILE = """
plans: [free]
policies:
  - {name: Default, unknown_price: allow, limits: [{metric: requests, window: day, amount: 50}]}
  - {name: Free, scope: {plan: free}, unknown_price: allow, limits: [{metric: requests, window: day, amount: 5}]}
"""
ADD = reverse("admin:policies_policy_add")
LIMIT = {"limits-0-metric": "requests", "limits-0-window": "day", "limits-0-per": "user"}


@pytest.fixture(autouse=True)
def policies(prod: Environment, empty_store: None) -> None:
    apply_policies(prod, FILE)


@pytest.fixture
def edit(prod: Environment) -> str:
    return reverse("admin:policies_policy_edit", args=[prod.policies.get(name="Free").pk])


def typed(client: Client, url: str, **fields: Any) -> dict[str, Any]:
    """The form as a browser has it, with these fields changed."""
    answer = client.get(url)
    assert answer.status_code == 200
    return {
        name: value for name, value in fields_of(answer.content.decode()).items() if name[0] != "_"
    } | fields


def sent(client: Client, url: str, body: dict[str, Any], button: str) -> str:
    answer = client.post(url, body | {button: "yes"}, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def going_on(page: str) -> dict[str, Any]:
    """What the confirmation sends."""
    return {name: value for name, value in fields_of(page).items() if name[0] != "_"}


def free(environment: Environment) -> Policy:
    return environment.policies.get(name="Free")


def test_models_of_a_limit_are_published_and_kept_while_others_are_typed(
    mia: Client, prod: Environment, edit: str
) -> None:
    wrong = sent(mia, edit, typed(mia, edit) | {"limits-0-models": "gpt-5*, gpt-5*"}, "_review")
    assert "is listed twice" in wrong
    assert 'value="gpt-5*, gpt-5*"' in wrong
    right = sent(mia, edit, typed(mia, edit) | {"limits-0-models": "gpt-5*, claude-*"}, "_review")
    sent(mia, edit, going_on(right), "_publish")

    (limit,) = free(prod).limits.all()
    assert limit.models == ["claude-*", "gpt-5*"]
    assert fields_of(mia.get(edit).content.decode())["limits-0-models"] == ["claude-*,gpt-5*"]
    # A change of something else keeps them.
    review = sent(mia, edit, typed(mia, edit) | {"limits-0-amount": "7"}, "_review")
    sent(mia, edit, going_on(review), "_publish")
    assert [(int(each.amount), each.models) for each in free(prod).limits.all()] == [
        (7, ["claude-*", "gpt-5*"])
    ]


def test_a_warning_of_the_form_is_repeated_before_it_is_published(mia: Client, prod: Environment) -> None:
    page = sent(mia, ADD, typed(mia, f"{ADD}?environment={prod}", name="Later", scope_plan="free"), "_review")
    assert "Publish Later?" in page
    assert "Never decides: Free is for the same callers and is older" in page


def test_what_changes_is_shown_first_and_then_published_with_the_reason(
    mia: Client, prod: Environment, edit: str
) -> None:
    page = sent(mia, edit, typed(mia, edit, **{"limits-0-amount": "7"}), "_review")
    assert "Publish Free?" in page
    assert "In force, version 1" in page
    assert re.search(r"5 requests.*7 requests", page, re.DOTALL)
    assert "Nobody is at or over" in page
    assert "Live has moved" not in page
    assert free(prod).version == 1, "nothing has changed yet"

    said = sent(mia, edit, going_on(page) | {"note": "They asked for more"}, "_publish")
    assert "Free is published as version 2. In force everywhere since" in said
    assert policy_rows.rule_of(free(prod)).limits[0].amount == 7
    assert free(prod).versions.get(version=2).note == "They asked for more"
    assert Entry.objects.get(action="policy.changed").data["note"] == "They asked for more"
    assert "They asked for more" in said, "the page of the policy says why"


def test_a_new_policy_goes_the_same_way(mia: Client, prod: Environment) -> None:
    url = f"{ADD}?environment=acme/prod"
    body = typed(mia, url, name=HOSTILE, **LIMIT) | {"limits-0-amount": "3", "limits-TOTAL_FORMS": "1"}
    page = sent(mia, url, body, "_review")
    assert "Not there yet" in page
    assert "<script>alert" not in page
    assert not prod.policies.filter(name=HOSTILE).exists()
    sent(mia, url, going_on(page), "_publish")
    assert prod.policies.get(name=HOSTILE).version == 1


def test_enter_publishes_nothing_unseen(mia: Client, prod: Environment, edit: str) -> None:
    answer = mia.post(edit, typed(mia, edit, priority="9"))
    assert "Publish Free?" in answer.content.decode()
    assert free(prod).priority == 0


def test_who_is_over_it_now_is_named(mia: Client, prod: Environment, edit: str, api_of_prod: Api) -> None:
    for _ in range(3):
        api_of_prod.use("ana", plan="free")
    page = sent(mia, edit, typed(mia, edit, **{"limits-0-amount": "2"}), "_review")
    assert "1 at or over it already, blocked on the next call: <bdi>ana</bdi>" in page


def test_who_would_have_felt_it_on_the_last_day_is_named(
    mia: Client, prod: Environment, edit: str, api_of_prod: Api
) -> None:
    for user, calls in ((HOSTILE, 2), *((f"user-{number}", 1) for number in range(9))):
        for _ in range(calls):
            api_of_prod.use(user, plan="free")
    page = sent(mia, edit, typed(mia, edit, models_deny="test-*"), "_review")
    assert "Of 11 calls, 11 would have been newly blocked" in page
    assert "Model denied, by <bdi>Free</bdi>: 11" in page
    assert "<bdi>test-model</bdi> (11)" in page
    assert escape(display.user_url(prod, HOSTILE)) in page
    assert "(2)" in page
    assert "and 2 others" in page
    assert "<script>alert" not in page
    assert "Nobody is at or over a limit that is new or lower." in page
    assert prod.policies.get(name="Free").version == 1, "looking changes nothing"


def test_whose_calls_would_have_been_let_through_is_named(
    mia: Client, prod: Environment, edit: str, api_of_prod: Api
) -> None:
    apply_policies(prod, FILE.replace("amount: 5}", "amount: 1}"))
    api_of_prod.use("ana", plan="free")
    assert not api_of_prod.evaluate("ana", plan="free")["allowed"]
    drain(prod)
    page = sent(mia, edit, typed(mia, edit, **{"limits-0-amount": "9"}), "_review")
    assert "Of 2 calls, 1 would have been newly allowed" in page
    assert "<dt>Whose</dt>" in page
    assert "(1).</dd>" in re.sub(r"\s+<", "<", page)


def test_calls_that_a_lower_cap_cuts_short_are_counted(mia: Client, edit: str, api_of_prod: Api) -> None:
    for tokens in (10, 300):
        api_of_prod.use("ana", plan="free", max_output_tokens=tokens)
    page = sent(mia, edit, typed(mia, edit, per_request_output_tokens="100"), "_review")
    assert "Of 2 calls, 1 would have been cut short" in page
    assert "1 call, left less output than produced" in page


def test_with_too_many_calls_for_a_replay_at_once_their_number_is_said(
    mia: Client, edit: str, api_of_prod: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_once, "AT_ONCE_MAX", 1)
    api_of_prod.use("ana", plan="free")
    api_of_prod.use("ana", plan="free")
    page = sent(mia, edit, typed(mia, edit, models_deny="test-*"), "_review")
    assert "2 calls were made or blocked in that time, more than" in page
    assert 'form="publishing" name="_replay"' in page


def test_a_replay_that_fails_does_not_keep_from_publishing(
    mia: Client, prod: Environment, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_once, "replay", lambda *_args, **_named: 1 // 0)
    page = sent(mia, edit, typed(mia, edit, models_deny="test-*"), "_review")
    assert "The calls of that time could not be decided again." in page
    sent(mia, edit, going_on(page), "_publish")
    assert free(prod).version == 2


@pytest.fixture
def api_of_prod(prod: Environment) -> Api:
    return Api(prod)


def test_a_form_that_says_what_is_in_force_publishes_nothing(
    mia: Client, prod: Environment, edit: str
) -> None:
    page = sent(mia, edit, typed(mia, edit), "_review")
    assert "Nothing: it says what is in force already." in page
    assert 'name="_publish"' not in page
    assert "says so already" in sent(mia, edit, going_on(page), "_publish")
    assert free(prod).versions.count() == 1


def test_live_that_moved_since_the_form_was_opened_is_shown_beside_what_was_typed(
    mia: Client, prod: Environment, edit: str
) -> None:
    body = typed(mia, edit, **{"limits-0-amount": "7"})
    rule = replace(policy_rows.rule_of(free(prod)), priority=4)
    publishing.publish_one(prod, rule, actor="admin:owen", policy_id=free(prod).pk)
    page = sent(mia, edit, body, "_review")
    assert "Live has moved since the form was opened." in page
    assert "Version 2 by <bdi>owen</bdi>" in page
    assert "Publish as version 3" in page

    # It moves once more while the confirmation is looked at.
    publishing.publish_one(prod, replace(rule, priority=5), actor="admin:owen", policy_id=free(prod).pk)
    refused = sent(mia, edit, going_on(page), "_publish")
    assert "it is at version 3 now" in refused
    assert free(prod).version == 3
    again = sent(mia, edit, going_on(refused), "_review")
    assert "Version 3 by <bdi>owen</bdi>" in again
    sent(mia, edit, going_on(again), "_publish")
    assert (free(prod).version, free(prod).priority) == (4, 0)


def test_what_was_typed_survives_going_back(mia: Client, prod: Environment, edit: str) -> None:
    body = typed(mia, edit, scope_user=" ann ", models_allow="b-*\r\na", **{"limits-0-amount": "7"})
    page = sent(mia, edit, body, "_review")
    back = sent(mia, edit, going_on(page) | {"note": HOSTILE}, "_edit")
    assert "Publish Free?" not in back
    assert "errornote" not in back
    found = going_on(back)
    for name in ("scope_user", "limits-0-amount", "note"):
        assert found[name] in ([body.get(name, HOSTILE)], body.get(name, HOSTILE)), name
    assert found["models_allow"][0].splitlines() == ["b-*", "a"]
    assert free(prod).version == 1


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("per_request_cost_usd", "-1", "not an amount"),
        ("mode", "x", "Select a valid choice"),
        ("priority", "99999", "10000"),
        ("limits-0-amount", "9" * 30, "no more than 25 digits"),
    ],
)
def test_what_cannot_be_published_is_said_in_the_form(
    mia: Client, prod: Environment, edit: str, field: str, value: str, said: str
) -> None:
    text = sent(mia, edit, typed(mia, edit, **{field: value}), "_review")
    assert "Publish Free?" not in text
    assert said in text
    assert f'value="{value}"' in text or field == "mode"


def test_a_reason_that_is_too_long_is_said_beside_it(mia: Client, prod: Environment, edit: str) -> None:
    page = sent(mia, edit, typed(mia, edit, priority="9"), "_review")
    text = sent(mia, edit, going_on(page) | {"note": "x" * 501}, "_publish")
    assert "tv-field-errors" in text
    assert "x" * 501 in text
    assert free(prod).version == 1


def test_the_form_saves_to_a_draft_of_ones_own(
    mia: Client, prod: Environment, edit: str, sign_in: SignIn, acme: Tenant
) -> None:
    drafts.begin(prod, "Of somebody else", actor="admin:owen")
    before = Entry.objects.count()
    said = sent(mia, edit, typed(mia, edit, priority="9"), "_draft")
    draft = Draft.objects.get(author="admin:mia")
    assert f"Free is in the draft {draft.name}" in said
    assert draft.name == "Changes by mia"
    assert drafts.rules_of(draft)["Free"].priority == 9
    assert [entry.action for entry in Entry.objects.order_by("pk")[before:]] == ["draft.begun"]
    assert free(prod).priority == 0

    url = f"{ADD}?environment=acme/prod"
    sent(mia, url, typed(mia, url, name="Gold", scope_plan="to come"), "_draft")
    draft.refresh_from_db()
    assert drafts.rules_of(draft)["Gold"].scope.plan == "to come"
    assert Draft.objects.filter(author="admin:mia").count() == 1

    # What the draft says of the policy already is not written over.
    sent(mia, edit, typed(mia, edit, priority="3"), "_draft")
    assert drafts.rules_of(draft)["Free"].priority == 9
    assert drafts.rules_of(Draft.objects.latest("pk"))["Free"].priority == 3


def test_a_plan_that_is_missing_stands_against_publishing_alone(mia: Client, prod: Environment) -> None:
    url = f"{ADD}?environment=acme/prod"
    text = sent(mia, url, typed(mia, url, name="Gold", scope_plan="to come"), "_review")
    assert "there is no plan" in text
    assert 'value="to come"' in text


def test_with_too_many_drafts_the_form_is_kept(
    mia: Client, prod: Environment, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "DRAFTS_MAX", 0)
    text = sent(mia, edit, typed(mia, edit, priority="9"), "_draft")
    assert "discard one first" in text
    assert going_on(text)["priority"] in ("9", ["9"])


def test_why_is_kept_with_each_version_that_a_draft_makes(prod: Environment) -> None:
    draft = drafts.begin(prod, "Two", actor="test", rule=PolicyRule(name="New"))
    drafts.publish(draft, edits=0, note="Spring", actor="test")
    assert PolicyVersion.objects.get(policy__name="New").note == "Spring"
