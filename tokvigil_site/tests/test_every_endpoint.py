"""What holds at every address of the API: keys, scopes, verbs, parameters."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from tenants.models import Environment
from tenants.scopes import SCOPES
from tokvigil_site.testing import Api
from tokvigil_site.tests.callers import assert_problem, caller_with

ANY_KEY = ""
# Verb, address, the scope it needs.
CALLS = [
    ("POST", "/v1/evaluate", "evaluate"),
    ("POST", "/v1/usage", "usage:write"),
    ("POST", "/v1/usage/batch", "usage:write"),
    ("GET", "/v1/usage", "usage:read"),
    ("GET", "/v1/usage/summary", "usage:read"),
    ("POST", "/v1/reservations/r1/extend", "evaluate"),
    # The hold of a request whose id ends in "/extend".
    ("DELETE", "/v1/reservations/r1/extend", "evaluate"),
    ("DELETE", "/v1/reservations/r1", "evaluate"),
    ("GET", "/v1/limits", "usage:read"),
    ("GET", "/v1/decisions", "usage:read"),
    ("GET", "/v1/policies", "policies:read"),
    ("POST", "/v1/policies/simulate", "policies:read"),
    ("GET", "/v1/policies/suggested-limits", "policies:read"),
    ("GET", "/v1/policies/simulations/0b8f6f0e-3d0a-4f4e-9a35-7f6f1c1d2e3f", "policies:read"),
    ("GET", "/v1/policies/0b8f6f0e-3d0a-4f4e-9a35-7f6f1c1d2e3f", "policies:read"),
    ("GET", "/v1/policy-file", "manage"),
    ("PUT", "/v1/policy-file", "manage"),
    ("GET", "/v1/deployments", "manage"),
    ("PUT", "/v1/deployments", "manage"),
    ("GET", "/v1/plans", "manage"),
    ("PUT", "/v1/plans/free", "manage"),
    ("DELETE", "/v1/plans/free", "manage"),
    ("GET", "/v1/boosts", "manage"),
    ("GET", "/v1/boosts/6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f", "manage"),
    ("PUT", "/v1/boosts/6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f", "manage"),
    ("DELETE", "/v1/boosts/6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f", "manage"),
    ("GET", "/v1/api-keys", "manage"),
    ("POST", "/v1/api-keys", "manage"),
    ("GET", "/v1/api-keys/0Jk3xPq9TzLm", "manage"),
    ("DELETE", "/v1/api-keys/0Jk3xPq9TzLm", "manage"),
    ("POST", "/v1/api-keys/0Jk3xPq9TzLm/rotate", "manage"),
    ("DELETE", "/v1/api-keys/0Jk3xPq9TzLm/old-secret", "manage"),
    ("GET", "/v1/prices", "manage"),
    ("PUT", "/v1/prices/openai/gpt-4o", "manage"),
    ("GET", "/v1/freeze", "manage"),
    ("PUT", "/v1/freeze", "manage"),
    ("GET", "/v1/models", "policies:read"),
    ("GET", "/v1/end-users/u1", "end_users:write"),
    ("PUT", "/v1/end-users/u1", "end_users:write"),
    ("DELETE", "/v1/end-users/u1", "end_users:write"),
    ("GET", "/v1/me", ANY_KEY),
]
READS = [path for verb, path, _ in CALLS if verb == "GET"]
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
BODIES = {
    "/v1/evaluate": {"user_id": "u", "model": "m"},
    "/v1/usage": {"request_id": "r", "user_id": "u", "model": "m", "input_tokens": 0, "output_tokens": 0},
    "/v1/usage/batch": {"events": [{}]},
    "/v1/policies/simulate": {"policies": {}},
    "/v1/boosts/6f1c1d2e-0b8f-4f4e-9a35-3d0a7f6f2e3f": {
        "per": "user",
        "subject": "u",
        "metric": "requests",
        "window": "day",
        "extra": 1,
        "ends_at": f"{timezone.now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        "reason": "Trial week",
    },
    "/v1/api-keys": {"name": "new", "scopes": ["manage"]},
    "/v1/api-keys/0Jk3xPq9TzLm/rotate": {"old_ends_in_s": 0},
    "/v1/prices/openai/gpt-4o": {
        "input_per_million": "1",
        "output_per_million": "2",
        "reason": "Our contract",
    },
    "/v1/deployments": {"deployments": {"team-chat": "gpt-4o"}},
    "/v1/freeze": {"environment": False, "features": []},
    "/v1/end-users/u1": {"plan": None, "blocked": False},
}


@pytest.mark.parametrize(("verb", "path", "scope"), CALLS)
def test_a_key_without_the_scope_is_refused(
    environment: Environment, verb: str, path: str, scope: str
) -> None:
    others = [other for other in SCOPES if other != scope]

    answer = caller_with(environment, *others).request(verb, path, BODIES.get(path, {}))

    if scope == ANY_KEY:
        assert answer.status == 200
    else:
        assert_problem(answer, 403, "INSUFFICIENT_SCOPE")
        assert scope in answer.json["detail"]


@pytest.mark.parametrize(("verb", "path", "scope"), CALLS)
def test_the_scope_alone_is_enough(environment: Environment, verb: str, path: str, scope: str) -> None:
    answer = caller_with(environment, scope or "evaluate").request(verb, path, BODIES.get(path, {}))

    assert answer.status in (200, 201, 204, 404), answer


@pytest.mark.parametrize(("verb", "path", "scope"), CALLS)
def test_without_a_valid_key_nothing_is_said(api: Api, verb: str, path: str, scope: str) -> None:
    for key in ("", "tv_prod_nonsense", api.text[:-1] + ("a" if api.text[-1] != "a" else "b")):
        stranger = Api.__new__(Api)
        stranger.text = key
        answer = stranger.request(verb, path, BODIES.get(path, {}))
        assert_problem(answer, 401, "INVALID_API_KEY")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", sorted({path for _, path, _ in CALLS}))
def test_another_verb_is_refused_and_the_right_ones_are_named(api: Api, path: str) -> None:
    known = {verb for verb, of, _ in CALLS if of == path}
    for verb in set(VERBS) - known:
        answer = api.request(verb, path, {})
        assert_problem(answer, 405, "METHOD_NOT_ALLOWED")
        assert known <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", READS)
def test_an_unknown_parameter_is_refused_by_name(api: Api, path: str) -> None:
    assert_problem(api.get(f"{path}?surprise=1"), 422, "VALIDATION_ERROR", field="surprise")


@pytest.mark.parametrize(
    "path",
    ["/v1/usage?user_id=a&user_id=b", "/v1/limits?user_id=a&user_id=b", "/v1/models?provider=a&provider=b"],
)
def test_a_parameter_given_twice_is_refused(api: Api, path: str) -> None:
    field = path.partition("?")[2].partition("=")[0]

    assert_problem(api.get(path), 422, "VALIDATION_ERROR", field=field)


@pytest.mark.parametrize("path", ["/v1/", "/v1/nothing", "/v1/evaluate/", "/v1/usage/x", "/v1/me/x", "/v1"])
def test_an_unknown_address_is_a_problem(api: Api, path: str) -> None:
    assert_problem(api.get(path), 404, "NOT_FOUND")
    assert_problem(api.post(path, {}), 404, "NOT_FOUND")


def test_a_defect_of_ours_is_a_problem_that_gives_nothing_away(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("usage.ledger.listing.page", broken)
    monkeypatch.setattr("django.test.client.Client.store_exc_info", lambda *args, **kwargs: None)

    answer = api.get("/v1/usage")

    assert_problem(answer, 500, "INTERNAL_ERROR")
    assert b"secret detail" not in answer.content


def test_outside_of_the_api_an_unknown_address_is_a_page(api: Api) -> None:
    answer = api.get("/nothing")

    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/html")
