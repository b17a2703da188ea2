"""`/v1/freeze`: exactly what is sent is frozen, idempotent, guarded by the revision, audited."""

from __future__ import annotations

from typing import Any

import pytest

from audit.models import Entry
from policies.api import freeze as views
from tenants import freezing
from tenants.lengths import NAME_LENGTH_MAX, REASON_LENGTH_MAX
from tenants.models import FROZEN_FEATURES_MAX, Environment
from tokvigil_site.testing import Answer, Api, at_once
from tokvigil_site.tests.callers import assert_problem

THAWED = {"environment": False, "features": [], "frozen": []}


def put(
    api: Api, *features: str, environment: bool = False, reason: str = "Incident", if_match: str = "*"
) -> Answer:
    body = {"environment": environment, "features": features, "reason": reason}
    return api.request("PUT", "/v1/freeze", body, **{"if-match": if_match})


def frozen(api: Api) -> list[tuple[str | None, str, str]]:
    return [(each["feature"], each["reason"], each["by"]) for each in api.get("/v1/freeze").json["frozen"]]


def entries(environment: Environment) -> list[Entry]:
    return list(Entry.objects.filter(action__startswith="environment.").order_by("seq"))


def test_what_is_frozen_is_blocked_from_the_next_call_on(api: Api, environment: Environment) -> None:
    assert api.get("/v1/freeze").json == THAWED
    answer = put(api, "chat")
    assert (answer.status, answer.json["features"]) == (200, ["chat"])
    assert api.evaluate(feature="chat")["reason_code"] == "FEATURE_FROZEN"
    assert api.evaluate(feature="code")["allowed"]

    assert put(api, environment=True).json["environment"]
    assert api.evaluate(feature="code")["reason_code"] == "ENVIRONMENT_FROZEN"

    assert api.request("PUT", "/v1/freeze", {"environment": False, "features": []}).json == THAWED
    assert api.evaluate(feature="chat")["allowed"]
    assert [(entry.action, entry.actor) for entry in entries(environment)] == [
        (action, f"key:{api.key.key_id}")
        for action in ("environment.frozen", "environment.frozen", "environment.unfrozen")
    ]


def test_sent_again_it_changes_nothing(api: Api, environment: Environment) -> None:
    first = put(api, "chat", "chat", "code", environment=True)
    again = put(api, "code", "chat", environment=True, reason="Another day")
    assert again.json == first.json
    assert again.headers["ETag"] == first.headers["ETag"]
    assert len(entries(environment)) == 1


def test_each_keeps_the_reason_for_which_it_was_frozen(api: Api, environment: Environment) -> None:
    freezing.freeze(environment, features=["chat"], reason="By hand", actor="admin:bo")
    put(api, "chat", "code")
    by_key = f"key:{api.key.key_id}"
    assert frozen(api) == [("chat", "By hand", "admin:bo"), ("code", "Incident", by_key)]
    assert entries(environment)[-1].data["reason"] == "Incident"


def test_a_revision_that_has_moved_is_not_overwritten(api: Api) -> None:
    seen = api.get("/v1/freeze").headers["ETag"]
    now = put(api, "chat", if_match=seen).headers["ETag"]
    assert_problem(put(api, if_match=seen), 412, "PRECONDITION_FAILED")
    assert api.get("/v1/freeze").json["features"] == ["chat"]
    assert put(api, if_match=now).json == THAWED


def test_of_those_who_change_the_same_revision_one_wins(api: Api, environment: Environment) -> None:
    seen = api.get("/v1/freeze").headers["ETag"]
    statuses = at_once(4, lambda number: put(api, f"f{number}", if_match=seen).status)
    assert sorted(statuses) == [200, 412, 412, 412]
    assert len(entries(environment)) == 1


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "ü" * NAME_LENGTH_MAX, "\u202eevil", "🙂", " "]
)
def test_features_may_have_any_name_that_calls_can_give(api: Api, name: str) -> None:
    assert put(api, name, reason=f"Because of {name[:99]}").json["features"] == [name]
    assert not api.evaluate(feature=name)["allowed"]


def test_as_many_features_as_may_be_frozen_fit_into_a_body(api: Api) -> None:
    names = [f"{number:03d}" + "🙂" * (NAME_LENGTH_MAX - 3) for number in range(FROZEN_FEATURES_MAX)]
    assert put(api, *names).json["features"] == names
    assert_problem(put(api, *names, "one more"), 422, "VALIDATION_ERROR", field="features")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"reason": ""}, "reason"),
        ({"reason": " \n"}, "reason"),
        ({"reason": "r" * (REASON_LENGTH_MAX + 1)}, "reason"),
        ({"reason": "a\0b"}, "reason"),
        ({"reason": None}, "reason"),
        ({"environment": 1}, "environment"),
        ({"environment": None}, "environment"),
        ({"features": "chat"}, "features"),
        ({"features": [""]}, "features[0]"),
        ({"features": ["a\0b"]}, "features[0]"),
        ({"features": [1]}, "features[0]"),
        ({"features": ["f" * (NAME_LENGTH_MAX + 1)]}, "features[0]"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_frozen(api: Api, fields: dict[str, Any], named: str) -> None:
    body = {"environment": True, "features": ["chat"], "reason": "Incident"} | fields
    assert_problem(api.request("PUT", "/v1/freeze", body), 422, "VALIDATION_ERROR", field=named)
    assert api.get("/v1/freeze").json == THAWED


@pytest.mark.parametrize("body", [[], "x", None, {}, {"environment": True}, {"features": []}])
def test_both_parts_are_required(api: Api, body: Any) -> None:
    assert_problem(api.request("PUT", "/v1/freeze", body), 422, "VALIDATION_ERROR")


def test_another_environment_is_not_touched(api: Api, other_api: Api) -> None:
    put(api, "chat", environment=True)
    assert other_api.get("/v1/freeze").json == THAWED


def test_a_feature_that_was_never_seen_is_frozen_with_a_warning(api: Api) -> None:
    api.use(feature="summarize")
    answer = put(api, "sumarize", "summarize")
    assert (answer.status, answer.json["features"]) == (200, ["sumarize", "summarize"])
    assert answer.json["warnings"] == [
        "No call of the feature “sumarize” was seen here, and no policy names it. Did you mean “summarize”?"
    ]
    assert "warnings" not in api.get("/v1/freeze").json
    assert "warnings" not in put(api, "summarize").json


def test_the_examples_work(api: Api) -> None:
    api.use(feature="chat")
    answer = api.request("PUT", "/v1/freeze", views.FREEZE_REQUEST).json
    shown: Any = views.FREEZE_ANSWER
    assert answer | {"frozen": shown["frozen"]} == shown
    assert answer["frozen"][0].keys() == shown["frozen"][0].keys()
