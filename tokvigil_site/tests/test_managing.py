"""Policies and plans over the API, as Terraform and CI change them: idempotent, guarded by the revision, audited."""

from __future__ import annotations

from typing import Any

import pytest

from audit.models import Entry
from policies.end_users import set_end_user
from policies.models import Plan, Policy
from tenants.models import Environment
from tokvigil_site.testing import Answer, Api, at_once
from tokvigil_site.tests.callers import assert_problem

FILE: dict[str, Any] = {
    "version": 1,
    "plans": ["free"],
    "policies": [
        {
            "name": "Free plan",
            "scope": {"plan": "free"},
            "unknown_price": "allow",
            "limits": [{"metric": "requests", "window": "day", "amount": 1, "per": "user"}],
        }
    ],
}


def publish(api: Api, file: dict[str, Any] = FILE, query: str = "", **headers: str) -> Answer:
    return api.request("PUT", f"/v1/policy-file{query}", file, **headers)


def changes(answer: Answer) -> list[tuple[str, str, str]]:
    assert answer.status == 200, answer
    return [(each["what"], each["name"], each["change"]) for each in answer.json["changes"]]


def actions(environment: Environment) -> list[str]:
    entries = Entry.objects.filter(tenant_id=environment.tenant_id, actor__startswith="key:").order_by("seq")
    return list(entries.values_list("action", flat=True))


def test_a_document_is_published_and_binds_the_next_call(api: Api, environment: Environment) -> None:
    assert changes(publish(api)) == [("plan", "free", "added"), ("policy", "Free plan", "added")]

    assert api.evaluate(plan="free")["allowed"]
    assert not api.evaluate(plan="free")["allowed"]
    assert actions(environment) == ["plan.added", "policy.added"]


def test_what_is_read_can_be_sent_back_and_changes_nothing(api: Api, environment: Environment) -> None:
    publish(api)
    read = api.get("/v1/policy-file")
    assert read.json["plans"] == ["free"]

    again = publish(api, read.json)

    assert changes(again) == []
    assert again.headers["ETag"] == read.headers["ETag"]
    assert actions(environment) == ["plan.added", "policy.added"]


def test_a_dry_run_says_what_would_change_and_changes_nothing(api: Api, environment: Environment) -> None:
    publish(api)
    more = {**FILE, "policies": [{**FILE["policies"][0], "priority": 5}]}

    answer = publish(api, more, "?dry_run=true")

    assert changes(answer) == [("policy", "Free plan", "changed")]
    assert answer.json["dry_run"]
    assert "+  priority: 5" in answer.json["changes"][0]["diff"]
    assert Policy.objects.get(environment=environment).priority == 0
    assert actions(environment) == ["plan.added", "policy.added"]


def test_what_is_wrong_is_named_by_its_place_and_nothing_is_published(
    api: Api, environment: Environment
) -> None:
    wrong = {
        **FILE,
        "policies": [{"name": "A", "limits": [{"metric": "wishes"}]}, {"scope": {"plan": "pro"}}],
    }

    answer = publish(api, wrong)

    assert_problem(answer, 422, "VALIDATION_ERROR")
    fields = {error["field"] for error in answer.json["errors"]}
    assert {"policies[0].limits[0].metric", "policies[1].name", "policies[1].scope.plan"} <= fields
    assert not Policy.objects.filter(environment=environment).exists()
    assert not Plan.objects.filter(environment=environment).exists()


@pytest.mark.parametrize(
    "body", [[], "x", {"plans": "free"}, {"policies": {}}, {"policies": ["x"]}, {"version": 2}, {"extra": 1}]
)
def test_a_body_that_is_no_policy_file_is_refused(api: Api, body: Any) -> None:
    assert_problem(api.request("PUT", "/v1/policy-file", body), 422, "VALIDATION_ERROR")


def test_a_revision_that_has_moved_is_not_overwritten(api: Api, environment: Environment) -> None:
    read = api.get("/v1/policy-file")
    publish(api)

    answer = publish(api, {"version": 1}, **{"if-match": read.headers["ETag"]})

    assert_problem(answer, 412, "PRECONDITION_FAILED")
    assert Policy.objects.in_force(environment.pk).count() == 1
    now = api.get("/v1/policy-file").headers["ETag"]
    assert publish(api, {"version": 1}, **{"if-match": now}).status == 200
    assert not Policy.objects.in_force(environment.pk).exists()


@pytest.mark.django_db(transaction=True)
def test_of_those_who_change_the_same_revision_one_wins(api: Api, environment: Environment) -> None:
    tag = api.get("/v1/policy-file").headers["ETag"]

    def put(number: int) -> int:
        file = {"version": 1, "policies": [{"name": f"Policy {number}"}]}
        return publish(api, file, **{"if-match": tag}).status

    assert sorted(at_once(6, put)) == [200, 412, 412, 412, 412, 412]
    assert Policy.objects.in_force(environment.pk).count() == 1


def test_plans_are_offered_and_withdrawn(api: Api, environment: Environment) -> None:
    for _ in range(2):
        assert api.request("PUT", "/v1/plans/pro%2Fteam", None).json == {"name": "pro/team"}
    assert api.get("/v1/plans").json == {"plans": [{"name": "pro/team"}]}
    for _ in range(2):
        assert api.request("DELETE", "/v1/plans/pro%2Fteam").status == 204
    assert actions(environment) == ["plan.added", "plan.removed"]


def test_a_plan_that_somebody_has_is_kept(api: Api, environment: Environment) -> None:
    api.request("PUT", "/v1/plans/pro", None)
    set_end_user(environment, "ana", plan_name="pro", blocked=False, actor="test")
    answer = api.request("DELETE", "/v1/plans/pro")
    assert_problem(answer, 422, "VALIDATION_ERROR")
    assert "end users have the plan" in answer.json["detail"]


def put_deployments(api: Api, query: str = "", headers: Any = None, **names: Any) -> Answer:
    return api.request("PUT", f"/v1/deployments{query}", {"deployments": names}, **(headers or {}))


def test_deployments_are_set_as_a_whole_and_policies_stay(api: Api, environment: Environment) -> None:
    publish(api)
    assert changes(put_deployments(api, chat="gpt-4o", old="gpt-4")) == [
        ("deployment", "chat", "added"),
        ("deployment", "old", "added"),
    ]
    set_again = put_deployments(api, chat="gpt-5")
    assert changes(set_again) == [("deployment", "old", "removed"), ("deployment", "chat", "changed")]
    assert set_again.json["changes"][1]["diff"] == ["-chat: gpt-4o", "+chat: gpt-5"]
    assert changes(put_deployments(api, chat="gpt-5")) == []
    read = api.get("/v1/deployments")
    assert read.json == {"deployments": {"chat": "gpt-5"}}
    assert read.headers["ETag"] == set_again.headers["ETag"]
    assert Policy.objects.in_force(environment.pk).count() == 1
    assert actions(environment)[2:] == [
        "deployment.added",
        "deployment.added",
        "deployment.removed",
        "deployment.changed",
    ]


def test_a_dry_run_of_deployments_changes_nothing(api: Api, environment: Environment) -> None:
    tried = put_deployments(api, "?dry_run=true", chat="gpt-4o")
    assert (tried.json["dry_run"], changes(tried)) == (True, [("deployment", "chat", "added")])
    assert api.get("/v1/deployments").json == {"deployments": {}}
    assert actions(environment) == []


def test_deployments_are_guarded_by_the_revision(api: Api) -> None:
    tag = api.get("/v1/deployments").headers["ETag"]
    assert put_deployments(api, headers={"if-match": tag}, chat="gpt-4o").status == 200
    assert_problem(put_deployments(api, headers={"if-match": tag}, chat="gpt-5"), 412, "PRECONDITION_FAILED")
    assert api.get("/v1/deployments").json == {"deployments": {"chat": "gpt-4o"}}


@pytest.mark.parametrize(
    ("names", "field"),
    [
        ({"chat": ""}, "deployments.chat"),
        ({"chat": "gpt-4o", "CHAT": "gpt-5"}, "deployments.CHAT"),
        ({"a\nb": "gpt-4o"}, "deployments"),
        ({"chat": 1}, "deployments"),
    ],
)
def test_a_deployment_that_is_none_is_refused_by_its_name(
    api: Api, environment: Environment, names: dict[str, Any], field: str
) -> None:
    answer = put_deployments(api, **names)
    assert_problem(answer, 422, "VALIDATION_ERROR")
    assert answer.json["errors"][0]["field"].startswith(field)
    assert not environment.deployments.exists()


def test_another_environment_is_not_touched(api: Api, other_api: Api) -> None:
    publish(api)
    assert other_api.get("/v1/policy-file").json == {
        "version": 1,
        "plans": [],
        "deployments": {},
        "policies": [],
    }
    assert other_api.request("DELETE", "/v1/plans/free").status == 204
    assert api.get("/v1/plans").json == {"plans": [{"name": "free"}]}
