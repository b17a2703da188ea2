"""Reports beside questions: single reports, whole calls and batches against evaluate, in one run.

With `--against COMMIT` the same batches also go to web processes of that commit.
"""

from __future__ import annotations

import secrets
import time

from bench import load, scene
from bench.baseline import Baseline, baseline
from bench.client import post
from bench.load import Load, interleaved, median
from bench.options import Options
from bench.result import Result

SINGLES_RATIO_MIN = 0.5
CALLS_RATIO_MIN = 0.33
BATCHES_RATIO_MIN = 2
BATCH_SIZE = 500
BATCHES = 20


def measures(url: str, options: Options) -> list[Result]:
    here = scene.make("reports")
    kinds = {
        "evaluate": lambda: load.run(url, "/v1/evaluate", here.key, scene.EVALUATE, seconds=options.seconds),
        "single reports": lambda: load.run(
            url, "/v1/usage", here.key, _usage_with_new_ids(), seconds=options.seconds
        ),
        "whole calls": lambda: load.run_calls(
            url, here.key, seed=secrets.token_hex(4), seconds=options.seconds
        ),
        "batches": lambda: _batches(url, here.key),
    }
    if options.against is None:
        return _against_evaluate(interleaved(options.runs, kinds))
    with baseline(options.against) as old:
        measured = interleaved(options.runs, {**kinds, "batches before": lambda: _batches(old.url, old.key)})
    return [*_against_evaluate(measured), _against_baseline(measured, old)]


def _against_evaluate(measured: dict[str, list[Load]]) -> list[Result]:
    evaluate, singles, calls, batches = (
        median(measured[kind], lambda run: run.per_second)
        for kind in ("evaluate", "single reports", "whole calls", "batches")
    )
    p99 = median(measured["whole calls"], lambda run: run.p99_ms)
    errors = sum(run.errors for runs in measured.values() for run in runs)
    return [
        Result(
            "single reports/s / evaluates/s, 50 clients",
            f"{singles / evaluate:.2f} ({singles:.0f} / {evaluate:.0f})",
            f">= {SINGLES_RATIO_MIN}",
            singles / evaluate >= SINGLES_RATIO_MIN,
        ),
        Result(
            "whole calls (asked and reported) / evaluate alone, 50 clients",
            f"{calls / evaluate:.2f} ({calls:.0f} calls/s, p99 of each half {p99:.0f} ms)",
            f">= {CALLS_RATIO_MIN}",
            calls / evaluate >= CALLS_RATIO_MIN,
        ),
        Result(
            "events/s in batches of 500, 1 client / evaluates/s, 50 clients",
            f"{batches / evaluate:.2f} ({batches:.0f} events/s)",
            f">= {BATCHES_RATIO_MIN}",
            batches / evaluate >= BATCHES_RATIO_MIN,
        ),
        Result("errors in all of these", str(errors), "0", errors == 0),
    ]


def _against_baseline(measured: dict[str, list[Load]], old: Baseline) -> Result:
    now, before = (
        median(measured[kind], lambda run: run.per_second) for kind in ("batches", "batches before")
    )
    return Result(
        f"events/s in batches / those of {old.commit}",
        f"{now / before:.2f} ({now:.0f} / {before:.0f})",
        f">= {BATCHES_RATIO_MIN}",
        now / before >= BATCHES_RATIO_MIN,
    )


def _usage_with_new_ids() -> str:
    return scene.USAGE.replace("SEED", f"'{secrets.token_hex(4)}_'")


def _batches(url: str, key: str) -> Load:
    """One client that sends batch after batch."""
    taken_ms = []
    for _ in range(BATCHES):
        events = [_event(n) for n in range(BATCH_SIZE)]
        started = time.perf_counter()
        results = post(url, "/v1/usage/batch", key, {"events": events})["results"]
        taken_ms.append((time.perf_counter() - started) * 1000)
        statuses = {result["status"] for result in results}
        if statuses != {"recorded"}:
            raise SystemExit(f"the batch was not recorded: {statuses}")
    taken_ms.sort()
    return Load(
        requests=BATCHES,
        per_second=BATCHES * BATCH_SIZE / (sum(taken_ms) / 1000),
        p50_ms=taken_ms[BATCHES // 2],
        p99_ms=taken_ms[-1],
        errors=0,
    )


def _event(n: int) -> dict[str, object]:
    return {"request_id": f"batch_{secrets.token_hex(6)}", "user_id": f"user_{n % scene.USERS}", **scene.USED}
