"""The pairs that an environment tracks, in their windows of now: which counters take a call."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import msgspec

from usage.amounts import Models, Pair, Per, Subjects, subject_digest
from usage.counting.keys import concurrency_key, environment_prefix
from usage.prices.model_groups import ModelGroup, ModelGroups
from usage.windows import Span, Window, span

DAY_MS = 24 * 3600 * 1000
# A counter outlives its window, for late reports.
COUNTER_GRACE_MS = 2 * DAY_MS
FOREVER_MS = 2**52


class PairWindow(msgspec.Struct, frozen=True, eq=False):
    """A pair in its present window: the part of a counter that is the same for all subjects."""

    pair: Pair
    span: Span
    key_prefix: str
    # Start of the window, when a counter of it may be forgotten (0: when unused for long), name of the pair.
    arguments: tuple[int, int, str]
    # None: it counts calls to all models.
    group: ModelGroup | None = None

    @property
    def name(self) -> str:
        """Of the pair, in the store."""
        return self.arguments[2]


class Counter(msgspec.Struct, frozen=True, eq=False):
    """One subject in one span of a window."""

    key: str
    slot: PairWindow


class CurrentWindows(msgspec.Struct, frozen=True, eq=False):
    """The windows of now: right from `since_ms` until before `until_ms`, by the store's clock."""

    since_ms: int
    until_ms: int
    spans: dict[Window, Span]
    slots: tuple[PairWindow, ...]

    def within(self, other: Span) -> CurrentWindows:
        """Right no longer than something else that the call depends on."""
        return msgspec.structs.replace(
            self,
            since_ms=max(self.since_ms, other.start),
            until_ms=self.until_ms if other.end is None else min(self.until_ms, other.end),
        )

    def counters(self, subjects: Subjects, model: str) -> tuple[Counter, ...]:
        """The counters that take a call of these subjects to this model."""
        digests: dict[Per, str | None] = {}
        found = []
        for slot in self.slots:
            if slot.group is not None and not slot.group.counts(model):
                continue
            per = slot.pair.per
            if per not in digests:
                subject = subjects.name(per)
                digests[per] = None if subject is None else subject_digest(subject)
            digested = digests[per]
            if digested is not None:
                found.append(Counter(slot.key_prefix + digested, slot))
        return tuple(found)


class TrackedPairs:
    """The pairs an environment tracks, with their present windows at hand.

    Windows are cut by the caller, for the store knows no time zones; the store checks that its own clock lies inside.
    """

    def __init__(
        self, environment_id: int, zone: ZoneInfo, pairs: frozenset[Pair], groups: ModelGroups
    ) -> None:
        self.environment_id = environment_id
        self.zone = zone
        self.pairs = pairs
        self.groups = groups
        self.windowed = tuple(sorted(pairs, key=self.name))
        self._current = self._earlier = CurrentWindows(0, 0, {}, ())

    def at(self, at_ms: int) -> CurrentWindows:
        for known in (self._current, self._earlier):
            if known.since_ms <= at_ms < known.until_ms:
                return known
        found = self._cut(at_ms)
        # Late reports come for windows that are over; those of now stay at hand meanwhile. Another thread may replace
        # either at the same time; each uses what it computed.
        if at_ms < self._current.since_ms:
            self._earlier = found
        else:
            self._current = found
        return found

    def _cut(self, at_ms: int) -> CurrentWindows:
        spans = {window: self.span(window, at_ms) for window in {pair.window for pair in self.windowed}}
        return CurrentWindows(
            since_ms=max((found.start for found in spans.values()), default=0),
            until_ms=min(
                (found.end for found in spans.values() if found.end is not None), default=FOREVER_MS
            ),
            spans=spans,
            slots=tuple(self.slot(pair, spans[pair.window]) for pair in self.windowed),
        )

    def name(self, pair: Pair) -> str:
        """In the store: `user:month`, `user:month:5e1f23a08c41` of some models."""
        return self._kind(f"{pair.per}:{pair.window}", pair.models)

    def told(self, pair: Pair) -> str:
        """Its name, and what its models mean: `user:month:5e1f23a08c41=07be11f3c2d9`."""
        means = self.groups.of(pair.models).means if pair.models else ""
        return f"{self.name(pair)}={means}" if means else self.name(pair)

    def _kind(self, name: str, models: Models) -> str:
        return f"{name}:{self.groups.of(models).digest}" if models else name

    def span(self, window: Window, at_ms: int) -> Span:
        return span(window, at_ms, self.zone)

    def slot(self, pair: Pair, window: Span) -> PairWindow:
        name = self.name(pair)
        prefix = f"{environment_prefix(self.environment_id)}c:{name}:{window.start}:"
        forget_at = 0 if window.end is None else window.end + COUNTER_GRACE_MS
        group = self.groups.of(pair.models) if pair.models else None
        return PairWindow(pair, window, prefix, (window.start, forget_at, name), group)

    def concurrency_key(self, per: Per, models: Models, subjects: Subjects) -> str | None:
        subject = subjects.name(per)
        return (
            None
            if subject is None
            else concurrency_key(self.environment_id, self._kind(per, models), subject)
        )
