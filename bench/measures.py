"""Each function measures one promise."""

from __future__ import annotations

import time

from bench import console, ledger, load, python_sdk, reports, scene, serving
from bench.client import post_until_served
from bench.load import Load, interleaved, median
from bench.options import Options
from bench.result import Result
from bench.scene import Scene
from bench.servers import web
from usage.counting import inspection
from usage.settling import recount

EMPTY_RATIO_MIN = 0.7
EVALUATES_PER_SECOND_MIN = 1500
P99_MS_MAX = 75
SLOWDOWN_MAX = 1.1


def all_measures(options: Options) -> list[Result]:
    scene.prepare()
    if options.only_console:
        return console.measures(scene.make("console"), options.rows)
    small = scene.make("small")
    results: list[Result] = []
    if not (options.only_sdk or options.only_reports or options.only_ledger):
        results += serving.measures(scene.make("serving"), options)
    if options.only_serving:
        return results
    with web() as url:
        if options.only_ledger:
            return ledger.measures(url, scene.make("full"), small, options)
        if options.only_reports:
            return reports.measures(url, options)
        results += python_sdk.measures(url, scene.make("sdk"), options.runs)
        if options.only_sdk:
            return results
        results += _against_empty(url, small, options)
        results += reports.measures(url, options)
        wide = scene.make("wide", scene.many_policies(options.policies))
        results.append(_slowdown(url, small, wide, options, f"evaluate with {options.policies} policies"))
        full = scene.make("full")
        results += ledger.measures(url, full, small, options)
        results.append(_slowdown(url, small, full, options, f"evaluate beside {options.rows} ledger rows"))
    return results


def _against_empty(url: str, small: Scene, options: Options) -> list[Result]:
    measured = interleaved(
        options.runs,
        {
            "empty DRF view": lambda: load.run(
                url, "/bench/empty", small.key, "'{}'", seconds=options.seconds
            ),
            "empty DRF view, no middleware": lambda: load.run(
                url, "/v1/bench/empty", small.key, "'{}'", seconds=options.seconds
            ),
            "evaluate": lambda: _evaluate(url, small, options),
        },
    )
    evaluate, empty, bare = (
        measured["evaluate"],
        measured["empty DRF view"],
        measured["empty DRF view, no middleware"],
    )
    rate = median(evaluate, lambda run: run.per_second)
    ratio = rate / median(empty, lambda run: run.per_second)
    bare_ratio = rate / median(bare, lambda run: run.per_second)
    p99 = median(evaluate, lambda run: run.p99_ms)
    errors = sum(run.errors for run in evaluate)
    mismatches = _mismatches(small, sum(run.requests for run in evaluate))
    return [
        Result(
            "evaluate / empty DRF view, requests/s",
            f"{ratio:.2f} ({bare_ratio:.2f} of one without middleware)",
            f">= {EMPTY_RATIO_MIN}",
            ratio >= EMPTY_RATIO_MIN,
        ),
        Result(
            "evaluate, 50 clients",
            f"{rate:.0f}/s, p50 {median(evaluate, lambda run: run.p50_ms):.0f} ms, p99 {p99:.0f} ms, {errors} errors",
            f">= {EVALUATES_PER_SECOND_MIN}/s, p99 <= {P99_MS_MAX} ms, 0 errors",
            rate >= EVALUATES_PER_SECOND_MIN and p99 <= P99_MS_MAX and errors == 0,
        ),
        Result(
            f"holds granted against counters, {mismatches[1]} calls",
            f"{mismatches[0]} mismatches",
            "0",
            not mismatches[0],
        ),
    ]


def _mismatches(small: Scene, answered: int) -> tuple[int, int]:
    """Counters that do not hold what their environment's open reservations hold, and the number of the latter.

    wrk may leave calls unread at the end of a run, so there can be a few more holds than answers, never fewer.
    """
    found = recount.check(small.environment)
    budget = next(
        int(fields[b"hr"])
        for key, fields in inspection.scan(small.environment.pk)
        if ":c:environment:" in key
    )
    wrong = len(found.drifts) + (budget != found.open_reservations) + (found.open_reservations < answered)
    return wrong, found.open_reservations


def _slowdown(url: str, one: Scene, other: Scene, options: Options, what: str) -> Result:
    print(f"{what}: cold for {_warm(url, other):.1f} s", flush=True)
    measured = interleaved(
        options.runs,
        {"one": lambda: _evaluate(url, one, options), "other": lambda: _evaluate(url, other, options)},
    )
    ratio = median(measured["one"], lambda run: run.per_second) / median(
        measured["other"], lambda run: run.per_second
    )
    return Result(f"{what}, cost", f"{ratio:.2f} x", f"<= {SLOWDOWN_MAX} x", ratio <= SLOWDOWN_MAX)


def _warm(url: str, at: Scene) -> float:
    """Evaluates once for each user, so that all counters are complete: what is measured afterwards is a warm evaluate.

    The seconds that took. Most go to compiling the policies, and to the environment's counter, which the first call
    sums up from the ledger; meanwhile callers are told to come again.
    """
    started = time.perf_counter()
    for user in range(scene.USERS):
        post_until_served(url, "/v1/evaluate", at.key, {**scene.CALL, "user_id": f"user_{user}"})
    return time.perf_counter() - started


def _evaluate(url: str, at: Scene, options: Options) -> Load:
    return load.run(url, "/v1/evaluate", at.key, scene.EVALUATE, seconds=options.seconds)
