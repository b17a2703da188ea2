"""Rolls that die: a real process, SIGKILLed at any moment, leaves the rollups as if it had not been there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from django.db import connection

from tenants.models import Environment
from tokvigil_site.tests.servers import CHECKOUT, session_variables
from usage.ledger.rollups import FILLED
from usage.tests.rolling import roll_all, stored
from usage.tests.test_rollups import fill

KILLS = 50
# A step never cuts a transaction: of many small ones a roll takes many steps, and a kill finds it at any of them.
SMALL_STEP = 50
MORE_STEPS = 8
MORE_ROWS = MORE_STEPS * SMALL_STEP
FIRST_ROWS = 3000

# For each line it is sent: a process of its own that rolls up, and how that ended.
ROLLER = f"""
import django, os, sys; django.setup()
from django.db import connection
from usage.ledger import rollups
rollups.ROWS_MAX = {SMALL_STEP}
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        connection.ensure_connection()
        print(os.getpid(), flush=True)
        rollups.roll(int(line))
        os._exit(0)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture
def roller() -> Iterator[subprocess.Popen[str]]:
    variables = {**os.environ, **session_variables(), "DJANGO_SETTINGS_MODULE": "tokvigil_site.settings"}
    with subprocess.Popen(
        [sys.executable, "-c", ROLLER],
        cwd=CHECKOUT,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as started:
        yield started
        started.communicate(timeout=30)


def begin_to_roll(roller: subprocess.Popen[str], environment: Environment) -> int:
    """The process that does it."""
    assert roller.stdin is not None
    assert roller.stdout is not None
    roller.stdin.write(f"{environment.pk}\n")
    return int(roller.stdout.readline())


def ended(roller: subprocess.Popen[str]) -> int:
    assert roller.stdout is not None
    return int(roller.stdout.readline())


def kill_while_it_rolls(roller: subprocess.Popen[str], environment: Environment, after_s: float) -> bool:
    """Whether it was killed before it was done."""
    pid = begin_to_roll(roller, environment)
    time.sleep(after_s)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return ended(roller) == signal.SIGKILL


def fill_in_steps(environment: Environment, seed: int) -> None:
    """MORE_ROWS in as many transactions as a roll is to take steps."""
    for step in range(MORE_STEPS):
        fill(environment, SMALL_STEP, seed=MORE_STEPS * seed + step)


def whole_roll_s(roller: subprocess.Popen[str], environment: Environment) -> float:
    """What a roll of a kill's rows takes on this machine if nobody kills it: kills are drawn from that time."""
    fill(environment, FIRST_ROWS, seed=-1)
    roll_all(environment.pk)
    fill_in_steps(environment, KILLS)
    begin_to_roll(roller, environment)
    begun = time.monotonic()
    assert ended(roller) == 0
    return time.monotonic() - begun


def test_a_roll_that_is_killed_again_and_again_leaves_the_rows_of_one_that_was_not(
    environment: Environment, roller: subprocess.Popen[str]
) -> None:
    """Real processes, SIGKILLed at any moment; meanwhile rows come, up to 35 days late."""
    drawn = random.Random(3)
    killed_at_work = 0
    marks = set()
    whole_s = whole_roll_s(roller, environment)
    for kill in range(KILLS):
        fill_in_steps(environment, kill)
        killed_at_work += kill_while_it_rolls(roller, environment, drawn.random() * whole_s)
        with connection.cursor() as cursor:
            cursor.execute("SELECT xid FROM usage_rollup_mark WHERE environment_id = %s", [environment.pk])
            marks.add(cursor.fetchone())
    roll_all(environment.pk)
    after_kills = stored(environment.pk)

    with connection.cursor() as cursor:
        for table in (*FILLED, "usage_rollup_mark"):
            cursor.execute(f"DELETE FROM {table} WHERE environment_id = %s", [environment.pk])  # noqa: S608
    assert roll_all(environment.pk) == FIRST_ROWS + (KILLS + 1) * MORE_ROWS
    print(f"{killed_at_work} of {KILLS} were killed at work; the mark stood at {len(marks)} places")
    assert killed_at_work > KILLS / 2
    assert len(marks) > 10
    assert stored(environment.pk) == after_kills
