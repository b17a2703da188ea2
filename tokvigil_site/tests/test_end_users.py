"""`PUT`, `GET` and `DELETE /v1/end-users/{user_id}`."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from urllib.parse import quote

import pytest

from audit.models import Entry
from policies.deciding import evaluation
from policies.end_users import load_record, set_end_user
from policies.models import EndUser
from tenants.models import Environment
from tokvigil_site.testing import Answer, Api, apply_policies, at_once
from tokvigil_site.tests.callers import assert_problem
from usage.counting import remember_user
from usage.counting.keys import user_key
from usage.counting.reserve import UserUnknown
from usage.counting.store import store

FILE = """
plans: [free, pro]
policies:
  - name: Nothing for free
    scope: {plan: free}
    unknown_price: allow
    limits: [{metric: requests, window: day, amount: 0, per: user}]
"""


@pytest.fixture(autouse=True)
def plans(environment: Environment) -> None:
    apply_policies(environment, FILE)


def put(api: Api, user_id: str = "anna", **body: object) -> Answer:
    return api.request(
        "PUT", f"/v1/end-users/{quote(user_id, safe='')}", {"plan": "free", "blocked": False, **body}
    )


def test_what_is_put_is_what_is_got(api: Api) -> None:
    stored = {"user_id": "anna", "plan": "pro", "blocked": True}

    answer = put(api, plan="pro", blocked=True)

    assert (answer.status, answer.json) == (200, stored)
    assert api.get("/v1/end-users/anna").json == stored


def test_the_plan_binds_the_very_next_evaluate(api: Api) -> None:
    assert api.evaluate("anna", plan="pro")["allowed"]
    put(api, plan="free")
    assert not api.evaluate("anna", plan="pro")["allowed"]
    put(api, plan=None)
    assert api.evaluate("anna", plan="pro")["allowed"]


def test_a_block_and_its_end_bind_the_very_next_evaluate(api: Api) -> None:
    put(api, plan="pro", blocked=True)
    assert api.evaluate("anna")["reason_code"] == "USER_BLOCKED"
    assert api.request("DELETE", "/v1/end-users/anna").status == 204
    assert api.evaluate("anna")["allowed"]


def test_deleting_twice_is_no_error(api: Api) -> None:
    put(api)

    assert [api.request("DELETE", "/v1/end-users/anna").status for _ in range(2)] == [204, 204]
    assert_problem(api.get("/v1/end-users/anna"), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    "user_id", ["a/b", "a b", "ä/ü", "a/", "/a", "a\nb", "..", "a?b#c", "x" * 255, "%2F", "日本"]
)
def test_any_text_is_a_user_id(api: Api, user_id: str) -> None:
    assert put(api, user_id).json["user_id"] == user_id
    assert api.get(f"/v1/end-users/{quote(user_id, safe='')}").json["user_id"] == user_id
    assert EndUser.objects.get().user_id == user_id


@pytest.mark.parametrize("user_id", ["x" * 256, "a\0b"])
@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_a_bad_user_id_is_refused(api: Api, verb: str, user_id: str) -> None:
    answer = api.request(verb, f"/v1/end-users/{quote(user_id, safe='')}", {"plan": None, "blocked": False})

    assert_problem(answer, 422, "VALIDATION_ERROR", field="user_id")


def test_an_unknown_plan_is_refused_with_a_hint(api: Api) -> None:
    answer = put(api, plan="gold")

    assert_problem(answer, 422, "VALIDATION_ERROR", field="plan")
    assert "policy file" in answer.json["detail"]
    assert not EndUser.objects.exists()


def test_a_plan_of_another_environment_is_unknown(other_api: Api) -> None:
    assert_problem(put(other_api, plan="free"), 422, "VALIDATION_ERROR", field="plan")


@pytest.mark.parametrize("missing", ["plan", "blocked"])
def test_neither_part_can_be_left_out(api: Api, missing: str) -> None:
    """Else naming the plan alone would lift a block."""
    body = {"plan": "free", "blocked": True}
    del body[missing]

    assert_problem(api.request("PUT", "/v1/end-users/anna", body), 422, "VALIDATION_ERROR", field=missing)


def test_another_tenants_users_are_not_there(api: Api, other_api: Api) -> None:
    put(api, plan="pro", blocked=True)

    assert_problem(other_api.get("/v1/end-users/anna"), 404, "NOT_FOUND")
    assert other_api.request("DELETE", "/v1/end-users/anna").status == 204
    assert put(other_api, plan=None).status == 200
    assert api.get("/v1/end-users/anna").json["blocked"] is True
    assert other_api.evaluate("anna")["allowed"]


def test_the_audit_log_names_the_key(api: Api) -> None:
    put(api)

    entry = Entry.objects.filter(action="end_user.changed").get()

    assert entry.actor == f"key:{api.key.key_id}"


def blocked(environment: Environment, user_id: str = "ann") -> bool:
    return bool(Api(environment).evaluate(user_id, dry_run=True)["reason_code"] == "USER_BLOCKED")


def test_a_slow_reader_does_not_undo_a_later_change(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the user, and tells the store only after the user was blocked."""
    api = Api(environment)
    original, told_later = remember_user.remember_user, Event()

    def remember(environment_id: int, user_id: str, record: str, unknown: UserUnknown) -> bool:
        if not told_later.is_set():
            told_later.set()
            set_end_user(environment, "ann", plan_name=None, blocked=True, actor="api:k")
            assert blocked(environment)
            # Another process knows nothing of that.
            evaluation.forget_all()
        return original(environment_id, user_id, record, unknown)

    monkeypatch.setattr(remember_user, "remember_user", remember)
    api.evaluate("ann", dry_run=True)
    assert told_later.is_set()
    # A process that knows the user as it was must not find the store to agree.
    assert kept(environment, "ann") == load_record(environment.pk, "ann") == "1"
    assert blocked(environment)


def kept(environment: Environment, user_id: str) -> str:
    """What the counter store holds of the user, without its epoch."""
    found = store.client.hget(user_key(environment.pk, user_id), "record")
    assert isinstance(found, bytes)
    return found.decode().partition("|")[2]


def test_the_counter_store_ends_with_what_postgresql_has_of_a_user(environment: Environment) -> None:
    def change(blocked: bool) -> None:
        for _ in range(10):
            set_end_user(environment, "ann", plan_name=None, blocked=blocked, actor="api:k")

    works: list[Callable[[], object]] = [lambda: change(True), lambda: change(False)] * 2
    works.append(lambda: [blocked(environment) for _ in range(10)])
    at_once(len(works), lambda number: works[number]())
    assert blocked(environment) == (load_record(environment.pk, "ann") == "1")
    assert kept(environment, "ann") == load_record(environment.pk, "ann")
