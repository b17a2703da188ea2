"""Replaying a trace as traffic of an environment: evaluate, then usage, for each row.

In this process and not over HTTP: it needs no running server, works wherever the other commands do, and its figures are
those of decision, counters and ledger alone. (The demo's conversations take the way over HTTP and the SDK.)

A trace names no users. Users, their plans, features and, where the trace does not tell them, models are assigned by a
hash of the row's number, so that every replay of a file is the same traffic. It happens now, whatever the trace says.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b

import msgspec
from django.utils import timezone

from audit.log import acting_as
from policies.deciding import evaluation
from policies.deciding.evaluate_request import EvaluateRequest
from tenants import keys, scopes
from tenants.api.callers import Caller
from tenants.models import ApiKey, Environment
from tenants.scopes import PRESETS
from tokvigil_site.demo.parallel import for_each
from tokvigil_site.demo.trace import Row, Trace
from usage.counting.release import NotOpen, release
from usage.counting.store import StoreUnavailable
from usage.money import parse_usd
from usage.settling.reports import admit, record_report
from usage.settling.usage_report import UsageReceipt, UsageReport

ACTOR = "cli:replay_trace"
# Each thread has a database connection.
PARALLEL, PARALLEL_MAX = 8, 12
KEY_LIVES = timedelta(days=1)

USERS = 200
# One name per share: of ten calls six are chats.
FEATURES = ("chat",) * 6 + ("summarize",) * 2 + ("code", "translate")
MODELS = ("gpt-4o-mini",) * 7 + ("gpt-4o",) * 2 + ("claude-haiku-4-5",)
PLANS = ("free",) * 6 + ("pro",) * 3 + ("enterprise",)
ASSIGNMENT = (
    f"{USERS} users, their plans, features and (where the trace names none) models are not in the trace; "
    "they are assigned by a hash of the row's number"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    user: str
    plan: str
    feature: str
    model: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the rows; complete once the replay has returned. Money is nano-USD, times are seconds."""

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    # One of the messages for each reason of a block.
    messages: dict[str, str] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    unpriced: int = 0
    cut: int = 0
    elapsed_s: float = 0.0
    evaluate_s: array[float] = field(default_factory=lambda: array("d"))

    def evaluate_ms(self, share: float) -> float:
        """The time that this share of the evaluates took at most."""
        ordered = sorted(self.evaluate_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def assign(row: Row) -> Assigned:
    hashed = blake2b(str(row.number).encode(), digest_size=8).digest()
    # Squared, so that some users call far more often than others.
    user = int(USERS * (int.from_bytes(hashed[:2]) / 2**16) ** 2)
    return Assigned(
        user=f"trace-user-{user:03}",
        plan=PLANS[user % len(PLANS)],
        feature=FEATURES[hashed[3] % len(FEATURES)],
        model=row.model or MODELS[hashed[4] % len(MODELS)],
    )


def replay(
    trace: Trace,
    environment: Environment,
    *,
    speed: float | None = None,
    parallel: int = PARALLEL,
    step: Callable[[], None],
) -> Outcome:
    """`speed` 2 replays an hour in half of one; None as fast as it goes. Raises DatabaseError, Problem."""
    # A key of its own: usage names the key it came with, and no secret of an older one is known.
    with acting_as(ACTOR):
        key, text = ApiKey.issue(
            environment, "replay_trace", PRESETS["server"], expires_at=timezone.now() + KEY_LIVES
        )
    try:
        run = _Run(key, text, step)
        started = time.monotonic()
        for_each(_paced(trace.rows(), speed), run.send, threads=parallel)
        run.outcome.elapsed_s = time.monotonic() - started
    finally:
        with acting_as(ACTOR):
            key.revoke()
    return run.outcome


def _paced(rows: Iterator[Row], speed: float | None) -> Iterator[Row]:
    """Each row when it is due."""
    started, first_s = time.monotonic(), None
    for row in rows:
        first_s = row.at_s if first_s is None else first_s
        if speed is not None:
            time.sleep(max(0.0, started + (row.at_s - first_s) / speed - time.monotonic()))
        yield row


class _Run:
    def __init__(self, key: ApiKey, text: str, step: Callable[[], None]) -> None:
        presented = keys.parse(text)
        assert presented is not None
        self.outcome = Outcome()
        self._caller = Caller(presented=presented, address="127.0.0.1", scope=scopes.EVALUATE)
        self._reporter = msgspec.structs.replace(self._caller, scope=scopes.USAGE_WRITE)
        self._step = step
        self._counting = threading.Lock()

    def send(self, row: Row) -> None:
        assigned = assign(row)
        request = EvaluateRequest(
            user_id=assigned.user,
            model=assigned.model,
            feature=assigned.feature,
            plan=assigned.plan,
            input_tokens=row.input_tokens,
        )
        started = time.perf_counter()
        evaluated = evaluation.evaluate(request, evaluation.admit(self._caller))
        evaluate_s = time.perf_counter() - started
        verdict, assessed = evaluated.decision.verdict, evaluated.assessment
        report = receipt = None
        if verdict.allowed:
            # As the SDK has it: the provider is given the decision's cap, which is what is held.
            report = UsageReport(
                request_id=assessed.request_id,
                user_id=assigned.user,
                model=assigned.model,
                feature=assigned.feature,
                plan=assigned.plan,
                input_tokens=row.input_tokens if row.output_tokens else 0,
                output_tokens=min(row.output_tokens, evaluated.decision.amounts.output_tokens),
                status="succeeded" if row.output_tokens else "failed",
            )
            receipt = self._record(report, evaluated)
        elif evaluated.degraded:
            self._drop(evaluated)
        with self._counting:
            self._count(row, verdict.reason_code, verdict.message, report, receipt)
            self.outcome.evaluate_s.append(evaluate_s)
        self._step()

    def _record(self, report: UsageReport, evaluated: evaluation.Evaluated) -> UsageReceipt:
        admitted = admit(self._reporter, evaluated.snapshot.counting, [report])
        return record_report(report, admitted)

    def _drop(self, evaluated: evaluation.Evaluated) -> None:
        """Nobody knows whether a degraded call was held; it never goes out."""
        with suppress(NotOpen, StoreUnavailable):
            release(evaluated.snapshot.environment_id, evaluated.assessment.request_id)

    def _count(
        self, row: Row, reason: str, message: str, report: UsageReport | None, receipt: UsageReceipt | None
    ) -> None:
        outcome = self.outcome
        outcome.rows += 1
        outcome.reasons[reason] += 1
        if report is None or receipt is None:
            outcome.messages.setdefault(reason, message)
            return
        outcome.input_tokens += report.input_tokens
        outcome.output_tokens += report.output_tokens
        outcome.cut += report.output_tokens < row.output_tokens
        outcome.unpriced += not receipt.priced
        outcome.cost_nano += 0 if receipt.cost_usd is None else parse_usd(receipt.cost_usd)
