"""What policies about to be published would change of the calls of the last day, while somebody waits for it.

It is compared with what the policies in force would have decided of them: these may be younger than the calls.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from time import monotonic

from django.db import OperationalError
from django.utils import timezone

from policies import policy_rows
from policies.replaying import past_calls
from policies.replaying.past_calls import Progress
from policies.replaying.replay import replay
from policies.replaying.report import SimulationReport
from policies.resolution import StoredPolicy
from tenants.models import Environment
from usage.ledger import leading

logger = logging.getLogger("tokvigil.replays")

# More are replayed by a job.
AT_ONCE_MAX = 20_000
LAST = timedelta(days=1)
# Of the whole, and of each of the few statements that it asks.
WAIT_S = 0.8
STATEMENT_MS = 300


class Without(StrEnum):
    """Why there is no report."""

    TOO_MANY = "too many"
    TOO_SLOW = "too slow"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastDay:
    """`calls`: about how many there are; None: not counted in time. Either `report` or `without` is None."""

    start: datetime
    end: datetime
    calls: int | None
    report: SimulationReport | None = None
    without: Without | None = None


class _TimeIsOver(Exception):
    """The replay took WAIT_S."""


def last_day(environment: Environment, policies: Sequence[StoredPolicy]) -> LastDay:
    """Raises nothing: who publishes can do without it. Takes about WAIT_S at most."""
    give_up_at = monotonic() + WAIT_S
    end = timezone.now()
    start = end - LAST
    calls = None
    try:
        with leading.at_most(STATEMENT_MS):
            calls = past_calls.count(environment.pk, start, end)
            if calls > AT_ONCE_MAX:
                return LastDay(start=start, end=end, calls=calls, without=Without.TOO_MANY)
            report = replay(
                environment,
                policies,
                start,
                end,
                instead_of=policy_rows.in_force(environment.pk),
                progress=_until(give_up_at),
            )
            return LastDay(start=start, end=end, calls=calls, report=report)
    except (_TimeIsOver, OperationalError):
        without = Without.TOO_SLOW
    except Exception:
        logger.exception("the replay of the last day of %s failed", environment)
        without = Without.FAILED
    return LastDay(start=start, end=end, calls=calls, without=without)


def _until(give_up_at: float) -> Progress:
    def tell(done: int) -> None:
        if monotonic() >= give_up_at:
            raise _TimeIsOver

    return tell
