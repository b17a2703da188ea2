"""`python -m bench.outages`: the slowest evaluate while PostgreSQL hangs, and while a large environment is rebuilt.

    python -m bench.outages [--seconds 10] [--reporters 64] [--rows 2000000]

One web process, which everybody shares. The bound is 300 ms on a machine that is not busy.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench.servers import HOME, bench_stack, web
from tokvigil_site.embedded import stack

if TYPE_CHECKING:
    from bench.scene import Scene

ANSWER_S_MAX = 60
REPORT_EVERY_S = 1.0
RETRY_AFTER_S = 0.5
COLD_CALLERS = 8
COLD_S = 3.0


@dataclass(slots=True)
class Asked:
    """What callers of one kind were answered, and how long each answer took."""

    answers: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)

    def note(self, answer: str, took_s: float) -> None:
        self.answers[answer] += 1
        self.took_s.append(took_s)

    def __str__(self) -> str:
        ordered = sorted(self.took_s)
        median_ms, slowest_ms = ordered[len(ordered) // 2] * 1000, ordered[-1] * 1000
        return f"median {median_ms:.0f} ms, slowest {slowest_ms:.0f} ms, answers {dict(self.answers)}"


class Client:
    def __init__(self, url: str, scene: Scene) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S_MAX)
        self._headers = {"Authorization": f"Bearer {scene.key}", "Content-Type": "application/json"}

    def evaluate(self, asked: Asked, **fields: object) -> None:
        body = {
            "user_id": "user_1",
            "model": "gpt-4o-mini",
            "plan": "free",
            "input_tokens": 374,
            "dry_run": True,
        }
        answer, took_s = self._post("/v1/evaluate", {**body, **fields})
        asked.note(str(answer.get("reason_code") or answer.get("code")), took_s)
        time.sleep(0.01)

    def report(self, asked: Asked) -> None:
        body = {"request_id": uuid.uuid4().hex, "user_id": "user_1", "model": "gpt-4o-mini"}
        answer, took_s = self._post("/v1/usage", {**body, "input_tokens": 374, "output_tokens": 44})
        asked.note(str(answer.get("code", "recorded")), took_s)
        time.sleep(random.uniform(0, 2 * (RETRY_AFTER_S if "code" in answer else REPORT_EVERY_S)))

    def _post(self, path: str, body: dict[str, object]) -> tuple[dict[str, object], float]:
        begun = time.monotonic()
        try:
            self._connection.request("POST", path, json.dumps(body), self._headers)
            answer = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            answer = {"code": type(error).__name__}
        return answer, time.monotonic() - begun


class Callers:
    """Threads that call again and again, until the end of the block."""

    def __init__(self, count: int, call: Callable[[], Callable[[], None]]) -> None:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(call(),)) for _ in range(count)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, call: Callable[[], None]) -> None:
        while not self._ended.is_set():
            call()


def hanging(url: str, mine: Scene, other: Scene, options: argparse.Namespace) -> None:
    kinds: dict[str, tuple[Scene, dict[str, object]]] = {
        "with max_output_tokens": (mine, {"max_output_tokens": 200}),
        "without": (mine, {"feature": "chat"}),
        "of another tenant": (other, {"max_output_tokens": 200}),
    }
    for scene, fields in kinds.values():
        Client(url, scene).evaluate(Asked(), **fields)
    servers = stack.start(HOME)
    reports, asked = Asked(), {name: Asked() for name in kinds}

    def reporter() -> Callable[[], None]:
        client = Client(url, mine)
        return lambda: client.report(reports)

    with Callers(options.reporters, reporter):
        time.sleep(2)
        reports.answers.clear()
        reports.took_s.clear()
        with ExitStack() as callers, servers.hanging_postgres():
            for name, (scene, fields) in kinds.items():
                callers.enter_context(Callers(1, _evaluator(url, scene, asked[name], fields)))
            time.sleep(options.seconds)
    print(f"PostgreSQL hangs for {options.seconds} s, beside {options.reporters} reporters:")
    for name, found in asked.items():
        print(f"  evaluate {name}: {found}")
    print(f"  reports: {reports}")


def rebuilding(url: str, large: Scene, other: Scene, options: argparse.Namespace) -> None:
    from bench import scene
    from usage.counting.store import store

    print(f"writing {options.rows} rows ...", flush=True)
    scene.fill_ledger(large.environment, options.rows)
    store.client.flushdb()
    cold, others, after = Asked(), Asked(), Asked()
    Client(url, other).evaluate(Asked(), max_output_tokens=200)
    with (
        Callers(1, _evaluator(url, other, others, {"max_output_tokens": 200})),
        Callers(COLD_CALLERS, _evaluator(url, large, cold, {"max_output_tokens": 200})),
    ):
        time.sleep(COLD_S)
    Client(url, large).evaluate(after, max_output_tokens=200)
    print(f"The store was emptied, {options.rows} rows are to be summed, {COLD_CALLERS} callers ask:")
    print(f"  evaluate of that environment: {cold}")
    print(f"  evaluate of another tenant: {others}")
    print(f"  afterwards: {after}")


def _evaluator(
    url: str, scene: Scene, asked: Asked, fields: dict[str, object]
) -> Callable[[], Callable[[], None]]:
    def evaluator() -> Callable[[], None]:
        client = Client(url, scene)
        return lambda: client.evaluate(asked, **fields)

    return evaluator


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.outages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="for which PostgreSQL hangs")
    parser.add_argument("--reporters", type=int, default=64)
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the environment that is rebuilt")
    options = parser.parse_args()
    with bench_stack():
        import django

        django.setup()
        from django.core.management import call_command

        from bench import scene

        call_command("migrate", verbosity=0)
        scene.prepare()
        mine, other, large = (scene.make(slug) for slug in ("mine", "other", "large"))
        with web(workers=1) as url:
            hanging(url, mine, other, options)
            rebuilding(url, large, other, options)


if __name__ == "__main__":
    main()
