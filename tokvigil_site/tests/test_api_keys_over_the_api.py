"""`/v1/api-keys`: made, rotated and revoked; no key gives more than it has. Guarded by the revision, audited."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from audit.models import Entry
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.models import ApiKey, Environment
from tenants.scopes import EVALUATE, MANAGE, PRESETS, USAGE_READ
from tokvigil_site.testing import Answer, Api, at_once
from tokvigil_site.tests.callers import assert_problem, caller_with
from usage.api import api_keys as views

SERVER = {"name": "server", "preset": "server"}


def issue(api: Api, body: Any = SERVER, *, if_match: str = "*") -> Answer:
    return api.request("POST", "/v1/api-keys", body, **{"if-match": if_match})


def rotate(api: Api, key_id: str, old_ends_in_s: Any = 0, *, if_match: str = "*") -> Answer:
    body = {"old_ends_in_s": old_ends_in_s}
    return api.request("POST", f"/v1/api-keys/{key_id}/rotate", body, **{"if-match": if_match})


def revoke(api: Api, key_id: str, *, if_match: str = "*") -> Answer:
    return api.request("DELETE", f"/v1/api-keys/{key_id}", **{"if-match": if_match})


def end_old_secret(api: Api, key_id: str, *, if_match: str = "*") -> Answer:
    return api.request("DELETE", f"/v1/api-keys/{key_id}/old-secret", **{"if-match": if_match})


def works(text: str) -> bool:
    caller = Api.__new__(Api)
    caller.text = text
    return caller.get("/v1/me").status == 200


def listed(api: Api, query: str = "") -> list[str]:
    return [each["key_id"] for each in api.get(f"/v1/api-keys{query}").json["api_keys"]]


def actions(environment: Environment, actor: Api) -> list[str]:
    by_key = Entry.objects.filter(tenant_id=environment.tenant_id, actor=f"key:{actor.key.key_id}")
    return list(by_key.order_by("seq").values_list("action", flat=True))


def test_a_key_is_made_rotated_and_revoked(api: Api, environment: Environment) -> None:
    made = issue(api)
    assert made.status == 201
    assert made.headers["Cache-Control"] == "no-store"
    key_id, first = made.json["key_id"], made.json["key"]
    assert made.json["scopes"] == list(PRESETS["server"])
    assert works(first)

    second = rotate(api, key_id, 3600).json["key"]
    assert [works(text) for text in (first, second)] == [True, True]
    third = rotate(api, key_id).json["key"]
    assert [works(text) for text in (first, second, third)] == [False, False, True]

    for _ in range(2):
        assert revoke(api, key_id).status == 204
    assert not works(third)
    assert actions(environment, api) == [
        "api_key.issued",
        "api_key.rotated",
        "api_key.rotated",
        "api_key.revoked",
    ]
    assert_problem(rotate(api, key_id), 422, "VALIDATION_ERROR")


def test_an_old_secret_is_ended_before_its_time(api: Api, environment: Environment) -> None:
    made = issue(api).json
    key_id, old = made["key_id"], made["key"]
    new = rotate(api, key_id, 3600).json["key"]
    for _ in range(2):
        assert end_old_secret(api, key_id).status == 204
    assert [works(text) for text in (old, new)] == [False, True]
    assert actions(environment, api) == ["api_key.issued", "api_key.rotated", "api_key.old_secret_ended"]


def test_no_secret_is_read(api: Api) -> None:
    text = issue(api).json["key"]
    secret = text.rpartition("_")[2].encode()
    for path in ("/v1/api-keys", f"/v1/api-keys/{text.split('_')[2]}"):
        answer = api.get(path)
        assert answer.status == 200
        assert secret not in answer.content
        assert b"hmac" not in answer.content
    assert not Entry.objects.filter(data__icontains=secret.decode()).exists()


def test_keys_are_listed_the_newest_first_and_the_revoked_apart(api: Api) -> None:
    made = [issue(api, SERVER | {"name": str(number)}).json["key_id"] for number in range(2)]
    assert listed(api) == [*reversed(made), api.key.key_id]
    page = api.get("/v1/api-keys?limit=2").json
    assert listed(api, f"?limit=2&cursor={page['next_cursor']}") == [api.key.key_id]
    revoke(api, made[0])
    assert listed(api) == [made[1], api.key.key_id]
    assert listed(api, "?revoked=true") == [made[0]]


def test_what_it_may_is_kept(api: Api) -> None:
    limits = {
        "expires_at": "2099-01-01T00:00:00Z",
        "allowed_networks": ["10.0.0.0/8", "::1"],
        "requests_per_minute": 7,
    }
    made = issue(api, {"name": "narrow", "scopes": [USAGE_READ, USAGE_READ], **limits}).json
    assert made["scopes"] == [USAGE_READ]
    read = api.get(f"/v1/api-keys/{made['key_id']}").json
    assert {name: read[name] for name in limits} == limits


@pytest.mark.parametrize("body", [SERVER, {"name": "n", "scopes": [MANAGE, EVALUATE]}])
def test_a_key_gives_no_scope_that_it_lacks(environment: Environment, body: Any) -> None:
    narrow = caller_with(environment, MANAGE)
    before = ApiKey.objects.count()
    answer = issue(narrow, body)
    assert_problem(answer, 403, "INSUFFICIENT_SCOPE")
    assert EVALUATE in answer.json["detail"]
    assert ApiKey.objects.count() == before
    assert issue(narrow, {"name": "n", "scopes": [MANAGE]}).status == 201


def test_nor_gets_one_by_rotating_a_key_that_has_it(api: Api, environment: Environment) -> None:
    narrow = caller_with(environment, MANAGE)
    assert_problem(rotate(narrow, api.key.key_id), 403, "INSUFFICIENT_SCOPE")
    assert works(api.text)


def test_a_key_may_rotate_and_revoke_itself(environment: Environment) -> None:
    own = caller_with(environment, MANAGE)
    own.text = rotate(own, own.key.key_id).json["key"]
    assert revoke(own, own.key.key_id).status == 204
    assert_problem(own.get("/v1/api-keys"), 401, "INVALID_API_KEY")


def test_a_retry_under_if_match_makes_no_second_key(api: Api) -> None:
    seen = api.get("/v1/api-keys").headers["ETag"]
    now = issue(api, if_match=seen).headers["ETag"]
    assert_problem(issue(api, if_match=seen), 412, "PRECONDITION_FAILED")
    assert_problem(rotate(api, api.key.key_id, if_match=seen), 412, "PRECONDITION_FAILED")
    assert_problem(revoke(api, api.key.key_id, if_match=seen), 412, "PRECONDITION_FAILED")
    assert_problem(end_old_secret(api, api.key.key_id, if_match=seen), 412, "PRECONDITION_FAILED")
    assert works(api.text)
    assert len(listed(api)) == 2
    assert issue(api, if_match=now).status == 201


def test_of_many_who_rotate_and_revoke_none_waits_for_ever(api: Api) -> None:
    key_id = issue(api).json["key_id"]
    key = ApiKey.objects.get(key_id=key_id)

    def work(number: int) -> int:
        if number % 2:
            ApiKey.objects.get(pk=key.pk).rotate()
            return 200
        return rotate(api, key_id).status

    assert at_once(8, work) == [200] * 8


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": "n" * (TITLE_LENGTH_MAX + 1)}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"preset": "root"}, "preset"),
        ({"preset": None}, "scopes"),
        ({"scopes": [EVALUATE]}, "scopes"),
        ({"preset": None, "scopes": []}, "scopes"),
        ({"preset": None, "scopes": ["everything"]}, "scopes"),
        ({"preset": None, "scopes": EVALUATE}, "scopes"),
        ({"preset": None, "scopes": [1]}, "scopes[0]"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+23:59"}, "expires_at"),
        ({"expires_at": "2099-01-01"}, "expires_at"),
        ({"expires_at": 1}, "expires_at"),
        ({"allowed_networks": "10.0.0.0/8"}, "allowed_networks"),
        ({"allowed_networks": ["10.0.0.1/8"]}, "allowed_networks"),
        ({"allowed_networks": ["home"]}, "allowed_networks"),
        ({"allowed_networks": ["a\0b"]}, "allowed_networks[0]"),
        ({"allowed_networks": ["::1"] * 101}, "allowed_networks"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_minute": 2**31}, "requests_per_minute"),
        ({"requests_per_minute": "7"}, "requests_per_minute"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_wrong_is_named_and_no_key_is_made(api: Api, fields: dict[str, Any], named: str) -> None:
    assert_problem(issue(api, SERVER | fields), 422, "VALIDATION_ERROR", field=named)
    assert len(listed(api)) == 1


@pytest.mark.parametrize("old_ends_in_s", [None, -1, 1.5, "60", 7 * 24 * 3600 + 1, 10**400])
def test_how_long_the_old_secret_works_is_said(api: Api, old_ends_in_s: Any) -> None:
    answer = rotate(api, api.key.key_id, old_ends_in_s)
    assert_problem(answer, 422, "VALIDATION_ERROR", field="old_ends_in_s")
    assert works(api.text)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "ü" * TITLE_LENGTH_MAX, "\u202eevil", "🙂"])
def test_names_are_kept_as_they_are(api: Api, name: str) -> None:
    made = issue(api, SERVER | {"name": name}).json
    assert api.get(f"/v1/api-keys/{made['key_id']}").json["name"] == name


@pytest.mark.parametrize("key_id", ["nobody", "x" * 255, "%3Cscript%3E"])
def test_an_unknown_id_is_no_key(api: Api, key_id: str) -> None:
    changes = revoke(api, key_id), rotate(api, key_id), end_old_secret(api, key_id)
    for answer in (api.get(f"/v1/api-keys/{key_id}"), *changes):
        assert_problem(answer, 404, "NOT_FOUND")


def test_an_id_that_none_can_have_is_refused(api: Api) -> None:
    changes = revoke(api, "%00"), rotate(api, "%00"), end_old_secret(api, "%00")
    for answer in (api.get("/v1/api-keys/%00"), *changes):
        assert_problem(answer, 422, "VALIDATION_ERROR", field="key_id")


def test_keys_of_another_environment_are_not_known(
    api: Api, environment: Environment, other_api: Api
) -> None:
    same_tenant = Api(environment.tenant.environments.get(slug="dev"))
    for stranger in (other_api, same_tenant):
        assert listed(stranger) == [stranger.key.key_id]
        for answer in (
            stranger.get(f"/v1/api-keys/{api.key.key_id}"),
            revoke(stranger, api.key.key_id),
            rotate(stranger, api.key.key_id),
            end_old_secret(stranger, api.key.key_id),
        ):
            assert_problem(answer, 404, "NOT_FOUND")
    assert works(api.text)


def test_the_examples_work(api: Api) -> None:
    made = issue(api, views.KEY_REQUEST).json
    assert made.keys() == views.ISSUED_ANSWER.keys()
    assert (made["scopes"], made["name"]) == (views.KEY_ANSWER["scopes"], views.KEY_ANSWER["name"])
    msgspec.convert(views.ISSUED_ANSWER, views.IssuedKeyAnswer)
    assert api.request("POST", f"/v1/api-keys/{made['key_id']}/rotate", views.ROTATE_REQUEST).status == 200
