"""What a large ledger costs: rolling it up, and the first evaluate after the counter store was emptied."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from django.conf import settings
from redis import Redis

from bench import load, replaying, scene
from bench.client import post, post_until_served
from bench.load import Load
from bench.options import Options
from bench.result import Result
from bench.scene import Scene
from tenants.revisions import environment_key
from usage.amounts import Subjects
from usage.counting import rules
from usage.counting.store import store
from usage.ledger import rollups, totals
from usage.ledger.totals import SummaryQuery

ROLLED = 1_000_000
ROLL_S_MAX = 20.0
COLD_MS_MAX = 300.0
SUMMARY_MS_MAX = 300.0
OTHERS_P99_RATIO_MAX = 2.0
# The newest rows are not rolled up: more than a minute of 10 million events a day.
TAIL = 10_000


def measures(url: str, full: Scene, other: Scene, options: Options) -> list[Result]:
    """Fills the ledger of `full`; `other` is another tenant's. Rolls up all but the tail."""
    print(f"filling the ledger with {options.rows} rows ...", flush=True)
    first = min(ROLLED, options.rows)
    scene.fill_ledger(full.environment, first)
    rolled_s = _timed(lambda: rollups.roll(full.environment.pk))
    replayed = replaying.measures(full.environment, first)
    scene.fill_ledger(full.environment, options.rows - TAIL, first=first)
    rest_s = _timed(lambda: rollups.roll(full.environment.pk))
    print(f"{first} rows rolled up in {rolled_s:.1f} s, all others in {rest_s:.1f} s", flush=True)
    scene.fill_ledger(full.environment, options.rows, first=options.rows - TAIL)
    cold = [_cold_ms(url, full) for _ in range(options.runs)]
    pages = [_timed(lambda: _summary(full)) * 1000 for _ in range(options.runs)]
    return [
        Result(
            f"{first} events rolled up", f"{rolled_s:.1f} s", f"<= {ROLL_S_MAX:.0f} s", rolled_s <= ROLL_S_MAX
        ),
        Result(
            f"first evaluate beside {options.rows} ledger rows, {TAIL} of them not rolled up, after FLUSHALL",
            f"{statistics.median(cold):.0f} ms, at most {max(cold):.0f} ms",
            f"<= {COLD_MS_MAX:.0f} ms",
            max(cold) <= COLD_MS_MAX,
        ),
        _beside_cold_starts(url, full, other, options),
        Result(
            f"summary of a month by user and model, {options.rows} rows",
            f"{statistics.median(pages):.0f} ms",
            f"<= {SUMMARY_MS_MAX:.0f} ms",
            statistics.median(pages) <= SUMMARY_MS_MAX,
        ),
        *replayed,
    ]


def _cold_ms(url: str, full: Scene) -> float:
    """The process knows the environment; the store knows nothing."""
    post(url, "/v1/evaluate", full.key, scene.CALL | {"user_id": "user_1"})
    store.client.flushall()
    return _timed(lambda: post(url, "/v1/evaluate", full.key, scene.CALL | {"user_id": "user_1"})) * 1000


def _beside_cold_starts(url: str, full: Scene, other: Scene, options: Options) -> Result:
    """Another tenant's evaluates, while the store loses what it has of the large environment over and over."""

    def load_other() -> Load:
        return load.run(url, "/v1/evaluate", other.key, scene.EVALUATE, seconds=options.seconds)

    # Of its own, without the time box of a web process.
    client = Redis.from_url(settings.REDIS_URL)
    starts = 0

    def load_other_meanwhile() -> Load:
        nonlocal starts
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(load_other)
            while not running.done():
                client.delete(*_keys_of(full))
                post_until_served(url, "/v1/evaluate", full.key, scene.CALL | {"user_id": "user_1"})
                starts += 1
        return running.result()

    measured = load.interleaved(
        options.runs, {"alone": load_other, "beside cold starts": load_other_meanwhile}
    )
    before, meanwhile = (load.median(runs, lambda run: run.p99_ms) for runs in measured.values())
    return Result(
        f"p99 of another tenant's evaluates beside {starts} cold starts of this environment / alone",
        f"{meanwhile / before:.2f} ({meanwhile:.0f} / {before:.0f} ms)",
        f"<= {OTHERS_P99_RATIO_MAX:.0f}",
        meanwhile / before <= OTHERS_P99_RATIO_MAX,
    )


def _keys_of(full: Scene) -> list[str]:
    """What the store has of the environment and of user_1's counters in it."""
    subjects = Subjects(user_id="user_1", feature=str(scene.CALL["feature"]), plan=str(scene.CALL["plan"]))
    windows = rules.current(full.environment.pk).tracked.at(store.now_ms())
    return [
        environment_key(full.environment.pk),
        *(counter.key for counter in windows.counters(subjects, str(scene.CALL["model"]))),
    ]


def _summary(full: Scene) -> None:
    query = SummaryQuery(group_by="user,model")
    found = totals.summarize(full.environment.pk, query, datetime.now(UTC), ZoneInfo("Europe/Berlin"))
    assert found.groups


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
