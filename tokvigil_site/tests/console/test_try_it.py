"""Try it: what would be decided of a call now, and why; it holds nothing and records nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from policies.admin.try_it import ENVIRONMENTS_MAX
from policies.changing import drafts
from policies.describing.considering import Part
from policies.describing.trace import Explanation, Question
from policies.end_users import set_end_user
from policies.models import BlockedDecision, NamedCaller
from policies.trying.explaining import explain
from policies.trying.try_it import CALLERS_MAX, ask, keep, policies_of, suppose
from tenants.models import Environment, Membership, Role, Tenant
from tokvigil_site.testing import Api, apply_policies, assert_settled, ledger, limits, set_price
from tokvigil_site.tests.console import page_forms
from usage.counting.store import store

PAGE = reverse("admin:try_it")
HOSTILE = "<script>alert(1)</script> \u202eevil\u202c 💥" + "x" * 60
POLICIES = """
plans: [free]
policies:
  - {name: Everyone, unknown_price: allow, limits: [{metric: requests, window: day, amount: 5}]}
  - name: Free
    scope: {plan: free}
    unknown_price: allow
    models: {deny: [gpt-5]}
    limits: [{metric: requests, window: day, amount: 2}]
  - name: Company
    kind: guardrail
    unknown_price: allow
    limits: [{metric: requests, window: month, amount: 9, per: environment}]
  - {name: Monitoring, kind: guardrail, mode: monitor, limits: [{metric: requests, window: day, amount: 0}]}
  - {name: Kavya, scope: {user: kavya}}
  - {name: Old, mode: "off"}
"""


def call(environment: Environment, **fields: Any) -> NamedCaller:
    return NamedCaller(environment=environment, **{"name": "call", "user_id": "ana", "model": "m", **fields})


def why(environment: Environment, **fields: Any) -> Explanation:
    return explain(ask(environment, call(environment, **fields)), policies_of(environment))


def signed_in(tenant: Tenant, role: str = Role.ADMIN, name: str = "mia") -> Client:
    user = User.objects.create_user(name, is_staff=True)
    Membership.objects.create(tenant=tenant, user=user, role=role)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def mia(environment: Environment) -> Client:
    return signed_in(environment.tenant)


def test_the_answer_is_the_one_that_a_call_would_get(environment: Environment, api: Api) -> None:
    apply_policies(environment, POLICIES)
    for fields in ({}, {"plan": "free"}, {"plan": "free", "model": "gpt-5"}, {"user_id": "kavya"}):
        tried = why(environment, **fields)
        said = {"user": "ana", "model": "m", **fields}
        user = said.pop("user_id", None) or said.pop("user")
        said.pop("user", None)
        answered = api.evaluate(user, dry_run=True, max_output_tokens=None, **said)
        assert (tried.allowed, tried.reason_code) == (answered["allowed"], answered["reason_code"])


def test_the_answer_stands_below_the_question(mia: Client, environment: Environment) -> None:
    keep(call(environment), actor="test")
    asked = {"user_id": "ana", "model": "m", "caller": "typed", "in": environment.slug}
    page = mia.get(PAGE, asked).content.decode()
    assert re.findall(r'<h2 id="([^"]+)"', page) == ["one", "trace-title", "callers"]


def test_it_holds_and_records_nothing(environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    assert [why(environment).allowed for _ in range(3)] == [True] * 3
    apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
    assert not why(environment).allowed
    assert_settled(environment)
    assert ledger(environment) == []
    assert not store.client.exists(f"tv:{{{environment.pk}}}:decisions")
    assert not BlockedDecision.objects.exists()


def test_every_policy_says_why_it_has_its_part(environment: Environment) -> None:
    apply_policies(environment, POLICIES)
    found = {each.name: (each.part, each.why) for each in why(environment, plan="free").policies}
    assert found == {
        "Free": (Part.DECIDES, "names the plan free; nothing more specific matches"),
        "Everyone": (Part.STANDS_BACK, "Free is more specific"),
        "Company": (Part.ALWAYS, "a guardrail; it is for everybody"),
        "Monitoring": (Part.MONITORS, "a guardrail; it is for everybody"),
        "Kavya": (Part.NO_MATCH, "names the user kavya, not ana"),
        "Old": (Part.OFF, "it is switched off"),
    }


def test_each_limit_is_shown_as_it_stands(environment: Environment, api: Api) -> None:
    apply_policies(environment, POLICIES)
    api.use("ana", plan="free")
    api.evaluate("ana", plan="free")
    tried = why(environment, plan="free")
    assert tried.stops is Question.LIMITS
    assert tried.title == "Daily request limit exceeded"
    stood = {limit.policy: (limit.used, limit.held, limit.left, limit.needed) for limit in tried.limits}
    assert stood == {"Free": (1, 1, 0, 1), "Company": (1, 1, 7, 1), "Monitoring": (1, 1, 0, 1)}
    assert tried.brief == "1 used, 1 held of 2 requests"


def test_what_stops_a_call_is_named(environment: Environment) -> None:
    apply_policies(environment, POLICIES)
    assert why(environment, plan="free", model="gpt-5").stops is Question.CALL
    set_end_user(environment, "ana", plan_name="free", blocked=True, actor="test")
    blocked = why(environment)
    assert (blocked.stops, blocked.user) == (Question.USER, "Yes: ana is blocked.")
    Environment.objects.filter(pk=environment.pk).update(default_action="block")
    assert why(environment, user_id="ben").stops is None


def test_a_stored_plan_goes_before_that_of_the_call(environment: Environment) -> None:
    apply_policies(environment, POLICIES)
    set_end_user(environment, "ana", plan_name="free", blocked=False, actor="test")
    tried = why(environment, plan="other")
    assert tried.user == "No. ana has the plan free, which is stored for the user."


def test_other_policies_are_tried_on_the_same_counters(environment: Environment, api: Api) -> None:
    set_price("m", input_usd="1", output_usd="0")
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    before = policies_of(environment)
    api.use("ana", model="m")
    api.evaluate("ana", model="m")
    caller = call(environment)
    asked = ask(environment, caller)
    same = suppose(asked, caller, before)
    assert explain(same, before).limits == explain(asked, before).limits
    apply_policies(
        environment,
        limits(
            "{metric: requests, window: day, amount: 2, per: user}",
            "{metric: requests, window: total, amount: 1, per: environment}",
            "{metric: concurrency, window: total, amount: 1, per: user}",
        ),
    )
    tighter = policies_of(environment)
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    supposed = explain(suppose(ask(environment, caller), caller, tighter), tighter)
    assert not supposed.allowed
    assert [(limit.used, limit.held) for limit in supposed.limits] == [(1, 1), (1, 0), (0, 0)]


def test_a_cell_says_which_plan_was_used_where_the_caller_does_not_tell(
    mia: Client, environment: Environment
) -> None:
    apply_policies(environment, POLICIES)
    assert why(environment, plan="gold").user == (
        "No. ana has the plan gold, as the call says; none is stored for the user."
    )
    query = {"user_id": "ana", "model": "m", "plan": "gold"}
    assert mia.get(PAGE, query).content.decode().count("as gold, a plan that is not stored here") == 3
    set_end_user(environment, "ana", plan_name="free", blocked=False, actor="test")
    text = mia.get(PAGE, query).content.decode()
    assert text.count("as free, the plan stored for the user") == 1
    assert text.count("as gold, a plan that is not stored here") == 2
    text = mia.get(PAGE, query | {"plan": "free"}).content.decode()
    assert "the plan stored" not in text


def test_a_cell_is_a_link_whose_name_says_what_it_opens(mia: Client, environment: Environment) -> None:
    keep(call(environment, name="Ana asks"), actor="test")
    (cell, *_) = re.findall(r'<a class="tv-cell".*?</a>', mia.get(PAGE).content.decode(), re.DOTALL)
    name = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", cell))
    assert name.startswith("Why Ana asks in prod, live: Allowed")


def test_the_page_has_a_cell_for_each_caller_and_environment(mia: Client, environment: Environment) -> None:
    apply_policies(environment, POLICIES)
    keep(call(environment, name="Free user asks for gpt-5", plan="free", model="gpt-5"), actor="test")
    text = mia.get(PAGE).content.decode()
    assert [f"{slug}, live" in text for slug in ("dev", "staging", "prod")] == [True] * 3
    assert text.count("Model denied") == 1
    assert text.count("no policy") == 2, "allowed in dev and staging"


def test_a_cell_opens_the_whole_trace(mia: Client, environment: Environment) -> None:
    apply_policies(environment, POLICIES)
    kept = keep(call(environment, plan="free"), actor="test")
    text = mia.get(f"{PAGE}?caller={kept.pk}&in=prod").content.decode()
    for said in (
        "Stands back",
        "2 more do not apply",
        "names the user kavya, not ana",
        "2 requests a day, each user",
    ):
        assert said in text, said


def test_one_call_is_asked_without_keeping_it(mia: Client, environment: Environment) -> None:
    apply_policies(environment, POLICIES)
    query = {"user_id": HOSTILE, "model": "m", "plan": "free", "caller": "typed", "in": "prod"}
    answer = mia.get(PAGE, query)
    text = answer.content.decode()
    assert answer.status_code == 200
    assert "This call" in text
    assert "<script>alert" not in text
    assert not NamedCaller.objects.exists()


def test_what_is_asked_for_one_call_is_answered_with_its_trace(mia: Client, environment: Environment) -> None:
    apply_policies(environment, POLICIES)
    page = mia.get(PAGE).content.decode()
    form = next(form for form in page_forms.forms(page) if form.method == "get" and "user_id" in form.fields)
    typed = {"user_id": ["ana"], "model": ["m"]}
    assert form.action == "#trace"
    answer = mia.get(PAGE, form.fields | typed)
    assert answer.context["opened"].caller.user_id == "ana"
    assert "Which policies apply?" in answer.content.decode()


def test_when_to_try_again_is_said_in_hours_and_minutes(environment: Environment, api: Api) -> None:
    apply_policies(environment, limits("{metric: requests, window: hour, amount: 1, per: user}"))
    assert why(environment).again == ""
    api.use("ana")
    assert re.fullmatch(r"in \d+ (min( \d+ s)?|s)", why(environment).again)


@pytest.mark.parametrize(
    "query",
    [
        {"user_id": ""},
        {"user_id": "a\0b", "model": "m"},
        {"user_id": "x" * 256, "model": "m"},
        {"user_id": "ana", "model": "m", "input_tokens": "9" * 30},
        {"user_id": "ana", "model": "m", "max_output_tokens": "-1"},
        {"caller": "\0", "in": "nowhere"},
        {"user_id": "ana", "model": "m", "caller": "typed", "in": "nowhere"},
    ],
)
def test_what_cannot_be_asked_is_said_beside_the_field(mia: Client, query: dict[str, str]) -> None:
    answer = mia.get(PAGE, query)
    assert answer.status_code == 200
    if "user_id" in query and "caller" not in query:
        assert "tv-field-errors" in answer.content.decode()


def test_callers_are_kept_and_dropped_with_an_entry_each(mia: Client, environment: Environment) -> None:
    before = Entry.objects.count()
    fields = {"user_id": " ana ", "model": "m", "input_tokens": "12", "name": HOSTILE}
    assert mia.post(PAGE, fields).status_code == 302
    kept = NamedCaller.objects.get()
    assert (kept.user_id, kept.input_tokens, kept.max_output_tokens) == (" ana ", 12, None)
    again = mia.post(PAGE, fields).content.decode()
    assert "choose another name" in again
    assert "Give it a name" in mia.post(PAGE, fields | {"name": " "}).content.decode()
    mia.post(PAGE, {"drop": kept.pk})
    assert not NamedCaller.objects.exists()
    entries = Entry.objects.order_by("pk")[before:]
    assert [entry.action for entry in entries] == ["caller.kept", "caller.dropped"]


def test_a_caller_is_kept_beside_the_draft_that_was_chosen(mia: Client, environment: Environment) -> None:
    draft = drafts.begin(environment, "Less", actor="test")
    answer = mia.post(f"{PAGE}?draft={draft.pk}&user_id=ana", {"user_id": "ana", "model": "m", "name": "Ana"})
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{PAGE}?draft={draft.pk}")


def test_the_environment_that_is_shown_stands_first(mia: Client, environment: Environment) -> None:
    columns = mia.get(f"{PAGE}?environment={environment}").context["columns"]
    assert columns[0].environment.slug == environment.slug == "prod"


def test_it_stands_first_among_more_environments_than_are_shown(
    mia: Client, environment: Environment
) -> None:
    for number in range(20):
        last = Environment.objects.create(tenant=environment.tenant, slug=f"z-{number:02}")
    columns = mia.get(f"{PAGE}?environment={last}").context["columns"]
    assert columns[0].environment == last
    assert len({column.key for column in columns}) == len(columns) == ENVIRONMENTS_MAX


def test_an_environment_keeps_only_so_many(environment: Environment, mia: Client) -> None:
    NamedCaller.objects.bulk_create(call(environment, name=str(number)) for number in range(CALLERS_MAX))
    answer = mia.post(PAGE, {"user_id": "ana", "model": "m", "name": "one more"})
    assert "drop one first" in answer.content.decode()


def test_viewers_ask_and_keep_nothing_and_strangers_see_nothing(
    environment: Environment, other_environment: Environment
) -> None:
    kept = keep(call(environment, name="ours"), actor="test")
    viewer = signed_in(environment.tenant, Role.VIEWER, "vic")
    stranger = signed_in(other_environment.tenant, name="sam")
    assert "ours" in viewer.get(PAGE).content.decode()
    assert viewer.post(PAGE, {"drop": kept.pk}).status_code == 403
    assert viewer.post(PAGE, {"user_id": "a", "model": "m", "name": "n"}).status_code == 403
    assert "ours" not in stranger.get(f"{PAGE}?caller={kept.pk}&in=prod").content.decode()
    assert [stranger.post(PAGE, {"drop": drop}).status_code for drop in (kept.pk, "x", "9" * 40)] == [404] * 3
    assert NamedCaller.objects.count() == 1
