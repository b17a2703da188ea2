"""The form of a policy: what it offers, and what stands beside it while it is filled in."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from policies.end_users import set_end_user
from policies.models import Policy
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies
from tokvigil_site.tests.console.conftest import SignIn

NEW = reverse("admin:policies_policy_preview_new")
ADD = reverse("admin:policies_policy_add")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def acme(environment: Environment) -> Tenant:
    apply_policies(
        environment,
        """plans: [free]
policies:
  - name: Company
    kind: guardrail
    unknown_price: allow
    limits: [{metric: cost_usd, window: month, amount: "1000", per: environment}]
  - {name: Free plan, scope: {plan: free}, unknown_price: allow}
""",
    )
    return environment.tenant


def typed(*limits: tuple[str, str, str, str], **fields: str) -> dict[str, str]:
    found = {
        "name": "VIP", "kind": "override", "mode": "enforce", "priority": "0", "scope_user": "ann",
        "limits-TOTAL_FORMS": str(len(limits)), "limits-INITIAL_FORMS": "0",
    }  # fmt: skip
    for number, limit in enumerate(limits):
        names = ("metric", "window", "amount", "per")
        found |= {f"limits-{number}-{name}": text for name, text in zip(names, limit, strict=True)}
    return found | fields


def said(client: Client, body: dict[str, str], address: str = NEW) -> str:
    response = client.post(address, body)
    assert response.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", response.content.decode()))


DAILY = ("requests", "day", "50", "user")


def test_the_sentence_is_that_of_the_form(mia: Client) -> None:
    text = said(mia, typed(DAILY, models_allow="gpt-4o-mini\r\n", per_request_cost_usd="0.05"))
    assert (
        "The user ann may make 50 requests a day, with gpt-4o-mini only. One call may cost at most $0.05."
        in text
    )
    assert "Company applies as well" in text
    assert "Free plan stands back for it" in text
    assert not Policy.objects.filter(name="VIP").exists(), "nothing is saved"


@pytest.mark.parametrize(
    "amount", ["5,00", "", "abc", "-1", "1.5", "1e999999", "NaN", "9" * 400, "\x00", "٣x"]
)
def test_an_amount_that_cannot_be_read_is_a_hole(mia: Client, amount: str) -> None:
    text = said(mia, typed(DAILY, ("requests", "month", amount, "user")))
    assert "make 50 requests a day and limit 2 cannot be read yet" in text


@pytest.mark.parametrize(
    ("field", "value", "hole"),
    [
        ("per_request_cost_usd", "x", "the most that it may cost"),
        ("per_request_input_tokens", "1.5", "the most that it may read"),
        ("priority", "99999999", "Priority"),
        ("kind", "sideways", "Kind"),
        ("mode", HOSTILE, "Mode"),
        ("scope_plan", "x" * 300, "Plan"),
        ("scope_user", "a\x00b", "User"),
        ("models_allow", "a\na", "Allowed models"),
        ("unknown_price", "maybe", "Models without a price"),
    ],
)
def test_a_field_that_cannot_be_read_is_a_hole(mia: Client, field: str, value: str, hole: str) -> None:
    assert f"{hole} cannot be read yet" in said(mia, typed(DAILY, **{field: value}))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"limits-TOTAL_FORMS": "x"},
        {"limits-TOTAL_FORMS": "-5"},
        {"limits-TOTAL_FORMS": "99999999"},
        {"name": HOSTILE, "scope_user": HOSTILE, "models_deny": HOSTILE, "scope_feature": "\u202e💥"},
        {"name": "\x00", "scope_user": "\x00", "models_allow": "\x00", "kind": "\x00", "mode": "\x00"},
    ],
)
def test_nothing_that_is_typed_is_an_error(mia: Client, body: dict[str, str]) -> None:
    response = mia.post(NEW, body)
    assert response.status_code == 200
    assert HOSTILE not in response.content.decode()


def test_limits_that_are_taken_out_or_empty_are_not_said(mia: Client) -> None:
    gone = typed(DAILY, ("tokens", "day", "7", "user"), ("", "", "", "user"))
    text = said(mia, gone | {"limits-1-DELETE": "on"})
    assert "may make 50 requests a day." in text


def test_a_limit_says_its_models(mia: Client) -> None:
    text = said(mia, typed(DAILY) | {"limits-0-models": " gpt-5*, claude-opus-* ,"})
    assert "may make 50 requests a day with claude-opus-* and gpt-5*." in text
    assert "limit 1 cannot be read yet" in said(mia, typed(DAILY) | {"limits-0-models": "gpt-5, gpt-5"})


def test_warnings_come_while_it_is_filled_in(mia: Client) -> None:
    text = said(
        mia, typed(DAILY, ("cost_usd", "month", "2000", "user"), scope_user="", models_allow="gpt-99*")
    )
    assert "Limit 2: Can never bind: Company stops everybody together at $1,000.00 a month." in text
    assert "No model that is priced or was called lately is named gpt-99*." in text


def test_a_stored_policy_is_not_compared_with_itself(mia: Client, environment: Environment) -> None:
    free = environment.policies.get(name="Free plan")
    address = reverse("admin:policies_policy_preview", args=[free.pk])
    text = said(mia, typed(DAILY, name="Free plan", scope_user="", scope_plan="free"), address)
    assert "Never decides" not in text
    assert "Free plan stands" not in text


def test_who_may_not_change_it_sees_no_preview(
    acme: Tenant, environment: Environment, sign_in: SignIn, other: Tenant
) -> None:
    address = reverse("admin:policies_policy_preview", args=[environment.policies.first().pk])  # type: ignore[union-attr]
    vic, sam = sign_in("vic", acme, role=Role.VIEWER), sign_in("sam", other)
    assert [vic.post(each, typed()).status_code for each in (NEW, address)] == [403, 403]
    assert sam.post(address, typed()).status_code == 404
    assert "Company" not in sam.post(NEW, typed(DAILY)).content.decode()
    assert sam.get(NEW).status_code == 405


def test_limits_come_before_what_is_rarely_used_and_that_is_folded(
    mia: Client, environment: Environment, acme: Tenant
) -> None:
    free = environment.policies.get(name="Free plan")
    page = mia.get(reverse("admin:policies_policy_edit", args=[free.pk])).content.decode()
    places = [
        page.index(each)
        for each in ('id="id_scope_plan"', 'id="limits-group"', 'id="id_models_allow"', 'id="id_priority"')
    ]
    assert places == sorted(places)

    def folded(page: str, field: str) -> bool:
        before = page[: page.index(f'id="id_{field}"')]
        return before.rindex("<fieldset") < before.rfind("<details>")

    assert folded(page, "models_allow")
    assert not folded(page, "unknown_price"), "it says something of that"
    typed = mia.post(ADD, {"environment": environment.pk, "name": "", "models_deny": "a"}).content.decode()
    assert not folded(typed, "models_allow"), "what was typed is in sight"


def test_the_form_offers_what_exists_and_what_was_seen(
    mia: Client, environment: Environment, api: Api
) -> None:
    set_end_user(environment, "ann", plan_name="free", blocked=False, actor="test")
    api.use("bob", plan="free", feature="chat")
    page: Any = mia.get(f"{ADD}?environment=acme/prod").content.decode()
    for listed, name in (("users", "ann"), ("plans", "free"), ("features", "chat")):
        (options,) = re.findall(rf'<datalist id="known-{listed}">(.*?)</datalist>', page)
        assert f'value="{name}"' in options
        assert f'list="known-{listed}"' in page
    assert 'data-adds="test-model"' in page
    assert "each user of a feature" in page
