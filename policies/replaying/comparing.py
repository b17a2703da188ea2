"""Compares what was decided with what a simulation decides, call by call."""

from __future__ import annotations

from collections import Counter

import msgspec

from policies.deciding.decision import Verdict
from policies.reasons import ReasonClass
from policies.replaying.past_calls import BY_OUTAGE, BY_STAFF, Block, PastCall
from policies.replaying.report import SimulationSelfCheck
from policies.replaying.simulation import Simulation
from policies.replaying.tally import Tally
from usage.amounts import digest

OUTAGE = "the counters could not be read"
NOT_KEPT = "what it needed was not kept"
IN_FLIGHT = "blocked by what calls in flight held, which was more than they used in the end"
NOT_ASKED = "reported without a policy having allowed it"
OTHERWISE = (
    "boosts, prices, plans or the default action were different, or the call named a cap on its output"
)


class Comparing:
    """Other policies against what was decided; or, if there is `before`, against what this decides."""

    def __init__(self, simulation: Simulation, tally: Tally, before: Simulation | None = None) -> None:
        self._simulation = simulation
        self._before = before
        self.tally = tally
        # Requests that were blocked and would have been allowed: their repeats would not have been made.
        self._passed: set[str] = set()

    def compare(self, call: PastCall) -> None:
        if self._passed and digest(call.request_id) in self._passed:
            self.tally.retry()
            return
        why = undecidable(call)
        if why:
            self.tally.undecidable(call, why)
        elif call.blocked is not None and call.blocked.reason_code in BY_STAFF:
            self.tally.unchanged(call)
        else:
            self._decide(call)

    def _decide(self, past: PastCall) -> None:
        call, output = self._as_before(past)
        decision = self._simulation.play(call)
        verdict = decision.verdict
        if past.blocked is not None and (call.blocked is None or verdict.allowed):
            self._passed.add(digest(call.request_id))
        if call.blocked is None:
            if verdict.allowed:
                self.tally.unchanged(call, cut_short=decision.amounts.output_tokens < output)
            else:
                self.tally.newly_blocked(call, verdict)
        elif verdict.allowed:
            self.tally.newly_allowed(call, verdict)
        else:
            self.tally.unchanged(call, other_reason=verdict.reason_code != call.blocked.reason_code)

    def _as_before(self, call: PastCall) -> tuple[PastCall, int]:
        """With what it is compared with, and the output that it has there."""
        assert call.amounts is not None
        output = call.amounts.output_tokens
        if self._before is None:
            return call, output
        decision = self._before.play(call)
        return _as_decided(call, decision.verdict), min(output, decision.amounts.output_tokens)


class Checking:
    """The policies that were in force against what was decided: a difference is what a replay cannot know.

    After one, the simulation goes on with what really happened.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._same = 0
        self._why: Counter[str] = Counter()

    def compare(self, call: PastCall) -> None:
        if not _is_decided_by_policies(call):
            return
        allowed = self._simulation.judge(call).verdict.allowed
        if call.blocked is None:
            self._simulation.count(call)
        if allowed is (call.blocked is None):
            self._same += 1
        else:
            self._why[_why(call)] += 1

    def found(self) -> SimulationSelfCheck:
        differing = sum(self._why.values())
        return SimulationSelfCheck(
            compared=self._same + differing,
            same=self._same,
            differing=differing,
            why=dict(sorted(self._why.items())),
        )


def _as_decided(call: PastCall, verdict: Verdict) -> PastCall:
    """In the place of what was decided."""
    policy = verdict.policy
    return msgspec.structs.replace(
        call,
        blocked=None if verdict.allowed else _block(verdict),
        policy="" if policy is None else policy.name,
        policy_version=None if policy is None else policy.version,
    )


def _block(verdict: Verdict) -> Block:
    policy = verdict.policy
    return Block(
        reason_code=verdict.reason_code,
        reason_class=verdict.reason_class,
        message=verdict.message,
        policy="" if policy is None else policy.name,
        policy_version=None if policy is None else policy.version,
    )


def _is_decided_by_policies(call: PastCall) -> bool:
    """And nobody else, as far as that can be said."""
    return not undecidable(call) and (call.blocked is None or call.blocked.reason_code not in BY_STAFF)


def undecidable(call: PastCall) -> str:
    """Why nobody can say what other policies would have decided; empty if that can be said."""
    if call.blocked is not None and call.blocked.reason_code in BY_OUTAGE:
        return OUTAGE
    return NOT_KEPT if call.amounts is None else ""


def _why(call: PastCall) -> str:
    if call.blocked is None:
        return OTHERWISE if call.by_policy else NOT_ASKED
    return IN_FLIGHT if call.blocked.reason_class == ReasonClass.TRANSIENT else OTHERWISE
