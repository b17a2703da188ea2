"""The terms of a call: all that follows from which policies match it, whatever its amounts. Pure.

The same for many calls, so a snapshot keeps them (`TermsCache`) for as long as the windows last.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from policies.resolution import Matched, StoredPolicy
from policies.rules import LimitRule, Mode, OnUnavailable, OnUnsettled, PolicyRule
from usage.amounts import TOKENS_MAX, Models, Pair, Subjects
from usage.assessment import LimitRef, PolicyRef
from usage.metrics import METRICS, Metric
from usage.prices.model_groups import ModelGroups
from usage.windows import Span, Window

TERMS_MAX = 10_000
WILDCARDS = frozenset("*?")
# What an answer adds to: its tokens, and their cost.
OUTPUT_METRICS = frozenset(
    row.metric for row in METRICS.values() if {"output_tokens", "cost_nano"} & set(row.columns)
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallTerms:
    matched: Matched
    policies: tuple[PolicyRef, ...]
    limits: tuple[LimitRef, ...]
    # Of each limit the pair it reads; None for concurrency, which reads the calls in flight of its kind of subject.
    pairs: tuple[Pair | None, ...]
    # The tightest cap on output per request.
    output_cap: int | None
    # Whether a policy in force stands or falls with how much the call produces.
    bounds_output: bool
    # The models that allow lists in force name in full, without a wildcard, in their order.
    named_models: tuple[str, ...]
    charge_on_expiry: bool
    # Whether the policies let calls pass while counters cannot be read; None: there are none to say.
    allow_unavailable: bool | None
    # What boosts have added to the limits; by `boosts.raised`. None: no boost runs.
    boosted: dict[str, int] | None = None


def terms_of(
    matched: Matched, subjects: Subjects, spans: dict[Window, Span], counted: Collection[Models]
) -> CallTerms:
    """`counted`: of what limits name as their models that which meets the model of the call."""
    found = [
        (place, policy, limit)
        for place, policy in enumerate(matched.policies)
        for limit in policy.rule.limits
        # A call without a feature (plan, run) belongs to no feature's counter, so its limit does not meet it.
        if subjects.name(limit.per) is not None and (not limit.models or limit.models in counted)
    ]
    enforced = [policy.rule for policy in matched.policies if policy.rule.mode is Mode.ENFORCE]
    caps = [rule.per_request.output_tokens for rule in enforced]
    return CallTerms(
        matched=matched,
        policies=tuple(policy.ref for policy in matched.policies),
        limits=tuple(_limit_ref(place, policy, limit, spans) for place, policy, limit in found),
        pairs=tuple(limit.pair for _, _, limit in found),
        # One that no call can reach is none: it would be held for each call that does not say what it may produce.
        output_cap=min((cap for cap in caps if cap is not None and cap <= TOKENS_MAX), default=None),
        bounds_output=any(_caps_output(rule) for rule in enforced)
        or any(
            limit.metric in OUTPUT_METRICS and policy.rule.mode is Mode.ENFORCE for _, policy, limit in found
        ),
        named_models=tuple(
            dict.fromkeys(
                name for rule in enforced for name in rule.models.allow if not WILDCARDS & set(name)
            )
        ),
        charge_on_expiry=any(rule.on_unsettled is OnUnsettled.CHARGE for rule in enforced),
        # One policy in force that blocks is enough to block.
        allow_unavailable=all(rule.on_unavailable is OnUnavailable.ALLOW for rule in enforced)
        if enforced
        else None,
    )


def _caps_output(rule: PolicyRule) -> bool:
    caps = rule.per_request
    return caps.output_tokens is not None or caps.cost_nano is not None


def _limit_ref(place: int, policy: StoredPolicy, limit: LimitRule, spans: dict[Window, Span]) -> LimitRef:
    return LimitRef(
        policy=place,
        metric=limit.metric,
        window=limit.window,
        per=limit.per,
        amount=limit.amount,
        resets_at_ms=None if limit.metric is Metric.CONCURRENCY else spans[limit.window].end,
        enforce=policy.rule.mode is Mode.ENFORCE,
        models=limit.models,
    )


# Which subjects a call has, and which models of limits meet its own.
Kinds = tuple[bool, bool, bool, tuple[Models, ...]]


class TermsCache:
    """A cache of call terms; asked with other windows, it starts anew."""

    def __init__(self) -> None:
        self._known: tuple[dict[Window, Span], dict[tuple[Matched, Kinds], CallTerms]] = ({}, {})

    def find(
        self,
        matched: Matched,
        subjects: Subjects,
        spans: dict[Window, Span],
        model: str,
        groups: ModelGroups,
    ) -> CallTerms:
        known_spans, known = self._known
        if known_spans is not spans or len(known) >= TERMS_MAX:
            known = {}
            self._known = (spans, known)
        counted = (
            tuple([named for named in matched.models_of_limits if groups.of(named).counts(model)])
            if matched.models_of_limits
            else ()
        )
        key = (matched, (bool(subjects.feature), bool(subjects.plan), bool(subjects.run_id), counted))
        terms = known.get(key)
        if terms is None:
            terms = known[key] = terms_of(matched, subjects, spans, counted)
        return terms
