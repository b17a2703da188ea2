"""`manage.py up` starts again what died; calls get the designed answers meanwhile; none is lost or counted twice."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from redis import Redis

from tokvigil_site.embedded import stack
from tokvigil_site.tests.running.commands import (
    STOP_S_MAX,
    Command,
    Up,
    processes_of,
    servers_run,
    wait_until,
)

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")

BACK_S_MAX = 60.0
# Beat's shortest period is 5 s.
TASKS_S_MAX = 40.0
RULES = """
version: 1
policies:
  - name: Everyone
    on_unavailable: block
    unknown_price: allow
    limits:
      - {metric: requests, window: month, amount: 100000, per: environment}
      - {metric: tokens, window: month, amount: 100000000, per: user}
"""
# What calls may answer while it is down: all others are allowed and recorded.
MEANWHILE: dict[str, set[object]] = {
    "Valkey": {"DEGRADED_BLOCKED"},
    "PostgreSQL": {503},
    "web server": {"no answer"},
}
KILLED = ("Valkey", "PostgreSQL", "worker", "beat", "web server")


class Product:
    """A running `up` with a rule, and an application that uses it."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.used = 0
        self.seen: set[object] = set()
        rules = up.home.parent / f"{up.home.name}.yaml"
        rules.write_text(RULES)
        self.command("apply_policies", "demo/prod", str(rules))

    def command(self, *arguments: str) -> str:
        command = Command(self.up.home, *arguments)
        assert command.finish() == 0, command.output
        return command.output

    def call(self) -> None:
        """One call of the application: asked, and reported if it was allowed. `seen` has the answers that failed.

        What is not answered may hold something, so it is given back: a server may die between the two.
        """
        request_id = str(uuid4())
        question = {"request_id": request_id, "max_output_tokens": 5, "input_tokens": 10}
        status, decision = self.post("/v1/evaluate", question)
        if status == 200 and decision["reason_code"] == "ALLOWED":
            self.report({"request_id": request_id, "input_tokens": 10, "output_tokens": 5})
            self.used += 1
            return
        self.seen.add(decision.get("reason_code", status))
        if status == "no answer":
            nothing = {"input_tokens": 0, "output_tokens": 0}
            self.report({"request_id": request_id, "status": "cancelled", **nothing})

    def report(self, usage: dict[str, Any]) -> None:
        deadline = time.monotonic() + BACK_S_MAX
        while (status := self.post("/v1/usage", usage)[0]) not in {200, 201}:
            self.seen.add(status)
            assert time.monotonic() < deadline, self.up.output
            time.sleep(0.05)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int | str, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.up.port, timeout=10)
        headers = {"Authorization": f"Bearer {self.up.key}", "Content-Type": "application/json"}
        try:
            content = json.dumps({"user_id": "ana", "model": "m", **body})
            connection.request("POST", path, content, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return "no answer", {}
        finally:
            connection.close()

    def is_well(self) -> bool:
        try:
            ready = self.up.get("/readyz").status == 200
        except OSError:
            return False
        return (
            ready
            and self.post("/v1/evaluate", {"input_tokens": 1, "dry_run": True})[1].get("allowed") is True
        )

    def assert_well(self) -> None:
        """All answers, tasks are done, and every call that was made counts once."""
        assert wait_until(self.is_well, BACK_S_MAX), self.up.output
        self.call()
        assert tasks_go_on(self.up.home), self.up.output
        assert self.up.process.poll() is None, self.up.output
        said = self.command("check_counters", "demo/prod")
        assert "drift 0 of" in said
        assert "open reservations 0" in said
        key = {"Authorization": f"Bearer {self.up.key}"}
        (total,) = json.load(self.up.get("/v1/usage/summary?group_by=user", **key))["groups"]
        assert total["requests"] == self.used


@pytest.fixture(scope="module")
def product(new_home: Callable[[], Path]) -> Product:
    return Product(Up(new_home()))


def pid_of(home: Path, name: str) -> int | None:
    now = stack.status(home)
    if name in {"PostgreSQL", "Valkey"}:
        return now.postgres_pid if name == "PostgreSQL" else now.valkey_pid
    word = "-m granian" if name == "web server" else f" {name} "
    # Its own children have later numbers and the same command line.
    return min((pid for pid, line in processes_of(home).items() if word in line), default=None)


def store_of(home: Path) -> Any:
    """redis-py has no types for all that is asked of it here."""
    _, valkey = stack.servers(home)
    return Redis.from_url(valkey.url)


def tasks_go_on(home: Path) -> bool:
    """Beat sends, and the worker takes."""
    store = store_of(home)

    def sent() -> int:
        return int(store.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"])

    before = sent()
    with Celery(broker=stack.servers(home)[1].url) as asking, asking.connection() as connection:
        return (
            wait_until(lambda: sent() > before, TASKS_S_MAX)
            and wait_until(lambda: store.llen("celery") == 0, TASKS_S_MAX)
            and bool(asking.control.ping(timeout=2, connection=connection))
        )


def lines_about(up: Up, name: str) -> list[str]:
    return re.findall(rf"^\d\d:\d\d:\d\d {name} .*$", up.output, re.MULTILINE | re.IGNORECASE)


@pytest.mark.parametrize("name", KILLED)
def test_what_is_killed_is_started_again(product: Product, name: str) -> None:
    up = product.up
    product.call()
    product.seen.clear()
    earlier = len(lines_about(up, name))
    killed = pid_of(up.home, name)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)

    deadline = time.monotonic() + BACK_S_MAX
    while not lines_about(up, name)[earlier:] or pid_of(up.home, name) is None or not product.is_well():
        assert time.monotonic() < deadline, up.output
        product.call()

    assert product.seen <= MEANWHILE.get(name, set())
    (line,) = lines_about(up, name)[earlier:]
    how = "is gone" if name in {"PostgreSQL", "Valkey"} else r"ended by itself \(status -9\)"
    assert re.search(rf"{how}; it is started again now. Its log is /\S+\.log$", line), line
    product.assert_well()
    assert killed not in processes_of(up.home)


def test_all_that_is_killed_at_once_is_started_again(product: Product) -> None:
    up = product.up
    before = {name: len(lines_about(up, name)) for name in KILLED}
    pids = [pid_of(up.home, name) for name in KILLED]
    product.call()
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    assert wait_until(lambda: all(len(lines_about(up, name)) > before[name] for name in KILLED), BACK_S_MAX)
    product.assert_well()
    assert not set(pids) & processes_of(up.home).keys()


def test_a_store_that_is_a_replica_for_a_moment_ends_nothing(product: Product) -> None:
    up = product.up
    before = {name: pid_of(up.home, name) for name in KILLED}
    lines = up.output
    store = store_of(up.home)
    product.call()
    product.seen.clear()

    store.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            product.call()
    finally:
        store.execute_command("REPLICAOF", "NO", "ONE")

    assert product.seen == {"DEGRADED_BLOCKED"}
    product.assert_well()
    assert {name: pid_of(up.home, name) for name in KILLED} == before
    assert up.output == lines


@contextmanager
def held_up(up: Up) -> Iterator[None]:
    """`up` does nothing meanwhile, so that what is down stays down."""
    os.kill(up.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(up.process.pid, signal.SIGCONT)


def test_while_postgresql_is_down_a_command_says_so_and_that_it_comes_back(product: Product) -> None:
    home = product.up.home
    pid = pid_of(home, "PostgreSQL")
    assert pid is not None
    with held_up(product.up):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid_of(home, "PostgreSQL") is None, BACK_S_MAX)
        command = Command(home, "export_policies", "demo/prod")
        assert command.finish() == 1
    assert re.fullmatch(
        r"PostgreSQL cannot be reached at 127\.0\.0\.1:\d+ \(.*\): "
        rf"the `manage\.py up` of {home} starts it again, try in a moment\.\n",
        command.output,
    ), command.output
    product.assert_well()


def test_while_valkey_is_down_commands_still_find_the_database(product: Product) -> None:
    home = product.up.home
    pid = pid_of(home, "Valkey")
    assert pid is not None
    with held_up(product.up):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid_of(home, "Valkey") is None, BACK_S_MAX)
        assert "name: Everyone" in product.command("export_policies", "demo/prod")
        checking = Command(home, "check_counters", "demo/prod")
        assert checking.finish() == 1
    assert "The counter store cannot be reached" in checking.output
    assert "not running here" not in checking.output
    product.assert_well()


def test_servers_of_somebody_else_are_left_alone(new_home: Callable[[], Path]) -> None:
    theirs = stack.start(new_home())
    up = Up(
        new_home(),
        DATABASE_URL=theirs.database_url,
        MIGRATION_DATABASE_URL=theirs.owner_url,
        REDIS_URL=theirs.redis_url,
    )
    try:
        theirs.kill_valkey()
        killed = pid_of(up.home, "worker")
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        assert wait_until(lambda: bool(lines_about(up, "worker")), BACK_S_MAX), up.output
        time.sleep(1)
        assert stack.status(theirs.home).valkey_pid is None
        assert lines_about(up, "Valkey") == []
        theirs.start_valkey()
        assert tasks_go_on(theirs.home), up.output
    finally:
        up.end()
    assert servers_run(theirs.home)


@pytest.mark.parametrize("delay_s", [0.05, 0.3, 0.6])
def test_a_signal_in_the_middle_of_restarts_ends_all_in_time(
    new_home: Callable[[], Path], delay_s: float
) -> None:
    home = new_home()
    up = Up(home)
    for name in KILLED:
        pid = pid_of(home, name)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    time.sleep(delay_s)
    assert up.end(signal.SIGINT) < STOP_S_MAX
    assert up.process.returncode == 0, up.output
    assert up.output.endswith("Stopping\n")
    assert processes_of(home) == {}
    assert server_processes_of(home) == {}


def server_processes_of(home: Path) -> dict[int, str]:
    """Whatever names the home's data folder, also if no pid file tells of it."""
    data = next(iter(stack.servers(home))).log.parent
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{data}/" in line:
            found[int(folder.name)] = line
    return found
