"""What a replay of past calls under other policies costs, against a plain sum over the same rows."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.db import connection

from bench.result import Result
from policies import policy_rows
from policies.files.policy_file import parse
from policies.replaying.replay import replay
from tenants.models import Environment

SECONDS_MAX = 60.0
MEMORY_MB_MAX = 200.0
DAYS = timedelta(days=30)
# Three limits for each call, of which one is reached.
CANDIDATE = """
version: 1
policies:
  - name: Candidate
    limits:
      - {metric: requests, window: day, amount: 500, per: user}
      - {metric: cost_usd, window: month, amount: "5", per: user}
      - {metric: cost_usd, window: month, amount: "1000", per: environment}
"""


def measures(environment: Environment, rows: int) -> list[Result]:
    """Of an environment that has so many rows in the last days, and only those."""
    now = datetime.now(UTC)
    wanted = policy_rows.supposed(environment.pk, parse(CANDIDATE).policies)
    before = _memory_mb()
    replay_s = _timed(lambda: replay(environment, wanted, now - DAYS, now))
    grown = _memory_mb() - before
    sum_s = _timed(lambda: _plain_sum(environment))
    return [
        Result(
            f"replay of 30 days with {rows} calls",
            f"{replay_s:.1f} s, {replay_s / sum_s:.0f} times a plain sum over the same rows ({sum_s:.2f} s)",
            f"<= {SECONDS_MAX:.0f} s",
            replay_s <= SECONDS_MAX,
        ),
        Result(
            f"memory that the replay of {rows} calls takes",
            f"{grown:.0f} MB",
            f"<= {MEMORY_MB_MAX:.0f} MB",
            grown <= MEMORY_MB_MAX,
        ),
    ]


def _plain_sum(environment: Environment) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), sum(cost_nano) FROM usage_event WHERE environment_id = %s", [environment.pk]
        )
        cursor.fetchone()


def _memory_mb() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
