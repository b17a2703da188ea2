"""`/v1/policies/simulate`: a short period is answered at once, a long one becomes a replay with an address."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from audit.models import Entry
from policies.api import simulations
from policies.blocked.decision_log import drain
from policies.changing import drafts
from policies.models import PolicyReplay
from policies.replaying.jobs import OPEN_MAX
from tenants.models import Environment
from tokvigil_site import tasks
from tokvigil_site.testing import Answer, Api, apply_policies, limits
from tokvigil_site.tests.callers import assert_problem

pytestmark = pytest.mark.django_db(transaction=True)

SIMULATE = "/v1/policies/simulate"
ONE_A_DAY: dict[str, Any] = {
    "policies": [
        {
            "name": "Everyone",
            "unknown_price": "allow",
            "limits": [{"metric": "requests", "window": "day", "amount": 1}],
        }
    ]
}


@pytest.fixture
def used(environment: Environment, api: Api) -> Environment:
    """Ana made three calls, and ben was blocked."""
    apply_policies(environment, limits("{metric: requests, window: day, amount: 3, per: user}"))
    for _ in range(3):
        api.use("ana")
    api.evaluate("ana")
    drain(environment)
    return environment


def simulate(api: Api, **body: Any) -> Answer:
    return api.post(SIMULATE, {"policies": ONE_A_DAY} | body)


def test_a_short_period_is_answered_at_once_and_stores_nothing(used: Environment, api: Api) -> None:
    before = Entry.objects.count()
    answer = simulate(api)
    assert answer.status == 200
    assert answer.json["calls"] == {
        "replayed": 4,
        "unchanged": 2,
        "newly_blocked": 2,
        "newly_allowed": 0,
        "undecidable": 0,
    }
    assert (PolicyReplay.objects.count(), Entry.objects.count()) == (0, before)


def test_it_answers_what_the_command_prints(used: Environment, api: Api, tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text("version: 1\n" + limits("{metric: requests, window: day, amount: 1, per: user}"))
    start, end = timezone.now() - timedelta(days=2), timezone.now()
    period = {"from": start.isoformat(), "to": end.isoformat()}
    options = ("--json", "--from", period["from"], "--to", period["to"])
    out = io.StringIO()
    call_command("simulate_policies", str(used), str(file), *options, stdout=out)
    assert simulate(api, **period).json == json.loads(out.getvalue())


def test_a_long_period_becomes_a_replay_with_an_address(
    used: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = simulate(api).json
    monkeypatch.setattr(simulations, "AT_ONCE_MAX", 3)
    answer = simulate(api)
    assert (answer.status, answer.json["state"], answer.json["calls_in_all"]) == (202, "waiting", 4)
    assert answer.headers["Location"] == f"/v1/policies/simulations/{answer.json['simulation_id']}"
    entry = Entry.objects.latest("pk")
    assert (entry.action, entry.actor) == ("replay.asked", f"key:{api.key.key_id}")

    tasks.run_replays()

    done = api.get(answer.headers["Location"]).json
    assert (done["state"], done["calls_done"], done["error"]) == ("done", 4, None)
    assert done["report"]["calls"] == at_once["calls"]
    assert done["report"].keys() == at_once.keys()
    assert [*done["report"]] == [*at_once], "in the same order"


@pytest.mark.parametrize("at_once_max", [20_000, 3])
def test_it_checks_itself_if_that_is_asked_for(
    used: Environment, api: Api, monkeypatch: pytest.MonkeyPatch, at_once_max: int
) -> None:
    """At once and stored alike."""
    monkeypatch.setattr(simulations, "AT_ONCE_MAX", at_once_max)
    for self_check in (True, False):
        answer = simulate(api, self_check=self_check)
        report = answer.json
        if answer.status == 202:
            assert answer.json["self_check"] is self_check
            tasks.run_replays()
            report = api.get(answer.headers["Location"]).json["report"]
        same = {"compared": 4, "same": 4, "differing": 0, "why": {}}
        assert report["self_check"] == (same if self_check else None)


def test_a_draft_is_simulated_by_its_id(used: Environment, api: Api) -> None:
    draft = drafts.begin(used, "Nothing", actor="test")
    drafts.leave_out(draft, "Everyone", edits=0, actor="test")
    answer = api.post(SIMULATE, {"draft": draft.pk})
    assert answer.json["calls"]["newly_allowed"] == 1


def test_a_draft_of_another_environment_is_not_there(used: Environment, other_api: Api) -> None:
    draft = drafts.begin(used, "Secret", actor="test")
    for draft_id in (draft.pk, draft.pk + 1000):
        assert_problem(other_api.post(SIMULATE, {"draft": draft_id}), 422, "VALIDATION_ERROR", field="draft")


def test_a_simulation_of_another_environment_is_not_there(
    used: Environment, api: Api, other_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulations, "AT_ONCE_MAX", 3)
    address = simulate(api).headers["Location"]
    assert api.get(address).status == 200
    assert_problem(other_api.get(address), 404, "NOT_FOUND")
    dev = Api(used.tenant.environments.get(slug="dev"))
    assert_problem(dev.get(address), 404, "NOT_FOUND")
    assert_problem(api.get("/v1/policies/simulations/7"), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "policies"),
        ({"policies": ONE_A_DAY, "draft": 1}, "policies"),
        ({"policies": ONE_A_DAY, "until": "2026-11-01"}, "until"),
        ({"policies": {"policy": []}}, "policies.policy"),
        ({"policies": {"policies": [{"name": "x", "limit": []}]}}, "policies.policies[0].limit"),
        ({"policies": {"version": 2}}, "policies.version"),
        ({"draft": "one"}, "draft"),
        ({"policies": ONE_A_DAY, "from": "2026-11-01"}, "from"),
        ({"policies": ONE_A_DAY, "from": "2999-01-01T00:00:00Z"}, "from"),
        ({"policies": ONE_A_DAY, "from": "2020-01-01T00:00:00Z"}, "from"),
        ({"policies": ONE_A_DAY, "from": "2020-01-02T00:00:00Z", "to": "2020-01-01T00:00:00Z"}, "from"),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_the_name_of_its_field(
    api: Api, body: dict[str, Any], field: str
) -> None:
    assert_problem(api.post(SIMULATE, body), 422, "VALIDATION_ERROR", field=field)


def test_so_many_wait_and_then_it_is_said_to_come_again(
    used: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulations, "AT_ONCE_MAX", 3)
    for _ in range(OPEN_MAX):
        assert simulate(api).status == 202
    answer = simulate(api)
    assert_problem(answer, 429, "RATE_LIMITED")
    assert answer.headers["Retry-After"] == "10"


def test_a_large_policy_file_is_taken(api: Api) -> None:
    policies = [{"name": f"Policy {number}", "scope": {"user": f"user-{number}"}} for number in range(2_000)]
    assert simulate(api, policies={"policies": policies}).status == 200
