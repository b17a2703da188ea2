"""What the Python SDK adds to an AI call: the same client bare and wrapped, in turns, beside a real control plane."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from openai import OpenAI
from tokvigil import TokVigil, Usage, UsageEvent

from bench.result import Result
from bench.scene import CALL, Scene
from tokvigil_site.demo.provider.process import start_provider

MESSAGES = [{"role": "user", "content": "Why is the sky blue? Answer in one sentence, for a child. " * 10}]
MODEL = "gpt-4o-mini"
CALLS = 200
ADDED_MS_MAX = 3.0
# Of what it costs to ask TokVigil by hand, without a report.
BY_HAND_MAX = 1.7
TRACKED = 2_000
TRACK_US_MAX = 100.0
COUNT_S_MAX = 1.0
# In a process of its own, in which every attempt to reach the network is an error.
FIRST_COUNT = """
import socket, sys, time
def refuse(*_, **__): raise AssertionError("a socket was opened")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from tokvigil import count_tokens
texts = {"first": "hello", "spaces": " " * 1_000_000, "phrase": "\u4f60\u597d\u4e16\u754c" * 25_000}
for name, text in texts.items():
    started = time.perf_counter()
    tokens = count_tokens(text, model="gpt-4o-mini")
    print(name, time.perf_counter() - started, tokens)
"""


def measures(url: str, scene: Scene, runs: int) -> list[Result]:
    with (
        tempfile.TemporaryDirectory() as folder,
        TokVigil(api_key=scene.key, base_url=url, journal=folder) as tv,
        start_provider(latency_ms=0) as provider_url,
    ):
        return [_wrap(tv, url, scene.key, provider_url, runs), _track(tv), _count()]


def _wrap(tv: TokVigil, url: str, key: str, provider_url: str, runs: int) -> Result:
    bare = OpenAI(api_key="sk-bench", base_url=provider_url)
    wrapped = tv.wrap(bare, user_id="user_1", feature="chat", plan="free")
    ways = {
        "bare": lambda: _call(bare),
        "by hand": _after(_asking_by_hand(url, key, "/v1/evaluate"), bare),
        "an empty view by hand": _after(_asking_by_hand(url, key, "/v1/bench/empty"), bare),
        "wrapped": lambda: _call(wrapped),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            took = [_seconds(way) for _ in range(CALLS)]
            if run:  # the first round warms all up
                seconds[name] += took
                print(f"{name}: median {1000 * statistics.median(took):.2f} ms", flush=True)
    bare_ms, by_hand_ms, empty_ms, wrapped_ms = (1000 * statistics.median(took) for took in seconds.values())
    asked_ms, added_ms = by_hand_ms - bare_ms, wrapped_ms - bare_ms
    return Result(
        "wrap, one call after the other",
        f"+{added_ms:.2f} ms a call ({bare_ms:.2f} -> {wrapped_ms:.2f} ms, {wrapped_ms / bare_ms:.2f} x);"
        f" {added_ms / asked_ms:.2f} x what asking by hand adds, without any report: +{asked_ms:.2f} ms;"
        f" asking an empty view by hand adds +{empty_ms - bare_ms:.2f} ms",
        f"< {ADDED_MS_MAX:.0f} ms, and < {BY_HAND_MAX} x by hand",
        added_ms < min(ADDED_MS_MAX, BY_HAND_MAX * asked_ms),
    )


def _after(ask: Callable[[], None], client: OpenAI) -> Callable[[], None]:
    def asked() -> None:
        ask()
        _call(client)

    return asked


def _asking_by_hand(url: str, key: str, path: str) -> Callable[[], None]:
    """What the question alone costs: over a connection that is kept, with the standard library."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    question = {**CALL, "user_id": "user_1", "max_output_tokens": 20}

    def ask() -> None:
        connection.request("POST", path, json.dumps(question), headers)
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.load(answer)

    return ask


def _call(client: OpenAI) -> None:
    client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=20)  # type: ignore[arg-type]


def _track(tv: TokVigil) -> Result:
    usage = Usage(input_tokens=374, output_tokens=44)
    events = [
        UsageEvent(request_id=f"tracked-{time.time_ns()}-{n}", user_id="user_1", model=MODEL, usage=usage)
        for n in range(TRACKED)
    ]
    took = [_seconds(lambda event=event: tv.report(event)) for event in events]  # type: ignore[misc]
    left = tv.flush()
    median_us, p99_us = 1e6 * statistics.median(took), 1e6 * statistics.quantiles(took, n=100)[-1]
    return Result(
        f"track, {TRACKED} events on disk",
        f"median {median_us:.0f} us, p99 {p99_us:.0f} us, {left} not delivered",
        f"median < {TRACK_US_MAX:.0f} us, 0 not delivered",
        median_us < TRACK_US_MAX and not left,
    )


def _count() -> Result:
    run = subprocess.run([sys.executable, "-c", FIRST_COUNT], check=True, capture_output=True, text=True)
    took_s = {name: float(seconds) for name, seconds, _ in map(str.split, run.stdout.splitlines())}
    return Result(
        "counting without a network",
        f"first count {took_s['first']:.2f} s, 1,000,000 spaces {took_s['spaces']:.2f} s, "
        f"25,000 times one phrase {took_s['phrase']:.2f} s, no socket opened",
        f"< {COUNT_S_MAX:.0f} s each",
        max(took_s.values()) < COUNT_S_MAX,
    )


def _seconds(act: Callable[[], None]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
