"""A change binds the very next call of every process, or is said not to.

Whatever becomes of the store, of PostgreSQL and of the process that made it. No worker runs here, so nothing is made
good by its schedule.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from policies.end_users import set_end_user
from tenants import freezing, missed, revisions
from tenants.models import Environment, Tenant
from tokvigil_site import tasks
from tokvigil_site.embedded import stack, state
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.applications import monthly
from tokvigil_site.tests.servers import (
    CHECKOUT,
    WebApi,
    WebProcess,
    await_true,
    leave_servers,
    manage,
    web_processes,
)
from tokvigil_site.tests.test_hot_path import sql_counted
from usage.counting.store import store

WATCHED_WITHIN_S = 4.0
PLANS = """
plans: [free, pro]
policies:
  - {name: Free, scope: {plan: free}, unknown_price: allow, limits: [{metric: requests, window: day, amount: 100}]}
  - {name: Pro, scope: {plan: pro}, unknown_price: allow, limits: [{metric: requests, window: day, amount: 900}]}
"""


@contextmanager
def full_store() -> Iterator[None]:
    """Its memory is full: it refuses what needs more, and serves reads."""
    store.client.config_set("maxmemory", 1000)
    try:
        yield
    finally:
        store.client.config_set("maxmemory", 0)


@contextmanager
def read_only_store() -> Iterator[None]:
    """It refuses every write and serves reads, as one that has lost its replicas or its disk."""
    store.client.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        store.client.config_set("min-replicas-to-write", 0)


Reason = Callable[[Api], object]


def reason(api: Api) -> object:
    answer = api.post("/v1/evaluate", {"user_id": "user_1", "model": "m", "dry_run": True})
    return answer.json["reason_code"] if answer.status == 200 else answer.status


CHANGES: dict[str, tuple[Callable[[Environment, Api], object], object]] = {
    "freeze": (lambda environment, _: freezing.freeze(environment, actor="test"), "ENVIRONMENT_FROZEN"),
    "revocation": (lambda _, api: api.key.revoke(), 401),
    "policies": (
        lambda environment, _: apply_policies(environment, monthly(0)),
        "MONTHLY_REQUEST_LIMIT_EXCEEDED",
    ),
    "end user": (
        lambda environment, _: set_end_user(
            environment, "user_1", plan_name=None, blocked=True, actor="test"
        ),
        "USER_BLOCKED",
    ),
}
CHANGE = pytest.mark.parametrize("change", CHANGES)


@pytest.fixture
def api_there(environment_there: Environment) -> Api:
    apply_policies(environment_there, monthly(1000))
    return Api(environment_there)


@pytest.fixture
def warm(api_there: Api, processes: list[WebProcess]) -> list[WebApi]:
    """The key in two web processes that know the environment and its user."""
    apis = [WebApi(api_there, process.port) for process in processes]
    for _ in range(2):
        assert [reason(api) for api in apis] == ["ALLOWED"] * 2
    return apis


@CHANGE
def test_a_change_binds_the_next_call_though_the_store_is_full(
    warm: list[WebApi],
    environment_there: Environment,
    change: str,
) -> None:
    make, expected = CHANGES[change]
    with full_store():
        make(environment_there, warm[0])
    assert [reason(api) for api in warm] == [expected] * 2
    assert missed.noted(environment_there.pk) == []
    assert "is in force everywhere" in str(revisions.standing(environment_there))


@CHANGE
def test_a_change_made_while_the_store_is_full_binds_the_calls_of_that_time(
    warm: list[WebApi],
    environment_there: Environment,
    change: str,
) -> None:
    make, expected = CHANGES[change]
    with full_store():
        make(environment_there, warm[0])
        found = [reason(api) for api in warm]
    # Without a counter the limit itself cannot be seen; whatever needs none can.
    assert found == [expected] * 2 or (change == "policies" and set(found) == {"DEGRADED_BLOCKED"})


@CHANGE
def test_a_change_that_the_store_refuses_is_said_not_to_be_in_force_until_it_is(
    warm: list[WebApi],
    environment_there: Environment,
    change: str,
) -> None:
    make, expected = CHANGES[change]
    with read_only_store():
        make(environment_there, warm[0])
        assert [miss.what for miss in missed.noted(environment_there.pk)] == [missed.CHANGE]
        if change != "end user":
            assert "NOT in force everywhere" in str(revisions.standing(environment_there))

    def binds() -> bool:
        return [reason(api) for api in warm] == [expected] * 2

    print(f"in force {await_true(binds, within_s=WATCHED_WITHIN_S):.2f} s after the store took writes again")
    await_true(lambda: missed.noted(environment_there.pk) == [], within_s=WATCHED_WITHIN_S)
    assert "is in force everywhere" in str(revisions.standing(environment_there))


DYING = """
    import os, signal, sys
    import django
    django.setup()
    from django.db import transaction
    from policies.end_users import set_end_user
    from tenants import freezing
    from tenants.models import Environment
    environment = Environment.objects.get(pk=int(sys.argv[1]))
    with transaction.atomic():
        transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        if sys.argv[2] == "freeze":
            freezing.freeze(environment, actor="test")
        else:
            set_end_user(environment, "user_1", plan_name=None, blocked=True, actor="test")
"""


@pytest.mark.parametrize("change", ["freeze", "end user"])
def test_a_process_that_dies_as_it_commits_loses_no_change(
    warm: list[WebApi],
    environment_there: Environment,
    variables: Mapping[str, str],
    change: str,
) -> None:
    named = {**os.environ, **variables, "DJANGO_SETTINGS_MODULE": "tokvigil_site.settings"}
    command = [sys.executable, "-c", textwrap.dedent(DYING), str(environment_there.pk), change]
    ended = subprocess.run(command, env=named, cwd=CHECKOUT, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    expected = CHANGES[change][1]
    assert [reason(api) for api in warm] == [expected] * 2


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
def test_while_a_change_is_under_way_calls_are_decided_as_before(
    warm: list[WebApi],
    environment_there: Environment,
    outcome: str,
) -> None:
    with transaction.atomic():
        freezing.freeze(environment_there, actor="test")
        set_end_user(environment_there, "user_2", plan_name=None, blocked=True, actor="test")
        for api in warm:
            for user in ("user_1", "user_2"):
                decision = api.evaluate(user)
                assert (decision["allowed"], decision["degraded"]) == (True, False)
                assert api.report(decision["request_id"], user).status == 201
        transaction.set_rollback(outcome == "rollback")
    expected = "ALLOWED" if outcome == "rollback" else "ENVIRONMENT_FROZEN"
    assert [reason(api) for api in warm] == [expected] * 2
    blocked = [api.evaluate("user_2", dry_run=True)["reason_code"] == "USER_BLOCKED" for api in warm]
    assert blocked == [False] * 2  # frozen comes first, or neither came about
    changing = store.client.hget(revisions.environment_key(environment_there.pk), "changing")
    assert changing is None


def test_a_change_in_a_part_of_a_transaction_that_is_taken_back_changes_nothing(
    api: Api, environment: Environment
) -> None:
    apply_policies(environment, monthly(1000))
    assert reason(api) == "ALLOWED"
    with transaction.atomic():
        try:
            with transaction.atomic():
                freezing.freeze(environment, actor="test")
                raise ZeroDivisionError
        except ZeroDivisionError:
            apply_policies(environment, monthly(2000))
    decision = api.evaluate(dry_run=True)
    assert (decision["allowed"], decision["limit_state"][0]["limit"]) == (True, 2000)


def test_a_change_made_while_the_store_hangs_binds_a_process_that_did_not_notice(
    servers: Stack,
    warm: list[WebApi],
    environment_there: Environment,
) -> None:
    pid = stack.status(servers.home).valkey_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        freezing.freeze(environment_there, actor="test")
        assert revisions.standing(environment_there).in_force is None
    finally:
        os.kill(pid, signal.SIGCONT)

    def binds() -> bool:
        return [reason(api) for api in warm] == ["ENVIRONMENT_FROZEN"] * 2

    await_true(binds, within_s=WATCHED_WITHIN_S)


# PostgreSQL loses its last commit


class Backup:
    """PostgreSQL's data as it was, to be put back."""

    def __init__(self, servers: Stack, folder: Path) -> None:
        known = state.read(servers.home)
        assert known is not None
        self._servers, self._copy = servers, folder / "backup"
        self._data = Path(known.data) / "postgres"
        with self._stopped():
            shutil.copytree(self._data, self._copy)

    def put_back(self) -> None:
        with self._stopped():
            owner = self._data.stat()
            shutil.rmtree(self._data)
            shutil.copytree(self._copy, self._data)
            for path in (self._data, *self._data.rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid)
            self._data.chmod(0o700)

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        self._servers.stop_postgres()
        try:
            yield
        finally:
            self._servers.start_postgres()
            leave_servers()


def limit_of(api: Api) -> tuple[bool, int]:
    decision = api.evaluate(dry_run=True)
    return decision["degraded"], decision["limit_state"][0]["limit"]


@pytest.mark.parametrize("edited_again", [False, True])
def test_a_lost_commit_is_survived_by_old_and_new_processes(
    servers: Stack,
    variables: Mapping[str, str],
    tmp_path: Path,
    edited_again: bool,
) -> None:
    leave_servers()
    mine, other = (
        Tenant.create_with_environments(f"t-{time.time_ns()}").environments.get(slug="prod") for _ in range(2)
    )
    for environment in (mine, other):
        apply_policies(environment, monthly(1000))
    api, others = Api(mine), Api(other)
    held = api.evaluate()["request_id"]
    backup = Backup(servers, tmp_path)
    with web_processes(1, tmp_path, variables) as started:
        old = WebApi(api, started[0].port)
        apply_policies(mine, monthly(2000))
        assert limit_of(old) == (False, 2000)
        lost = Environment.objects.get(pk=mine.pk).revision
        backup.put_back()
        if edited_again:
            apply_policies(Environment.objects.get(pk=mine.pk), monthly(0))
            assert Environment.objects.get(pk=mine.pk).revision == lost
        expected = (False, 0 if edited_again else 1000)
        with web_processes(1, tmp_path, variables) as fresh:
            new = WebApi(api, fresh[0].port)
            if edited_again:
                assert limit_of(old) == expected
            assert limit_of(new) == expected
            assert limit_of(old) == expected
            # A report of the environment troubles nobody else.
            assert new.report(held).status == 201
            neighbour = WebApi(others, fresh[0].port)
            assert [neighbour.evaluate(dry_run=True)["degraded"] for _ in range(6)] == [False] * 6
        assert manage("rebuild_counters", str(mine), variables=variables)
        assert limit_of(old) == expected
        manage("check_counters", str(mine), variables=variables)


def test_old_processes_find_out_that_a_commit_was_lost_by_themselves(
    servers: Stack,
    warm: list[WebApi],
    environment_there: Environment,
    tmp_path: Path,
) -> None:
    backup = Backup(servers, tmp_path)
    apply_policies(environment_there, monthly(2000))
    assert [limit_of(api) for api in warm] == [(False, 2000)] * 2
    backup.put_back()
    await_true(lambda: [limit_of(api) for api in warm] == [(False, 1000)] * 2, within_s=WATCHED_WITHIN_S)


def test_beat_finds_a_lost_commit_too(api: Api, environment: Environment) -> None:
    apply_policies(environment, monthly(1000))
    assert api.evaluate(dry_run=True)["allowed"]
    # As if PostgreSQL had gone back.
    Environment.objects.filter(pk=environment.pk).update(
        revision=environment.revision, revision_token="of-before"
    )
    tasks.publish_revisions()
    with sql_counted() as queries:
        assert api.evaluate(dry_run=True)["allowed"]
    assert len(queries) > 0
    tasks.publish_revisions()
    with sql_counted() as queries:
        assert api.evaluate(dry_run=True)["allowed"]
    assert len(queries) == 0


# Many environments at once


def test_a_change_of_all_environments_is_one_update_and_one_announcement(
    api: Api, other_api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (api, other_api):
        assert each.evaluate(dry_run=True)["allowed"]
    told: list[Sequence[str]] = []
    announce = revisions.announce

    def spy(keys: Sequence[str], *more: Any) -> bool:
        told.append(keys)
        return announce(keys, *more)

    monkeypatch.setattr(revisions, "announce", spy)
    before = dict(Environment.objects.values_list("pk", "revision"))
    with CaptureQueriesContext(connection) as queries:
        revisions.bump_all()
    statements = [query["sql"] for query in queries if "UPDATE" in query["sql"]]
    assert len(statements) == 1
    assert [len(keys) for keys in told] == [len(before)] == [6]
    after = dict(Environment.objects.values_list("pk", "revision"))
    assert after == {pk: revision + 1 for pk, revision in before.items()}
    assert len(set(Environment.objects.values_list("revision_token", flat=True))) == len(before)
    for each in (api, other_api):
        with sql_counted() as asked:
            assert each.evaluate(dry_run=True)["allowed"]
        assert len(asked) > 0


def test_bumps_of_one_and_of_all_at_once_never_deadlock(environment: Environment) -> None:
    failures: list[BaseException] = []

    def bump(number: int) -> None:
        try:
            for _ in range(15):
                with transaction.atomic():
                    revisions.bump_all() if number % 2 else revisions.bump(environment.pk)
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=bump, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_is_announced_stays_small(environment: Environment) -> None:
    for _ in range(50):
        revisions.bump(environment.pk)
    changing = store.client.hget(revisions.environment_key(environment.pk), "changing")
    assert len(changing.split()) == 8


def test_a_key_that_changed_has_no_policy_compiled_again(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from policies.deciding import snapshot

    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    assert api.evaluate(dry_run=True)["allowed"]
    compiled = snapshot.current(environment.pk).compiled
    other = Api(environment)
    assert other.evaluate(dry_run=True)["allowed"]
    freezing.freeze(environment, features=["chat"], actor="test")
    assert reason(other) == "ALLOWED"
    assert other.evaluate(feature="chat", dry_run=True)["reason_code"] == "FEATURE_FROZEN"
    assert snapshot.current(environment.pk).compiled is compiled
    apply_policies(environment, limits("{metric: requests, window: day, amount: 6, per: user}"))
    assert other.evaluate(dry_run=True)["limit_state"][0]["limit"] == 6
    assert snapshot.current(environment.pk).compiled is not compiled


@pytest.mark.parametrize("told", [True, False])
def test_the_admin_says_whether_a_change_is_in_force(
    api: Api, environment: Environment, client: Client, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    apply_policies(environment, monthly(1000))
    assert reason(api) == "ALLOWED"
    client.force_login(User.objects.create_superuser("root"))
    if not told:
        monkeypatch.setattr(revisions, "announce", lambda *arguments: False)
    page = f"{reverse('admin:freeze')}?environment={environment}"
    form = {"whole": "environment", "feature": "", "all_calls": "on", "reason": "It runs away."}
    said = client.post(page, form, follow=True)
    shown = client.get(reverse("admin:tenants_environment_change", args=[environment.pk]))
    words = "from the very next call on" if told else "but not for every call yet"
    assert f"is frozen, {words}" in said.content.decode()
    expected = "is in force everywhere" if told else "is NOT in force everywhere yet"
    assert re.search(rf"Revision \d+ of [\d :-]+ UTC {expected}", shown.content.decode())
    # The next call of a process that is told something was missed makes good for it.
    tasks.publish_revisions()
    assert reason(api) == "ENVIRONMENT_FROZEN"
    assert "is in force everywhere" in str(revisions.standing(environment))
