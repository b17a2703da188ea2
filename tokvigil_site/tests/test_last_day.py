"""What policies would have decided of the last day is said while somebody waits, or why it is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from policies import policy_rows
from policies.blocked.decision_log import drain
from policies.changing import publishing
from policies.files.policy_file import parse
from policies.replaying import at_once
from policies.replaying.at_once import LastDay, Without, last_day
from policies.rules import ModelRules, PerRequest, PolicyRule
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def used(environment: Environment, api: Api) -> Environment:
    """Ana made two calls, ben one."""
    apply_policies(environment, "policies: [{name: Everyone, unknown_price: allow}]")
    for user in ("ana", "ana", "ben"):
        api.use(user)
    return environment


def denying(environment: Environment, *models: str) -> LastDay:
    rules = policy_rows.policy_set(environment).policies
    denied = [replace(rule, models=ModelRules(deny=models)) for rule in rules]
    return last_day(environment, policy_rows.supposed(environment.pk, denied))


def test_calls_with_a_model_that_is_newly_denied_are_found(used: Environment) -> None:
    report = denying(used, "test-*").report
    assert report is not None
    assert (report.calls.newly_blocked, report.users.newly_blocked) == (3, 2)
    assert [each.reason_code for each in report.reasons] == ["MODEL_DENIED"]


def test_calls_of_the_day_before_are_left_out(used: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    tomorrow = timezone.now() + timedelta(hours=25)
    monkeypatch.setattr("policies.replaying.at_once.timezone.now", lambda: tomorrow)
    found = denying(used, "test-*")
    assert found.report is not None
    assert found.report.calls.replayed == 0


def test_it_is_compared_with_what_is_in_force_and_not_with_what_was_then(used: Environment, api: Api) -> None:
    """One call a day is in force since; the draft allows three. What was asked for and blocked twice is one call."""
    limit = "policies: [{{name: Everyone, unknown_price: allow, limits: [{}]}}]"
    amount = "{{metric: requests, window: day, amount: {}, per: user}}"
    one, three, none = (
        parse("version: 1\n" + limit.format(amount.format(most))).policies for most in (1, 3, 0)
    )
    apply_policies(used, limit.format(amount.format(0)))
    for _ in range(2):
        api.evaluate("ana", request_id="again")
    drain(used)
    apply_policies(used, limit.format(amount.format(1)))

    def calls(rules: Iterable[PolicyRule]) -> tuple[int, int, int]:
        report = last_day(used, policy_rows.supposed(used.pk, rules)).report
        assert report is not None
        return report.calls.replayed, report.calls.newly_blocked, report.calls.newly_allowed

    assert calls(one) == (4, 0, 0), "whatever is in force changes nothing"
    assert calls(three) == (4, 0, 2), "asked twice, it is one call"
    assert calls(none) == (4, 2, 0), "what is blocked already is not newly blocked"


def test_a_lower_cap_on_output_cuts_short_what_the_cap_in_force_does_not(used: Environment, api: Api) -> None:
    for tokens in (10, 200, 900):
        api.use("ana", max_output_tokens=tokens)
    capped = replace(
        policy_rows.policy_set(used).policies[0], per_request=PerRequest(output_tokens=100), name="Everyone"
    )

    def cut_short(rule: PolicyRule) -> int:
        report = last_day(used, policy_rows.supposed(used.pk, [rule])).report
        assert report is not None
        return report.cut_short

    assert cut_short(capped) == 2
    publishing.publish_one(used, capped, actor="test", policy_id=used.policies.get().pk)
    assert cut_short(capped) == 0
    assert cut_short(replace(capped, per_request=PerRequest(output_tokens=5))) == 3


def test_more_calls_than_are_replayed_at_once_are_counted_alone(
    used: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_once, "AT_ONCE_MAX", 3)
    assert denying(used).report is not None
    monkeypatch.setattr(at_once, "AT_ONCE_MAX", 2)
    found = denying(used)
    assert (found.report, found.without, found.calls) == (None, Without.TOO_MANY, 3)


def test_a_replay_that_takes_too_long_is_given_up(used: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.replaying.replay.STEP", 1)
    monkeypatch.setattr(at_once, "WAIT_S", 0)
    found = denying(used)
    assert (found.report, found.without, found.calls) == (None, Without.TOO_SLOW, 3)


def test_a_statement_that_takes_too_long_is_given_up_and_undoes_nothing(
    used: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*_args: object) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(5)")
        raise AssertionError("nobody waits for it")

    monkeypatch.setattr(at_once, "STATEMENT_MS", 20)
    monkeypatch.setattr("policies.replaying.past_calls.count", slowly)
    found = denying(used)
    assert (found.without, found.calls) == (Without.TOO_SLOW, None)
    assert used.policies.count() == 1


def test_a_replay_that_fails_says_so(used: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> LastDay:
        def fail(*_args: object, **_named: object) -> None:
            raise error

        monkeypatch.setattr(at_once, "replay", fail)
        return denying(used)

    assert failing(ZeroDivisionError()).without is Without.FAILED
    assert failing(OperationalError()).without is Without.TOO_SLOW
