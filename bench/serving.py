"""Our server against granian's own WSGI, which reads bodies in its threads; and beside clients that send slowly."""

from __future__ import annotations

from urllib.parse import urlsplit

from bench import load
from bench.load import Load, interleaved, median
from bench.options import Options
from bench.result import Result
from bench.scene import EVALUATE, Scene
from bench.servers import web, wsgi_web
from tokvigil_site.serving.slow_clients import SlowClients

SLOW_CLIENTS = 200
# The load must end before the slow clients' bodies are due.
SLOW_SECONDS_MAX = 8
RATE_RATIO_MIN = 0.85
SLOW_RATE_RATIO_MIN = 0.8
SLOW_P99_RATIO_MAX = 2.0


def measures(here: Scene, options: Options) -> list[Result]:
    with web() as ours, wsgi_web() as wsgi:
        measured = interleaved(
            options.runs,
            {
                "evaluate over WSGI": lambda: _evaluate(wsgi, here, options.seconds),
                "evaluate": lambda: _evaluate(ours, here, options.seconds),
                "evaluate beside slow clients": lambda: _beside_slow(ours, here, options.seconds),
            },
        )
    wsgi_rate, rate, slow_rate = (median(runs, lambda run: run.per_second) for runs in measured.values())
    _, p99, slow_p99 = (median(runs, lambda run: run.p99_ms) for runs in measured.values())
    errors = sum(run.errors for runs in measured.values() for run in runs)
    return [
        Result(
            "evaluates/s, our server / granian's WSGI, 50 clients",
            f"{rate / wsgi_rate:.2f} ({rate:.0f} / {wsgi_rate:.0f})",
            f">= {RATE_RATIO_MIN}",
            rate / wsgi_rate >= RATE_RATIO_MIN,
        ),
        Result(
            f"evaluate beside {SLOW_CLIENTS} slow clients / without them",
            f"{slow_rate / rate:.2f} of the rate, {slow_p99 / p99:.2f} x p99 ({slow_p99:.0f} ms), {errors} errors",
            f">= {SLOW_RATE_RATIO_MIN} of the rate, <= {SLOW_P99_RATIO_MAX} x p99, 0 errors",
            slow_rate / rate >= SLOW_RATE_RATIO_MIN and slow_p99 / p99 <= SLOW_P99_RATIO_MAX and not errors,
        ),
    ]


def _beside_slow(url: str, here: Scene, seconds: int) -> Load:
    port = urlsplit(url).port
    assert port is not None
    headers = {"Authorization": f"Bearer {here.key}", "Content-Type": "application/json"}
    with SlowClients(port, SLOW_CLIENTS, headers=headers) as slow:
        measured = _evaluate(url, here, min(seconds, SLOW_SECONDS_MAX))
        if len(slow.open) < SLOW_CLIENTS:
            raise SystemExit(f"only {len(slow.open)} of {SLOW_CLIENTS} slow clients stayed")
    return measured


def _evaluate(url: str, here: Scene, seconds: int) -> Load:
    return load.run(url, "/v1/evaluate", here.key, EVALUATE, seconds=seconds)
