"""Web processes for tests: real ones, each on a port of its own, to be killed and replaced. Holds no test."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

from tokvigil_site.children import Child, http_status
from tokvigil_site.embedded import ports
from tokvigil_site.serving import command as serving
from tokvigil_site.testing import Answer, Api
from usage.counting.store import store
from usage.ledger.connections import ledger_connections
from usage.timebox.postgres.kept import kept

CHECKOUT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class WebProcess:
    """One granian with one worker. `kill` ends it as a crash would."""

    port: int
    child: Child

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        pid = self.child.pid
        assert pid is not None
        return pid

    def kill(self) -> None:
        self.child.kill()

    def await_ready(self) -> None:
        self.child.await_ready(self._answers, within_s=READY_TIMEOUT_S)

    def _answers(self) -> bool:
        return http_status(f"{self.url}/v1/me") == http.client.UNAUTHORIZED


def session_variables() -> dict[str, str]:
    """The test session's servers, as another process is told of them."""
    known = connection.settings_dict
    place = f"{known['USER']}:{known['PASSWORD']}@{known['HOST']}:{known['PORT']}/{known['NAME']}"
    return {"DATABASE_URL": f"postgres://{place}", "REDIS_URL": settings.REDIS_URL}


@contextmanager
def web_processes(count: int, folder: Path, variables: Mapping[str, str]) -> Iterator[list[WebProcess]]:
    """Started all at once; those that the test killed and those it did not are gone afterwards.

    `variables` name the servers: DATABASE_URL and REDIS_URL. A process that is added to the list ends with the others.
    """
    started: list[WebProcess] = []
    try:
        started += [launch(folder, variables) for _ in range(count)]
        for process in started:
            process.await_ready()
        yield started
    finally:
        for process in started:
            process.kill()


def launch(folder: Path, variables: Mapping[str, str], port: int | None = None) -> WebProcess:
    port = port or ports.pick_free()
    child = Child(
        name="web process",
        module=serving.granian(port),
        log=folder / f"web-{port}.log",
        variables=variables,
    )
    child.start()
    return WebProcess(port=port, child=child)


def leave_servers() -> None:
    """This process keeps no connection to servers that are about to go or to come."""
    connection.close()
    kept.close_all()
    ledger_connections.close_idle()
    store._lines._idle.clear()


def manage(*arguments: str, variables: Mapping[str, str]) -> str:
    """A command of manage.py, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class NoAnswer(Exception):
    """The web process went away before it answered; nothing is known of what it did."""


class WebApi(Api):
    """An API key used through one web process, over connections that each thread keeps."""

    def __init__(self, api: Api, port: int) -> None:
        self.environment, self.key, self.text = api.environment, api.key, api.text
        self.port = port
        self._kept = threading.local()

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        headers = {"Authorization": f"Bearer {self.text}", "Content-Type": "application/json", **headers}
        connection = self._connection()
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.headers))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NoAnswer(str(error)) from error

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._kept, "connection"):
            self._kept.connection = http.client.HTTPConnection(
                "127.0.0.1", self.port, timeout=ANSWER_TIMEOUT_S
            )
        connection: http.client.HTTPConnection = self._kept.connection
        return connection


class Traffic:
    """Calls that go on in threads while the test breaks something. A caller that raises fails the test at the end."""

    def __init__(self, callers: int, call: Callable[[int, int], object]) -> None:
        self._ended = threading.Event()
        self._call = call
        self._pool = ThreadPoolExecutor(max_workers=callers)
        self._running = [self._pool.submit(self._run, caller) for caller in range(callers)]

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()

    def _run(self, caller: int) -> None:
        turn = 0
        while not self._ended.is_set():
            self._call(caller, turn)
            turn += 1


def await_true(condition: Callable[[], bool], *, within_s: float) -> float:
    """How long it took, in seconds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within_s, f"not so within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - begun
