"""`GET /v1/policies` and `GET /v1/policies/{id}`."""

from __future__ import annotations

from typing import Any

import pytest

from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies
from tokvigil_site.tests.callers import assert_problem

FREE = """
plans: [free]
policies:
  - name: Free plan
    scope: {plan: free}
    per_request: {cost_usd: "0.05"}
    limits:
      - {metric: cost_usd, window: month, amount: "5.00", per: user}
"""


def policies(api: Api, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"/v1/policies?{query}")
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.json["policies"]
    return found


def test_a_policy_reads_as_in_a_policy_file(api: Api, environment: Environment) -> None:
    apply_policies(environment, FREE)

    (policy,) = policies(api)

    assert (policy["name"], policy["version"], policy["scope"]) == ("Free plan", 1, "plan")
    assert policy["document"] == {
        "name": "Free plan",
        "scope": {"plan": "free"},
        "kind": "override",
        "mode": "enforce",
        "priority": 0,
        "per_request": {"cost_usd": "0.05"},
        "limits": [{"metric": "cost_usd", "window": "month", "amount": "5.00", "per": "user"}],
        "on_unavailable": "block",
        "on_unsettled": "release",
        "unknown_price": "block",
    }


def test_one_is_found_by_the_id_that_decisions_name(api: Api, environment: Environment) -> None:
    apply_policies(environment, FREE + "    unknown_price: allow\n")
    named = api.evaluate(plan="free")["policy"]

    answer = api.get(f"/v1/policies/{named['id']}")

    assert answer.status == 200
    assert answer.json == policies(api)[0]
    assert (answer.json["name"], answer.json["version"]) == (named["name"], named["version"])


def test_a_change_shows_at_once_with_its_version(api: Api, environment: Environment) -> None:
    apply_policies(environment, FREE)
    apply_policies(environment, FREE.replace("5.00", "6.00"))

    (policy,) = policies(api)

    assert policy["version"] == 2
    assert policy["document"]["limits"][0]["amount"] == "6.00"


def test_an_archived_policy_is_gone(api: Api, environment: Environment) -> None:
    apply_policies(environment, FREE)
    (policy,) = policies(api)
    apply_policies(environment, "policies: []\n")

    assert policies(api) == []
    assert_problem(api.get(f"/v1/policies/{policy['id']}"), 404, "NOT_FOUND")


def test_another_tenants_policies_are_not_there(api: Api, environment: Environment, other_api: Api) -> None:
    apply_policies(environment, FREE)
    (policy,) = policies(api)

    assert policies(other_api) == []
    assert_problem(other_api.get(f"/v1/policies/{policy['id']}"), 404, "NOT_FOUND")


@pytest.mark.parametrize("policy_id", ["0b7f4f6e-6c0e-4d3e-9d0e-1a2b3c4d5e6f", "1", "%00", "Free plan", "é"])
def test_an_id_that_is_none_is_not_found(api: Api, policy_id: str) -> None:
    assert_problem(api.get(f"/v1/policies/{policy_id}"), 404, "NOT_FOUND")


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_show_each_policy_once_oldest_first(api: Api, environment: Environment, limit: int) -> None:
    names = [f"P{number}" for number in range(3)]
    apply_policies(
        environment,
        "policies:\n" + "".join(f"  - name: {name}\n    scope: {{user: {name}}}\n" for name in names),
    )
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = api.get(f"/v1/policies?limit={limit}" + (f"&cursor={cursor}" if cursor else "")).json
        found += [policy["name"] for policy in page["policies"]]
        cursor = page["next_cursor"]

    assert found == names


@pytest.mark.parametrize(
    ("query", "field"), [("limit=0", "limit"), ("limit=x", "limit"), ("cursor=x", "cursor")]
)
def test_a_bad_parameter_is_refused_with_a_hint(api: Api, query: str, field: str) -> None:
    assert_problem(api.get(f"/v1/policies?{query}"), 422, "VALIDATION_ERROR", field=field)
