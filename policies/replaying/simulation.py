"""Evaluate over again: the same resolving and deciding, with counters in memory.

Calls come in the order of time, so of each pair (a kind of subject in a kind of window) one window is counted at a
time, and forgotten when it is over. What was used of windows that began before the replay is read from the ledger.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from policies.deciding import boosting
from policies.deciding.assessing import Call, EnvironmentState, assess
from policies.deciding.call_terms import CallTerms, TermsCache
from policies.deciding.decision import Decision, decide
from policies.deciding.snapshot import CallsAtOnce
from policies.replaying.past_calls import PastCall
from policies.resolution import PolicyIndex, StoredPolicy
from policies.rules import Mode
from usage.amounts import Amounts, Pair, Per, Subjects
from usage.assessment import Assessment, Reading
from usage.boosts import BoostRef
from usage.counting.tracked import CurrentWindows, TrackedPairs
from usage.instants import from_ms, to_ms
from usage.ledger import subject_sums
from usage.metrics import COLUMNS, METRICS, Metric
from usage.money import TOKENS_PER_RATE
from usage.prices.model_groups import ModelGroups
from usage.windows import Span


@dataclass(frozen=True, slots=True)
class Edition:
    """The policies that are in force from an instant on."""

    since_ms: int
    policies: Sequence[StoredPolicy]


class Simulation:
    """What calls have used of the limits so far. One call after the other, none before the last.

    `editions`: one, or several in the order of time; the first is in force from the beginning.
    """

    def __init__(
        self,
        environment_id: int,
        zone: ZoneInfo,
        editions: Sequence[Edition],
        state: EnvironmentState,
        boosts: Iterable[BoostRef],
        start: datetime,
        groups: ModelGroups,
    ) -> None:
        limits = [
            limit
            for edition in editions
            for policy in edition.policies
            if policy.rule.mode is not Mode.OFF
            for limit in policy.rule.limits
        ]
        self._state = state
        self._boosts = _by_subject(boosts)
        pairs = frozenset(limit.pair for limit in limits if limit.pair)
        self._counters = _Counters(TrackedPairs(environment_id, zone, pairs, groups), environment_id, start)
        self._groups = groups
        self._in_flight = _InFlight(
            {(limit.per, limit.models) for limit in limits if limit.metric is Metric.CONCURRENCY}, groups
        )
        self._coming = deque(editions)
        self._begin(self._coming.popleft())

    def _begin(self, edition: Edition) -> None:
        self._index = PolicyIndex(edition.policies)
        self._terms = TermsCache()

    def play(self, call: PastCall) -> Decision:
        """Decides the call, and counts what it uses if it is allowed. `call.amounts` are known."""
        return self.play_assessed(call)[1]

    def play_assessed(self, call: PastCall) -> tuple[Assessment, Decision]:
        """The same, with what was decided on."""
        subjects = _subjects(call)
        assessed, decision = self._decided(call, subjects)
        if decision.verdict.allowed:
            self._take(call, subjects, _charge(call, assessed, decision))
        return assessed, decision

    def judge(self, call: PastCall) -> Decision:
        """Decides the call and counts nothing."""
        return self._decided(call, _subjects(call))[1]

    def count(self, call: PastCall) -> None:
        """What the call used, whatever would have been decided. After `judge`, whose windows it is counted in."""
        assert call.amounts is not None
        self._take(call, _subjects(call), call.amounts)

    def _take(self, call: PastCall, subjects: Subjects, amounts: Amounts) -> None:
        self._counters.take(subjects, call.model, amounts)
        self._in_flight.take(call, subjects)

    def _decided(self, call: PastCall, subjects: Subjects) -> tuple[Assessment, Decision]:
        while self._coming and self._coming[0].since_ms <= call.at_ms:
            self._begin(self._coming.popleft())
        present = self._counters.at(call.at_ms)
        terms = self._terms_of(call, subjects, present)
        assessed = self._assessed(call, subjects, terms)
        return assessed, decide(assessed, self._readings(call, subjects, terms), call.at_ms)

    def _terms_of(self, call: PastCall, subjects: Subjects, present: CurrentWindows) -> CallTerms:
        matched = self._index.resolve(user=call.user_id, feature=call.feature, plan=call.plan)
        terms = self._terms.find(matched, subjects, present.spans, call.model, self._groups)
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
            # What kinds of tokens it announced is not kept.
            said={},
        )
        return assess(call, terms, self._state, past.price, output)

    def _readings(self, call: PastCall, subjects: Subjects, terms: CallTerms) -> list[Reading]:
        readings = [
            Reading(0, self._in_flight.count((limit.per, limit.models), subjects, call.at_ms))
            if pair is None
            else Reading(self._counters.used(pair, subjects, limit.metric), 0)
            for limit, pair in zip(terms.limits, terms.pairs, strict=True)
        ]
        if not call.held:
            return readings
        # What they held is known of a call that was blocked; of others only what they used in the end.
        return [
            Reading(reading.used, max(reading.held, call.held.get(limit.kind, 0)))
            for limit, reading in zip(terms.limits, readings, strict=True)
        ]


def _subjects(call: PastCall) -> Subjects:
    return Subjects(user_id=call.user_id, feature=call.feature, plan=call.plan, run_id=call.run_id)


def _charge(call: PastCall, assessed: Assessment, decision: Decision) -> Amounts:
    """What it used; less, if the decision left it less output than it produced."""
    used = call.amounts
    assert used is not None
    output = min(used.output_tokens, decision.amounts.output_tokens)
    if output == used.output_tokens:
        return used
    saved = (used.output_tokens - output) * assessed.output_rate // TOKENS_PER_RATE
    return Amounts(used.requests, used.input_tokens, output, max(0, used.cost_nano - saved))


# A counter's amounts in the order of `metrics.COUNTED`, and the places of those that a metric is the sum of.
_Used = list[int]
_PLACES = {row.metric: tuple(COLUMNS.index(column) for column in row.columns) for row in METRICS.values()}


class _Counters:
    """What was used, in the windows of now."""

    def __init__(self, tracked: TrackedPairs, environment_id: int, start: datetime) -> None:
        self._tracked = tracked
        self._environment_id = environment_id
        self._start = start
        self._present = CurrentWindows(0, 0, {}, ())
        self._spans: dict[Pair, Span] = {}
        self._used: dict[Pair, dict[str, _Used]] = {pair: {} for pair in tracked.pairs}

    def at(self, at_ms: int) -> CurrentWindows:
        if not self._present.since_ms <= at_ms < self._present.until_ms:
            self._present = self._tracked.at(at_ms)
            for slot in self._present.slots:
                if self._spans.get(slot.pair) != slot.span:
                    self._spans[slot.pair] = slot.span
                    self._used[slot.pair] = self._before(slot.pair, slot.span)
        return self._present

    def _before(self, pair: Pair, window: Span) -> dict[str, _Used]:
        if window.start >= to_ms(self._start):
            return {}
        counts = self._tracked.groups.counting(pair.models)
        _, used = subject_sums.of_all(
            self._environment_id, pair.per, from_ms(window.start), self._start, counts
        )
        return {name: list(amounts) for name, amounts in used.items()}

    def used(self, pair: Pair, subjects: Subjects, metric: Metric) -> int:
        name = subjects.name(pair.per)
        used = None if name is None else self._used[pair].get(name)
        return 0 if used is None else sum([used[place] for place in _PLACES[metric]])

    def take(self, subjects: Subjects, model: str, amounts: Amounts) -> None:
        for pair, used in self._used.items():
            if pair.models and not self._tracked.groups.counts(pair.models, model):
                continue
            name = subjects.name(pair.per)
            if name is None:
                continue
            before = used.get(name)
            if before is None:
                used[name] = list(amounts)
            else:
                for place, amount in enumerate(amounts):
                    before[place] += amount


class _InFlight:
    """Calls between their decision and their report, for limits on how many there may be at once."""

    def __init__(self, kinds: set[CallsAtOnce], groups: ModelGroups) -> None:
        self._kinds = tuple(sorted(kinds))
        self._groups = groups
        self._counts: Counter[tuple[CallsAtOnce, str]] = Counter()
        self._ends: list[tuple[int, CallsAtOnce, str]] = []

    def take(self, call: PastCall, subjects: Subjects) -> None:
        for kind in self._kinds:
            per, models = kind
            name = subjects.name(per)
            if name is not None and self._groups.counts(models, call.model):
                self._counts[kind, name] += 1
                heapq.heappush(self._ends, (call.ended_ms, kind, name))

    def count(self, kind: CallsAtOnce, subjects: Subjects, at_ms: int) -> int:
        while self._ends and self._ends[0][0] <= at_ms:
            _, ended_kind, ended_name = heapq.heappop(self._ends)
            self._counts[ended_kind, ended_name] -= 1
            if not self._counts[ended_kind, ended_name]:
                del self._counts[ended_kind, ended_name]
        per, _ = kind
        name = subjects.name(per)
        return 0 if name is None else self._counts[kind, name]


def _by_subject(boosts: Iterable[BoostRef]) -> Mapping[tuple[Per, str], list[BoostRef]]:
    found: dict[tuple[Per, str], list[BoostRef]] = defaultdict(list)
    for boost in boosts:
        found[boost.per, boost.subject].append(boost)
    return dict(found)
