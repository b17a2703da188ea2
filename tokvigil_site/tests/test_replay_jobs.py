"""Stored replays: each ends in one of its states, whatever becomes of the workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from audit.models import Entry
from policies.changing import drafts
from policies.files import policy_file
from policies.models import PolicyReplay, ReplayState
from policies.replaying import jobs, past_calls
from policies.replaying.jobs import ATTEMPTS_MAX, DEAD_AFTER, KEPT_MAX, OPEN_MAX, Candidate
from policies.replaying.past_calls import PastCall
from tenants.models import Environment
from tokvigil_site import tasks
from tokvigil_site.testing import Api, apply_policies, limits

pytestmark = pytest.mark.django_db(transaction=True)

ONE_A_DAY = limits("{metric: requests, window: day, amount: 1, per: user}")


def candidate(text: str = ONE_A_DAY) -> Candidate:
    return Candidate(policies=policy_file.parse("version: 1\n" + text), source="one.yaml")


def ask(environment: Environment, of: Candidate | None = None) -> PolicyReplay:
    now = timezone.now()
    start, end = now - timedelta(days=1), now + timedelta(minutes=1)
    return jobs.ask(environment, of or candidate(), start, end, actor="admin:mia")


@pytest.fixture
def used(environment: Environment, api: Api) -> Environment:
    """Ana made three calls."""
    for _ in range(3):
        api.use("ana")
    return environment


def while_reading(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
    """What happens after the first call of a run was read."""
    read = past_calls.read

    def slow(*period: Any) -> Any:
        for number, call in enumerate(read(*period)):
            yield call
            if number == 0:
                happens()

    monkeypatch.setattr(past_calls, "read", slow)


def told_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.replaying.replay.STEP", 1)
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0)


def test_a_replay_waits_runs_and_is_done(used: Environment) -> None:
    asked = ask(used)
    assert (asked.state, asked.calls_done, asked.calls_in_all) == (ReplayState.WAITING, 0, 3)

    tasks.run_replays()

    asked.refresh_from_db()
    assert (asked.state, asked.calls_done, asked.error) == (ReplayState.DONE, 3, "")
    assert asked.started_at is not None
    assert asked.finished_at is not None
    report = jobs.report_of(asked)
    assert report is not None
    assert (report.calls.newly_blocked, report.calls.unchanged) == (2, 1)


def test_asking_leaves_one_entry_that_says_who_and_which_period(used: Environment) -> None:
    before = Entry.objects.count()
    asked = ask(used)
    tasks.run_replays()
    entry = Entry.objects.latest("pk")
    assert Entry.objects.count() == before + 1
    assert (entry.action, entry.actor, entry.target_name) == ("replay.asked", "admin:mia", "one.yaml")
    assert entry.data["period"] == f"{asked.start.isoformat()} to {asked.end.isoformat()}"
    assert entry.data["environment"] == "prod"


def test_a_draft_is_replayed_as_it_was_when_it_was_asked_for(used: Environment) -> None:
    apply_policies(used, ONE_A_DAY)
    draft = drafts.begin(used, "Tighter", actor="test")
    asked = ask(used, Candidate.of_draft(draft))
    drafts.leave_out(draft, "Everyone", edits=0, actor="test")

    tasks.run_replays()

    asked.refresh_from_db()
    report = jobs.report_of(asked)
    assert report is not None
    assert report.calls.newly_blocked == 2
    assert (asked.source, asked.draft, asked.draft_edits) == ("Tighter", draft, 0)


def test_progress_is_told_while_it_runs(used: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    told_at_each_call(monkeypatch)
    asked = ask(used)
    seen = []
    compare = "policies.replaying.replay.Comparing.compare"
    monkeypatch.setattr(
        compare, lambda *_: seen.append(PolicyReplay.objects.values_list("state", "calls_done").get())
    )
    tasks.run_replays()
    assert seen == [("running", 0), ("running", 1), ("running", 2)]
    asked.refresh_from_db()
    assert asked.heartbeat_at is not None


def test_progress_is_written_at_most_once_a_second(
    used: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policies.replaying.replay.STEP", 1)
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(jobs, "_write", lambda claimed, **columns: written.append(columns))
    ask(used)
    tasks.run_replays()
    assert [columns["state"] for columns in written] == [ReplayState.DONE]


def test_a_replay_that_waits_is_cancelled_and_never_run(used: Environment) -> None:
    asked = ask(used)
    assert jobs.cancel(asked, actor="admin:mia")
    assert not jobs.cancel(asked, actor="admin:mia")
    assert Entry.objects.filter(action="replay.cancelled").count() == 1

    tasks.run_replays()

    asked.refresh_from_db()
    assert (asked.state, asked.attempts, asked.report) == (ReplayState.CANCELLED, 0, None)


def test_a_replay_that_runs_is_cancelled_and_ends(used: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    told_at_each_call(monkeypatch)
    asked = ask(used)
    while_reading(monkeypatch, lambda: jobs.cancel(asked, actor="admin:mia"))
    compared: list[PastCall] = []
    monkeypatch.setattr(
        "policies.replaying.replay.Comparing.compare", lambda self, call: compared.append(call)
    )
    tasks.run_replays()
    asked.refresh_from_db()
    assert (asked.state, asked.report) == (ReplayState.CANCELLED, None)
    assert len(compared) < 3


def test_a_replay_whose_worker_died_is_begun_again(used: Environment) -> None:
    asked = ask(used)
    dead = jobs._claim()
    assert dead is not None

    tasks.run_replays()
    asked.refresh_from_db()
    assert asked.state == ReplayState.RUNNING, "its worker may still live"

    PolicyReplay.objects.update(heartbeat_at=timezone.now() - DEAD_AFTER)
    tasks.run_replays()
    asked.refresh_from_db()
    assert (asked.state, asked.attempts) == (ReplayState.DONE, 2)


def test_a_worker_that_was_taken_for_dead_writes_nothing_any_more(used: Environment) -> None:
    asked = ask(used)
    slow = jobs._claim()
    assert slow is not None
    PolicyReplay.objects.update(heartbeat_at=timezone.now() - DEAD_AFTER)
    other = jobs._claim()
    assert other is not None

    jobs._run(slow)

    asked.refresh_from_db()
    assert (asked.state, asked.run, asked.report) == (ReplayState.RUNNING, other.run, None)


def test_a_replay_that_ends_its_worker_each_time_fails(used: Environment) -> None:
    asked = ask(used)
    for _ in range(ATTEMPTS_MAX):
        assert jobs._claim() is not None
        PolicyReplay.objects.update(heartbeat_at=timezone.now() - DEAD_AFTER)
    tasks.run_replays()
    asked.refresh_from_db()
    assert asked.state == ReplayState.FAILED
    assert "ended before it was done" in asked.error
    assert asked.finished_at is not None


def test_what_breaks_a_replay_is_said(used: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(jobs, "replay", broken)
    asked = ask(used)
    tasks.run_replays()
    asked.refresh_from_db()
    assert asked.state == ReplayState.FAILED
    assert "RuntimeError" in asked.error
    assert "secret detail" not in asked.error


def test_two_workers_at_once_run_one_replay_once(used: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, next_one = ask(used), ask(used)
    second: list[PolicyReplay | None] = []

    def other_worker() -> None:
        try:
            second.append(jobs.run_next())
        finally:
            connection.close()

    def meanwhile() -> None:
        thread = threading.Thread(target=other_worker)
        thread.start()
        thread.join(timeout=10)

    while_reading(monkeypatch, meanwhile)
    tasks.run_replays()
    assert second == [None]
    assert dict(PolicyReplay.objects.values_list("pk", "state")) == {
        asked.pk: ReplayState.DONE,
        next_one.pk: ReplayState.WAITING,
    }


def test_an_environment_has_so_many_open_and_keeps_so_many(used: Environment) -> None:
    for _ in range(OPEN_MAX):
        ask(used)
    with pytest.raises(jobs.TooMany):
        ask(used)
    PolicyReplay.objects.update(state=ReplayState.DONE)
    oldest = PolicyReplay.objects.earliest("asked_at")
    for _ in range(KEPT_MAX - OPEN_MAX):
        ask(used)
        PolicyReplay.objects.update(state=ReplayState.DONE)
    assert PolicyReplay.objects.count() == KEPT_MAX
    newest = ask(used)
    assert PolicyReplay.objects.count() == KEPT_MAX
    assert PolicyReplay.objects.filter(pk=newest.pk).exists()
    assert not PolicyReplay.objects.filter(pk=oldest.pk).exists()


def test_those_of_another_environment_are_not_counted(
    used: Environment, other_environment: Environment
) -> None:
    for _ in range(OPEN_MAX):
        ask(used)
    assert ask(other_environment).state == ReplayState.WAITING


def test_a_report_of_another_version_is_no_report(used: Environment) -> None:
    asked = ask(used)
    tasks.run_replays()
    PolicyReplay.objects.update(report={"calls": 3})
    asked.refresh_from_db()
    assert jobs.report_of(asked) is None
