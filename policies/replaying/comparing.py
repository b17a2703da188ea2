"""Compares what was decided with what a simulation decides, call by call."""

from __future__ import annotations

from collections import Counter

from policies.reasons import ReasonClass
from policies.replaying.past_calls import BY_OUTAGE, BY_STAFF, PastCall
from policies.replaying.report import SelfCheck, Tally
from policies.replaying.simulation import Simulation
from usage.amounts import digest

OUTAGE = "the counters could not be read"
NOT_KEPT = "what it needed was not kept"
IN_FLIGHT = "blocked by what calls in flight held, which was more than they used in the end"
NOT_ASKED = "reported without a policy having allowed it"
OTHERWISE = (
    "boosts, prices, plans or the default action were different, or the call named a cap on its output"
)


class Comparing:
    """Other policies against what was decided."""

    def __init__(self, simulation: Simulation, tally: Tally) -> None:
        self._simulation = simulation
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

    def _decide(self, call: PastCall) -> None:
        verdict = self._simulation.play(call).verdict
        if call.blocked is None:
            if verdict.allowed:
                self.tally.unchanged(call)
            else:
                self.tally.newly_blocked(call, verdict)
        elif verdict.allowed:
            self._passed.add(digest(call.request_id))
            self.tally.newly_allowed(call, verdict)
        else:
            self.tally.unchanged(call, other_reason=verdict.reason_code != call.blocked.reason_code)


class Checking:
    """The policies that were in force against what was decided: a difference is what a replay cannot know.

    After one, the simulation goes on with what really happened.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._same = 0
        self._why: Counter[str] = Counter()

    def compare(self, call: PastCall) -> None:
        if undecidable(call) or (call.blocked is not None and call.blocked.reason_code in BY_STAFF):
            return
        allowed = self._simulation.judge(call).verdict.allowed
        if call.blocked is None:
            self._simulation.count(call)
        if allowed is (call.blocked is None):
            self._same += 1
        else:
            self._why[_why(call)] += 1

    def found(self) -> SelfCheck:
        differing = sum(self._why.values())
        return SelfCheck(
            compared=self._same + differing,
            same=self._same,
            differing=differing,
            why=dict(sorted(self._why.items())),
        )


def undecidable(call: PastCall) -> str:
    """Why nobody can say what other policies would have decided; empty if that can be said."""
    if call.blocked is not None and call.blocked.reason_code in BY_OUTAGE:
        return OUTAGE
    return NOT_KEPT if call.amounts is None else ""


def _why(call: PastCall) -> str:
    if call.blocked is None:
        return OTHERWISE if call.by_policy else NOT_ASKED
    return IN_FLIGHT if call.blocked.reason_class == ReasonClass.TRANSIENT else OTHERWISE
