"""Evaluate over again: the same resolving and deciding, with counters in memory.

Calls come in the order of time, so of each pair (a kind of subject in a kind of window) one window is counted at a
time, and forgotten when it is over. What was used of windows that began before the replay is read from the ledger.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from policies.deciding import boosting
from policies.deciding.assessing import Call, EnvironmentState, assess
from policies.deciding.call_terms import CallTerms, TermsCache
from policies.deciding.decision import Decision, decide
from policies.replaying.past_calls import PastCall
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Mode
from usage.amounts import Amounts, Pair, Per, Subjects
from usage.assessment import Assessment, Reading
from usage.boosts import BoostRef
from usage.counting.tracked import CurrentWindows, TrackedPairs
from usage.instants import from_ms, to_ms
from usage.ledger import sums
from usage.metrics import Metric
from usage.money import TOKENS_PER_RATE
from usage.windows import Span

_NOTHING = Amounts()


class Simulation:
    """Policies, and what calls have used of their limits so far. One call after the other, none before the last."""

    def __init__(
        self,
        environment_id: int,
        zone: ZoneInfo,
        policies: Sequence[StoredPolicy],
        state: EnvironmentState,
        boosts: Iterable[BoostRef],
        start: datetime,
    ) -> None:
        counted = [policy for policy in policies if policy.rule.mode is not Mode.OFF]
        limits = [limit for policy in counted for limit in policy.rule.limits]
        self._index = PolicyIndex(policies)
        self._terms = TermsCache()
        self._state = state
        self._boosts = _by_subject(boosts)
        self._tracked = TrackedPairs(
            environment_id, zone, frozenset(limit.pair for limit in limits if limit.pair)
        )
        self._counters = _Counters(self._tracked, environment_id, start)
        self._in_flight = _InFlight({limit.per for limit in limits if limit.metric is Metric.CONCURRENCY})

    def play(self, call: PastCall) -> Decision:
        """Decides the call, and counts it if it is allowed. `call.amounts` are known."""
        subjects = Subjects(user_id=call.user_id, feature=call.feature, plan=call.plan, run_id=call.run_id)
        present = self._counters.at(call.at_ms)
        terms = self._terms_of(call, subjects, present)
        assessed = self._assessed(call, subjects, terms)
        decision = decide(assessed, self._readings(call, subjects, terms), call.at_ms)
        if decision.verdict.allowed:
            self._counters.take(subjects, _charge(call, assessed, decision))
            self._in_flight.take(call, subjects)
        return decision

    def _terms_of(self, call: PastCall, subjects: Subjects, present: CurrentWindows) -> CallTerms:
        matched = self._index.resolve(user=call.user_id, feature=call.feature, plan=call.plan)
        terms = self._terms.find(matched, subjects, present.spans)
        if not self._boosts:
            return terms
        own = [
            boost
            for per in {per for per, _ in self._boosts}
            if (name := subjects.name(per)) is not None
            for boost in self._boosts.get((per, name), ())
        ]
        return boosting.boosted(terms, own, subjects, call.at_ms)[0] if own else terms

    def _assessed(self, past: PastCall, subjects: Subjects, terms: CallTerms) -> Assessment:
        assert past.amounts is not None
        output = past.amounts.output_tokens
        if past.cap is None and terms.output_cap is not None:
            output = min(output, terms.output_cap)
        call = Call(
            request_id=past.request_id,
            subjects=subjects,
            model=past.model,
            asked=Amounts(requests=1, input_tokens=past.amounts.input_tokens),
            max_output_tokens=past.cap,
            user_blocked=False,
        )
        return assess(call, terms, self._state, past.price, output)

    def _readings(self, call: PastCall, subjects: Subjects, terms: CallTerms) -> list[Reading]:
        found = []
        for limit, pair in zip(terms.limits, terms.pairs, strict=True):
            if pair is None:
                found.append(Reading(0, self._in_flight.count(limit.per, subjects, call.at_ms)))
            else:
                found.append(Reading(self._counters.used(pair, subjects).of(limit.metric), 0))
        return found


def _charge(call: PastCall, assessed: Assessment, decision: Decision) -> Amounts:
    """What it used; less, if the decision left it less output than it produced."""
    used = call.amounts
    assert used is not None
    output = min(used.output_tokens, decision.amounts.output_tokens)
    if output == used.output_tokens:
        return used
    saved = (used.output_tokens - output) * assessed.output_rate // TOKENS_PER_RATE
    return Amounts(used.requests, used.input_tokens, output, max(0, used.cost_nano - saved))


class _Counters:
    """What was used, in the windows of now."""

    def __init__(self, tracked: TrackedPairs, environment_id: int, start: datetime) -> None:
        self._tracked = tracked
        self._environment_id = environment_id
        self._start = start
        self._present = CurrentWindows(0, 0, {}, ())
        self._spans: dict[Pair, Span] = {}
        self._used: dict[Pair, dict[str, Amounts]] = {pair: {} for pair in tracked.pairs}

    def at(self, at_ms: int) -> CurrentWindows:
        if not self._present.since_ms <= at_ms < self._present.until_ms:
            self._present = self._tracked.at(at_ms)
            for slot in self._present.slots:
                if self._spans.get(slot.pair) != slot.span:
                    self._spans[slot.pair] = slot.span
                    self._used[slot.pair] = self._before(slot.pair, slot.span)
        return self._present

    def _before(self, pair: Pair, window: Span) -> dict[str, Amounts]:
        if window.start >= to_ms(self._start):
            return {}
        _, used = sums.of_all(self._environment_id, pair.per, from_ms(window.start), self._start)
        return used

    def used(self, pair: Pair, subjects: Subjects) -> Amounts:
        name = subjects.name(pair.per)
        return _NOTHING if name is None else self._used[pair].get(name, _NOTHING)

    def take(self, subjects: Subjects, amounts: Amounts) -> None:
        for pair, used in self._used.items():
            name = subjects.name(pair.per)
            if name is not None:
                before = used.get(name)
                used[name] = amounts if before is None else _sum(before, amounts)


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(*(left + right for left, right in zip(one, other, strict=True)))


class _InFlight:
    """Calls between their decision and their report, for limits on how many there may be at once."""

    def __init__(self, pers: set[Per]) -> None:
        self._pers = tuple(sorted(pers))
        self._counts: Counter[tuple[Per, str]] = Counter()
        self._ends: list[tuple[int, Per, str]] = []

    def take(self, call: PastCall, subjects: Subjects) -> None:
        for per in self._pers:
            name = subjects.name(per)
            if name is not None:
                self._counts[per, name] += 1
                heapq.heappush(self._ends, (call.ended_ms, per, name))

    def count(self, per: Per, subjects: Subjects, at_ms: int) -> int:
        while self._ends and self._ends[0][0] <= at_ms:
            _, ended_per, ended_name = heapq.heappop(self._ends)
            self._counts[ended_per, ended_name] -= 1
            if not self._counts[ended_per, ended_name]:
                del self._counts[ended_per, ended_name]
        name = subjects.name(per)
        return 0 if name is None else self._counts[per, name]


def _by_subject(boosts: Iterable[BoostRef]) -> Mapping[tuple[Per, str], list[BoostRef]]:
    found: dict[tuple[Per, str], list[BoostRef]] = defaultdict(list)
    for boost in boosts:
        found[boost.per, boost.subject].append(boost)
    return dict(found)
