"""The list of policies, the page of one, and the change of its mode."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import Entry
from policies import policy_rows
from policies.changing import publishing
from policies.end_users import set_end_user
from policies.models import Policy
from policies.rules import Mode
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies
from tokvigil_site.tests.console.conftest import SignIn
from usage.counting.store import StoreUnavailable, store

LIST = reverse("admin:policies_policy_changelist")
HOSTILE = "<script>alert(1)</script>"
FILE = f"""plans: [free]
policies:
  - name: Free plan
    scope: {{plan: free}}
    unknown_price: allow
    limits:
      - {{metric: requests, window: day, amount: 2, per: user}}
      - {{metric: requests, window: month, amount: 1000, per: user}}
  - name: Company
    kind: guardrail
    unknown_price: allow
    limits: [{{metric: requests, window: month, amount: 100, per: environment}}]
  - {{name: "{HOSTILE}", mode: monitor, scope: {{user: "{HOSTILE}"}}, models: {{allow: ["{HOSTILE}"]}}}}
"""


@pytest.fixture
def acme(environment: Environment) -> Tenant:
    return environment.tenant


@pytest.fixture
def governed(environment: Environment, api: Api) -> Environment:
    apply_policies(environment, FILE)
    api.use("ann", plan="free")
    api.evaluate("ann", plan="free")
    return environment


def row(environment: Environment, name: str = "Free plan") -> Policy:
    return environment.policies.get(name=name)


def url(policy: Policy, page: str = "change") -> str:
    return reverse(f"admin:policies_policy_{page}", args=[policy.pk])


def words(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", "", response.content.decode(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", text)


class _Away:
    def admit(self) -> bool:
        raise StoreUnavailable("away")


def test_the_list_shows_sentence_state_fullest_limit_and_change(governed: Environment, mia: Client) -> None:
    said = words(mia, LIST)
    assert "Every user on the free plan may make 2 requests a day and 1,000 requests a month." in said
    assert "plan free" in said
    assert "At limit" in said
    assert "ann: 1 of 2 requests a day, 1 more held" in said
    assert "everybody: 1 of 100 requests a month, 1 more held" in said
    assert "Monitored" in said
    assert "version 1" in said
    assert said.index("Free plan") < said.index("Company"), "the fullest first"


def test_a_mode_is_called_what_the_file_calls_it(governed: Environment, mia: Client) -> None:
    policy = publishing.set_mode(row(governed), Mode.MONITOR, actor="test")
    tried = f"{reverse('admin:try_it')}?user_id=ann&plan=free&model=m&caller=typed&in=prod"
    pages = [LIST, url(policy), url(policy, "edit"), url(policy, "mode") + "?mode=enforce", tried]
    for page in pages:
        said = words(mia, page).lower()
        assert "watch" not in said, page
        assert "monitor" in said or "enforce" in said, page


def test_names_are_text(governed: Environment, mia: Client) -> None:
    hostile = row(governed, HOSTILE)
    for address in (LIST, url(hostile), url(row(governed)), f"{url(hostile, 'mode')}?mode=off"):
        assert HOSTILE not in mia.get(address).content.decode()


def test_archived_policies_are_shown_if_asked_for(governed: Environment, mia: Client) -> None:
    mia.post(url(row(governed), "delete"), {"post": "yes"}, follow=True)
    assert "Free plan" not in words(mia, LIST)
    assert "Free plan" in words(mia, f"{LIST}?archived=yes")
    assert "An archived policy limits nothing." in words(mia, url(row(governed)))


def test_without_counters_it_says_what_is_not_known(
    governed: Environment, mia: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "breaker", _Away())
    for address in (LIST, url(row(governed))):
        assert "ann: 1 of 2 requests a day; what calls in flight hold is not known yet" in words(mia, address)


def test_the_list_costs_a_constant_number_of_queries(environment: Environment, mia: Client) -> None:
    def queries(count: int) -> int:
        policies = "".join(
            f"  - {{name: p{number}, limits: [{{metric: requests, window: day, amount: 5}}]}}\n"
            for number in range(count)
        )
        apply_policies(environment, f"policies:\n{policies}")
        mia.get(LIST)
        with CaptureQueriesContext(connection) as captured:
            assert mia.get(LIST).status_code == 200
        return len(captured)

    assert queries(2) == queries(30)


def test_the_page_shows_limits_and_who_is_near_and_what_else_applies(
    governed: Environment, mia: Client, api: Api
) -> None:
    api.use("bob", plan="free")
    said = words(mia, url(row(governed)))
    assert "2 requests a day, each user" in said
    assert "1 at limit" in said
    assert re.search(r"Nearest to 2 requests a day, each user.* ann .* bob ", said)
    assert "Company applies as well" in said
    assert "Compare, and go back to one" in said


def test_the_page_warns(environment: Environment, mia: Client) -> None:
    apply_policies(
        environment,
        """policies:
  - {name: A, models: {allow: [gpt-99]}, limits: [{metric: requests, window: day, amount: 5}]}
  - {name: B, priority: 1, limits: [{metric: requests, window: day, amount: 5}]}
  - {name: C, kind: guardrail, limits: [{metric: requests, window: day, amount: 4, per: environment}]}
""",
    )
    said = words(mia, url(row(environment, "A")))
    assert "Never decides: B is for the same callers and has the higher priority." in said
    assert "Can never bind: C stops everybody together at 4 requests a day." in said
    assert "No model that is priced or was called lately is named gpt-99." in said


@pytest.mark.parametrize(("mode", "word"), [("monitor", "monitored"), ("off", "off")])
def test_the_mode_is_changed_after_asking(governed: Environment, mia: Client, mode: str, word: str) -> None:
    policy = row(governed)
    address = url(policy, "mode")
    before = policy_rows.rule_of(policy)
    assert "This makes version 2" in words(mia, f"{address}?mode={mode}")
    assert row(governed).version == 1, "asking changes nothing"
    answer: Any = mia.post(address, {"mode": mode}, follow=True)
    assert f"Free plan is {word} now, as version 2." in answer.content.decode()
    after = policy_rows.rule_of(row(governed))
    assert (after.mode, after.limits) == (mode, before.limits)
    assert Entry.objects.get(action="policy.changed").actor == "admin:mia"


def test_a_mode_that_there_is_not(governed: Environment, mia: Client) -> None:
    for mode in ("", "x", "<script>"):
        assert mia.get(url(row(governed), "mode"), {"mode": mode}).status_code == 404
        assert mia.post(url(row(governed), "mode"), {"mode": mode}).status_code == 404


def test_who_may_only_look_sees_the_page_and_no_action(
    governed: Environment, sign_in: SignIn, acme: Tenant, other: Tenant
) -> None:
    policy = row(governed)
    vic = sign_in("vic", acme, role=Role.VIEWER)
    said = vic.get(url(policy)).content.decode()
    assert "Every user on the" in said
    assert url(policy, "edit") not in said
    for page in ("edit", "mode"):
        assert vic.get(f"{url(policy, page)}?mode=off").status_code == 403
        assert vic.post(url(policy, page), {"mode": "off"}).status_code == 403
    sam = sign_in("sam", other)
    for page in ("edit", "mode"):
        assert sam.get(f"{url(policy, page)}?mode=off").status_code == 404
        assert sam.post(url(policy, page), {"mode": "off"}).status_code == 404
    assert sam.get(url(policy)).status_code == 302
    assert row(governed).version == 1


def test_the_mode_of_an_archived_policy_is_not_changed(governed: Environment, mia: Client) -> None:
    mia.post(url(row(governed), "delete"), {"post": "yes"})
    assert mia.post(url(row(governed), "mode"), {"mode": "off"}).status_code == 403


def test_the_page_of_a_plan_says_which_policies_name_it_and_who_changed_them(
    governed: Environment, mia: Client
) -> None:
    free = row(governed)
    rule = replace(policy_rows.rule_of(free), priority=3)
    publishing.publish_one(governed, rule, actor="admin:owen", note="They asked", policy_id=free.pk)
    set_end_user(governed, "ana", plan_name="free", blocked=False, actor="test")
    plan = governed.plans.get(name="free")
    said = words(mia, reverse("admin:policies_plan_change", args=[plan.pk]))
    for expected in ("Free plan", "version 2", "They asked", "owen", "1 user stored on it"):
        assert expected in said, expected
    plan = governed.plans.create(name="unused")
    said = words(mia, reverse("admin:policies_plan_change", args=[plan.pk]))
    assert "No policy in force names it" in said
    assert "no user is stored on it" in said
