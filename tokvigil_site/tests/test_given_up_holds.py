"""The store carries an evaluate out, but answers too late: a blocked call keeps no hold, an allowed one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from tenants.models import Environment
from tokvigil_site import watching
from tokvigil_site.testing import Answer, Api, apply_policies, assert_settled, later
from tokvigil_site.tests.applications import monthly
from usage.counting.reservations import open_count
from usage.counting.store import SCRIPTS, IdleConnections
from usage.settling import given_up


@contextmanager
def late_answers(
    monkeypatch: pytest.MonkeyPatch, script: str, then: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """The store does as it is told, and its answers to this script come after its callers gave up."""
    execute: Callable[..., Any] = IdleConnections.execute

    def unheard(self: IdleConnections, *command: Any) -> Any:
        answer = execute(self, *command)
        if command[1] == SCRIPTS[script].sha:
            then()
            raise RedisTimeoutError("Timeout reading from socket")
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(IdleConnections, "execute", unheard)
        yield


def evaluate_unheard(api: Api, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> dict[str, Any]:
    # Whatever has to be read first.
    api.evaluate(dry_run=True)
    with late_answers(monkeypatch, "reserve"):
        decision = api.evaluate(**fields)
    assert decision["degraded"]
    return decision


@pytest.fixture(autouse=True)
def policies(environment: Environment) -> None:
    apply_policies(environment, monthly(10))


def holds(environment: Environment) -> int:
    return open_count(environment.pk)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was given up can still be under way to the store."""
    monkeypatch.setattr(given_up, "UNDER_WAY_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_blocked_call_keeps_no_hold(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not evaluate_unheard(api, monkeypatch)["allowed"]
    assert holds(environment) == 1

    watching.look()

    assert_settled(environment)


@pytest.mark.usefixtures("at_once")
def test_a_blocked_call_is_not_charged_as_its_hold_expires(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, monthly(10, on_unsettled="charge"))
    assert not evaluate_unheard(api, monkeypatch)["allowed"]
    assert holds(environment) == 1
    later(minutes=11)

    watching.look()

    assert_settled(environment)
    assert api.evaluate(dry_run=True)["limit_state"][0]["used"] == 0


@pytest.mark.usefixtures("at_once")
def test_an_allowed_call_keeps_its_hold(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, monthly(10, on_unavailable="allow"))
    assert evaluate_unheard(api, monkeypatch)["allowed"]

    watching.look()

    assert holds(environment) == 1


@pytest.mark.usefixtures("at_once")
def test_a_call_that_was_asked_again_and_allowed_keeps_its_hold(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not evaluate_unheard(api, monkeypatch, request_id="again")["allowed"]
    assert api.evaluate(request_id="again")["allowed"]

    watching.look()

    assert holds(environment) == 1


@pytest.mark.parametrize("fields", [{}, {"dry_run": True}])
@pytest.mark.usefixtures("at_once")
def test_a_call_that_was_allowed_before_keeps_its_hold(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    assert api.evaluate(request_id="again")["allowed"]
    assert not evaluate_unheard(api, monkeypatch, request_id="again", **fields)["allowed"]

    watching.look()

    assert holds(environment) == 1


def test_what_may_still_be_under_way_is_given_back_later(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_unheard(api, monkeypatch)

    watching.look()
    assert holds(environment) == 1

    monkeypatch.setattr(given_up, "UNDER_WAY_S", 0.0)
    watching.look()
    assert_settled(environment)


@pytest.mark.usefixtures("at_once")
def test_a_store_that_is_away_again_is_asked_again(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_unheard(api, monkeypatch)

    def away(_self: IdleConnections, *_command: Sequence[Any]) -> Any:
        raise RedisTimeoutError("Timeout reading from socket")

    with monkeypatch.context() as patched:
        patched.setattr(IdleConnections, "execute", away)
        watching.look()
    assert holds(environment) == 1

    watching.look()
    assert_settled(environment)


@pytest.mark.usefixtures("at_once")
def test_a_key_that_was_revoked_meanwhile_leaves_no_hold(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.evaluate(dry_run=True)
    with late_answers(monkeypatch, "reserve", then=api.key.revoke):
        answer: Answer = api.post("/v1/evaluate", {"user_id": "user_1", "model": "test-model"})
    assert answer.status == 401
    assert holds(environment) == 1

    watching.look()

    assert_settled(environment)
