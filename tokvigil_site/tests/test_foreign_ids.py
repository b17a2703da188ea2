"""Ids of another tenant, and of another environment of one's own, at every operation of the API.

They are answered exactly as ids that nobody has, and what they name stays as it is. The operations and what they take
are those of the OpenAPI document, so none can be forgotten: what an unknown parameter is filled with is said in `Ids`.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import yaml
from django.utils import timezone

from policies.models import Boost, Policy, PolicyReplay
from tenants.api import cursors
from tenants.models import ApiKey, Environment, Tenant
from tenants.scopes import PRESETS
from tokvigil_site import openapi
from tokvigil_site.testing import Answer, Api
from tokvigil_site.tests import stored_rows
from tokvigil_site.tests.callers import assert_problem
from tokvigil_site.tests.console import rows_of_a_tenant
from tokvigil_site.tests.test_every_endpoint import ANY_KEY, CALLS
from usage.counting.reservations import open_count

MARK, NOBODY = "quagga", "nobody"
# What is no id, and what it is asked with.
NO_IDS = {
    "format": "jsonl",
    "rank_by": "cost_usd",
    "top": "5",
    "token_parts": "true",
    "limit": "1",
    "revoked": "true",
    "ended": "true",
    "allowed": "false",
    "per": "user",
    "reason_code": "USER_BLOCKED",
    "provider": "openai",
    "status": "succeeded",
    "from": "2026-10-01T00:00:00Z",
    "to": "2026-11-30T00:00:00Z",
    "group_by": "user",
    "dry_run": "true",
    "metric": "requests",
    "window": "day",
    "of": "subjects",
}
# Prices are the tenant's, not an environment's.
OF_THE_TENANT = ("/v1/prices", "/v1/models")


@dataclass(frozen=True)
class Ids:
    """Whatever a caller may name."""

    user_id: str
    request_id: str
    policy_id: str
    key_id: str
    boost_id: str
    simulation_id: str
    name: str
    feature: str
    plan: str
    run_id: str
    model: str
    subject: str
    cursor: str

    @classmethod
    def made_up(cls) -> Ids:
        """As the ids of somebody would be that is not there."""
        cursor = cursors.write(datetime.now(UTC), 1)
        policy_id, boost_id, simulation_id = (str(uuid.uuid4()) for _ in range(3))
        return cls._named(NOBODY, policy_id, "0" * 12, boost_id, simulation_id, cursor)

    @classmethod
    def of(cls, environment: Environment) -> Ids:
        policy = Policy.objects.get(environment=environment)
        key, boost = ApiKey.objects.filter(environment=environment).earliest("pk"), Boost.objects.get()
        cursor = cursors.write(key.created_at + timedelta(days=1), key.pk)
        simulation = PolicyReplay.objects.get(environment=environment)
        return cls._named(MARK, str(policy.pk), key.key_id, str(boost.boost_id), str(simulation.pk), cursor)

    @classmethod
    def _named(
        cls, mark: str, policy_id: str, key_id: str, boost_id: str, simulation_id: str, cursor: str
    ) -> Ids:
        named = {
            "user_id": "user", "subject": "user", "name": "plan", "plan": "plan", "feature": "feature",
            "model": "model", "run_id": "run", "request_id": "held",
        }  # fmt: skip
        names = {field: f"{mark}-{noun}" for field, noun in named.items()}
        return cls(
            **names, policy_id=policy_id, key_id=key_id, boost_id=boost_id, simulation_id=simulation_id,
            cursor=cursor,
        )  # fmt: skip

    def value(self, name: str) -> str:
        return NO_IDS.get(name) or str(getattr(self, name))

    def unsaid(self, text: str, by: Api) -> str:
        """Without what the caller said itself, and where it belongs."""
        environment = by.environment
        text = text.replace(str(environment), "<environment>").replace(f'"{environment.tenant}"', "<tenant>")
        for each in fields(self):
            text = text.replace(str(getattr(self, each.name)), f"<{each.name}>")
        return text


@dataclass(frozen=True)
class Operation:
    verb: str
    path: str
    # Of the path, and of the query.
    parameters: tuple[str, ...]
    body: Any

    def asked(self, ids: Ids) -> Iterator[tuple[str, str, Any]]:
        """With no parameter of its query, and with each."""
        path = re.sub(r"{(\w+)}", lambda found: quote(ids.value(found[1]), safe=""), self.path)
        for query in ((), *((name,) for name in self.parameters)):
            asked = urlencode({name: ids.value(name) for name in query})
            yield self.verb, f"{path}?{asked}" if asked else path, _filled(self.body, ids)


def _filled(body: Any, ids: Ids) -> Any:
    if isinstance(body, list):
        return [_filled(each, ids) for each in body]
    if not isinstance(body, dict):
        return body
    known = {each.name for each in fields(ids)} - {"policy_id", "name"}
    return {
        name: ids.value(name) if name in known and isinstance(value, str) else _filled(value, ids)
        for name, value in body.items()
    }


# Where the document has no example.
BODIES = {
    "PUT /v1/end-users/{user_id}": {"plan": "free", "blocked": True},
    "PUT /v1/policy-file": {"plans": [], "policies": []},
    "POST /v1/usage/batch": {
        "events": [
            {
                "request_id": "r",
                "user_id": "u",
                "model": "m",
                "input_tokens": 1,
                "output_tokens": 1,
                "plan": "p",
            }
        ]
    },
    "POST /v1/reservations/{request_id}/extend": {"seconds": 60},
}


def operations() -> list[Operation]:
    found = []
    for path, methods in yaml.safe_load(openapi.document())["paths"].items():
        for method, described in methods.items():
            verb = method.upper()
            content = described.get("requestBody", {}).get("content", {}).get("application/json", {})
            examples = [example["value"] for example in content.get("examples", {}).values()]
            body = examples[0] if examples else BODIES.get(f"{verb} {path}")
            assert body is not None or not content, f"{verb} {path}: what is its body? Say it in BODIES."
            query = tuple(each["name"] for each in described.get("parameters", []) if each["in"] == "query")
            found.append(Operation(verb, path, query, _later(body)))
    return found


def _later(body: Any) -> Any:
    """What ends must end in the future."""
    if isinstance(body, dict) and "ends_at" in body:
        return body | {"ends_at": f"{timezone.now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"}
    return body


OPERATIONS = operations()


@pytest.fixture
def quagga(transactional_db: None, empty_store: None) -> Environment:
    """With a row of each kind, and a call in flight."""
    environment = rows_of_a_tenant.made(MARK)[Environment]
    assert isinstance(environment, Environment)
    Api(environment).evaluate(f"{MARK}-user", f"{MARK}-model", request_id=f"{MARK}-held")
    return environment


def said(answer: Answer, by: Api, ids: Ids) -> tuple[int, Any]:
    """A refusal but for whose it is, and of what was done only that it was."""
    text = ids.unsaid(answer.content.decode(), by)
    refusal = json.loads(text) if answer.status >= 400 else {}
    return answer.status, {name: text for name, text in refusal.items() if name != "request_id"}


def learned(
    operations: list[Operation], stranger: Api, theirs: Ids, other_stranger: Api, nobodys: Ids
) -> list[tuple[str, Any, Any]]:
    """Where what belongs to somebody is answered otherwise than what belongs to nobody, or is shown."""
    found = []
    for operation in operations:
        for asked, same in zip(operation.asked(theirs), operation.asked(nobodys), strict=True):
            answer, expected = stranger.request(*asked), other_stranger.request(*same)
            shown = MARK in theirs.unsaid(answer.content.decode() + str(answer.headers), stranger)
            if shown or said(answer, stranger, theirs) != said(expected, other_stranger, nobodys):
                found.append((f"{asked[0]} {asked[1]}", answer, expected))
    return found


def test_a_key_of_another_tenant_learns_nothing_and_changes_nothing(quagga: Environment) -> None:
    rivals = [Tenant.create_with_environments(f"rival{each}").environments.get(slug="prod") for each in "ab"]
    before = stored_rows.of(quagga.tenant)
    ids = Ids.of(quagga)
    assert learned(OPERATIONS, Api(rivals[0]), ids, Api(rivals[1]), Ids.made_up()) == []
    assert stored_rows.of(quagga.tenant) == before
    assert open_count(quagga.pk) == 1


def test_nor_does_one_of_another_environment_of_the_tenant(quagga: Environment) -> None:
    dev, staging = (Api(quagga.tenant.environments.get(slug=slug)) for slug in ("dev", "staging"))
    before = stored_rows.of(quagga)
    own = [each for each in OPERATIONS if not each.path.startswith(OF_THE_TENANT)]
    assert learned(own, dev, Ids.of(quagga), staging, Ids.made_up()) == []
    assert stored_rows.of(quagga) == before
    assert open_count(quagga.pk) == 1


def test_by_a_key_of_the_environment_itself_the_same_is_shown_and_changed(quagga: Environment) -> None:
    """The test above can fail."""
    before, ids = stored_rows.of(quagga), Ids.of(quagga)
    shown = set()
    api = Api(quagga)
    for operation in (each for each in OPERATIONS if each.verb == "GET"):
        for asked in operation.asked(ids):
            if MARK in ids.unsaid(api.request(*asked).content.decode(), api):
                shown.add(operation.path)
    assert {"/v1/policies", "/v1/policies/{policy_id}", "/v1/usage", "/v1/decisions", "/v1/boosts"} <= shown
    assert "/v1/policies/simulations/{simulation_id}" in shown
    for operation in OPERATIONS:
        # Revoked is the key that is named, not the one that calls.
        for asked in operation.asked(ids):
            api.request(*asked)
    after = stored_rows.of(quagga)
    changed = {name for name in after if after[name] != before[name]}
    assert {
        "tenants.ApiKey",
        "policies.Policy",
        "policies.Boost",
        "policies.EndUser",
        "audit.Entry",
    } <= changed
    assert open_count(quagga.pk) != 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_opens_what_its_scopes_say_and_nothing_else(environment: Environment, preset: str) -> None:
    api, ids, wrong = Api(environment, preset=preset), Ids.made_up(), []
    for operation in OPERATIONS:
        for verb, path, body in operation.asked(ids):
            answer = api.request(verb, path, body)
            scope = scope_of(operation)
            if (answer.status == 403) == (scope in (ANY_KEY, *PRESETS[preset])):
                wrong.append((verb, path, answer))
            elif answer.status == 403:
                assert_problem(answer, 403, "INSUFFICIENT_SCOPE")
    assert wrong == []


def scope_of(operation: Operation) -> str:
    """As test_every_endpoint.py says."""
    shape = re.compile(re.sub(r"{\w+}", "[^/]+", operation.path))
    (scope,) = {scope for verb, path, scope in CALLS if verb == operation.verb and shape.fullmatch(path)}
    return scope
