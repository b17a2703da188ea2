"""When a call to the control plane is tried again, and after how long. Pure: the caller sleeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom

# Other statuses are answers, not accidents. A 500 is a defect that a second try would only meet again.
RETRYABLE_STATUSES = frozenset({408, 429, 502, 503, 504})

DELAY_S_FIRST = 0.2
DELAY_S_MAX = 4.0
# A server that asks for more is obeyed by not retrying at all: a guard in front of an AI call must not hang.
RETRY_AFTER_S_MAX = 5.0
# No server means more: no limit's window is longer than a year.
WAIT_S_MAX = 366 * 24 * 3600
RETRIES_MAX = 10
DOUBLINGS_MAX = 10
# Of its own: an application that seeds `random` gets the same numbers with the SDK as without it, and forked children
# differ from each other.
_random = SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    retries_max: int

    def delay_s(self, attempt: int, retry_after_s: float | None = None) -> float | None:
        """As `backoff_s`, or None to give up."""
        if attempt >= self.retries_max:
            return None
        if retry_after_s is not None and retry_after_s > RETRY_AFTER_S_MAX:
            return None
        return backoff_s(attempt, retry_after_s)


def backoff_s(
    attempt: int,
    retry_after_s: float | None = None,
    *,
    first_s: float = DELAY_S_FIRST,
    max_s: float = DELAY_S_MAX,
) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): never less than the server asked for.

    Spread from one half to the whole, so that many clients do not come back together.
    """
    doubled_s = first_s * 2.0 ** min(attempt, DOUBLINGS_MAX)
    return max(min(max_s, doubled_s) * _random.uniform(0.5, 1.0), retry_after_s or 0.0)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header, a number or an HTTP date: at most `WAIT_S_MAX`; None if it says none."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(0.0, seconds), WAIT_S_MAX) if seconds == seconds else None  # NaN is no time
