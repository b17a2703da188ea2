"""Why a call is allowed or blocked, as questions answered in order: what Try it shows, and the page of a decision.

Frozen? Is the user blocked? Which policies, and why each does or does not match? May such a call be made at all? And
each limit, as it stood. All are answered, also after one that blocks: `stops` is the one that decided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from policies.deciding.decision import Decision, LimitFinding, Verdict
from policies.deciding.evaluation import Evaluated
from policies.describing import reason_words
from policies.reasons import Reason
from policies.resolution import Candidate, PolicyIndex, StoredPolicy
from policies.rules import Kind, Mode, Scope
from usage import wording
from usage.assessment import Assessment
from usage.instants import from_ms
from usage.metrics import Metric


class Question(StrEnum):
    FROZEN = "frozen"
    USER = "user"
    POLICIES = "policies"
    CALL = "call"
    LIMITS = "limits"


_DECIDED_BY = {
    Reason.NO_POLICY: Question.POLICIES,
    Reason.ENVIRONMENT_FROZEN: Question.FROZEN,
    Reason.FEATURE_FROZEN: Question.FROZEN,
    Reason.USER_BLOCKED: Question.USER,
    Reason.MODEL_NOT_ALLOWED: Question.CALL,
    Reason.MODEL_DENIED: Question.CALL,
    Reason.PRICE_UNKNOWN: Question.CALL,
    Reason.REQUEST_TOKENS_EXCEEDED: Question.CALL,
    Reason.REQUEST_COST_EXCEEDED: Question.CALL,
}
# By code: a later version may know more of them.
_decided_by = {reason.value: question for reason, question in _DECIDED_BY.items()}


class Part(StrEnum):
    """What a policy has to do with a call."""

    DECIDES = "decides"
    ALWAYS = "always"
    MONITORS = "monitors"
    STANDS_BACK = "stands back"
    NO_MATCH = "no match"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Considered:
    """A policy, and why it has this part. `id` is "" for one that was never published."""

    name: str
    version: int
    id: str
    part: Part
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stood:
    """A limit before this call. Amounts are those of its metric; costs in nano-USD."""

    policy: str
    metric: Metric
    says: str
    # With what boosts add to it.
    limit: int
    boosted: int
    used: int
    held: int
    needed: int
    exceeded: bool
    enforced: bool
    resets_at: datetime | None
    # False: no policy in force has counted it, so that what calls in flight hold is not known.
    counted: bool

    @property
    def amount(self) -> str:
        return wording.amount(self.metric, self.limit)

    @property
    def left(self) -> int:
        """Never below 0."""
        return max(0, self.limit - self.used - self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    allowed: bool
    # In two or three words, and in a sentence.
    title: str
    message: str
    reason_code: str
    retry_after_s: int | None
    # None: nothing stood against the call.
    stops: Question | None
    frozen: str
    user: str
    # That the call was decided by, "" for none; and whether it is the one stored for the user.
    plan: str
    plan_stored: bool
    policies: tuple[Considered, ...]
    call: str
    limits: tuple[Stood, ...]
    degraded: bool
    suggested_model: str | None
    # What policies in mode monitor would have said.
    shadow: str | None

    @property
    def any_uncounted(self) -> bool:
        return any(not limit.counted for limit in self.limits)

    @property
    def matching(self) -> tuple[Considered, ...]:
        return tuple(each for each in self.policies if each.part not in (Part.NO_MATCH, Part.OFF))

    @property
    def others(self) -> tuple[Considered, ...]:
        return tuple(each for each in self.policies if each.part in (Part.NO_MATCH, Part.OFF))

    @property
    def brief(self) -> str:
        """A few words beside the title."""
        limit = self.tightest
        if self.suggested_model:
            return f"would be: {self.suggested_model}"
        if limit is None or self.stops not in (None, Question.LIMITS):
            return "" if self.stops else "no policy" if self.reason_code == Reason.NO_POLICY else "no limit"
        if self.stops:
            held = f", {wording.number(limit.metric, limit.held)} held" if limit.held else ""
            return f"{wording.number(limit.metric, limit.used)} used{held} of {limit.amount}"
        return f"{wording.number(limit.metric, limit.left)} left of {limit.amount}"

    @property
    def tightest(self) -> Stood | None:
        """Of the limits in force the one that spoke, else the fullest."""
        in_force = [limit for limit in self.limits if limit.enforced]
        return max(in_force, key=_fullness, default=None)


def _fullness(limit: Stood) -> tuple[bool, float]:
    return limit.exceeded, (limit.used + limit.held) / limit.limit if limit.limit else 1.0


def explain(
    evaluated: Evaluated, policies: Iterable[StoredPolicy], uncounted: Collection[int] = ()
) -> Explanation:
    """`policies` are all of the environment, those that are off too; `uncounted` as of `try_it.uncounted`."""
    assessed, decided = evaluated.assessment, evaluated.decision
    verdict = decided.verdict
    return Explanation(
        allowed=verdict.allowed,
        title=_title(verdict),
        message=verdict.message,
        reason_code=verdict.reason_code,
        retry_after_s=verdict.retry_after_s,
        stops=_stops(verdict),
        frozen=_frozen(evaluated),
        user=_user(evaluated),
        plan=assessed.plan,
        plan_stored=_plan_stored(evaluated),
        policies=tuple(considered(policies, evaluated.snapshot.policies, assessed)),
        call=_call(evaluated),
        limits=tuple(
            _stood(assessed, finding, counted=place not in uncounted)
            for place, finding in enumerate(decided.findings)
        ),
        degraded=evaluated.degraded,
        suggested_model=evaluated.suggested_model,
        shadow=_shadow(decided),
    )


def _title(verdict: Verdict) -> str:
    # A call without a policy is allowed or blocked under the same code.
    code = (
        Reason.ALLOWED if verdict.allowed and verdict.reason_code == Reason.NO_POLICY else verdict.reason_code
    )
    return reason_words.title(code, verdict.reason_class)


def _stops(verdict: Verdict) -> Question | None:
    if verdict.allowed:
        return None
    return _decided_by.get(verdict.reason_code, Question.LIMITS)


def _shadow(decided: Decision) -> str | None:
    return None if decided.shadow is None else decided.shadow.message


def _frozen(evaluated: Evaluated) -> str:
    state, feature = evaluated.snapshot.state, evaluated.assessment.feature
    if state.frozen:
        return "Yes: the environment is frozen."
    if feature in state.frozen_features:
        return f"Yes: the feature {feature} is frozen."
    return f"No: neither the environment nor {feature} is frozen." if feature else "No."


def _plan_stored(evaluated: Evaluated) -> bool:
    return bool(evaluated.user.known and evaluated.user.plan)


def _user(evaluated: Evaluated) -> str:
    assessed = evaluated.assessment
    if evaluated.user.blocked:
        return f"Yes: {assessed.user_id} is blocked."
    if not assessed.plan:
        return f"No. {assessed.user_id} has no plan."
    stored = _plan_stored(evaluated)
    source = "which is stored for the user" if stored else "as the call says; none is stored for the user"
    return f"No. {assessed.user_id} has the plan {assessed.plan}, {source}."


def considered(
    policies: Iterable[StoredPolicy], index: PolicyIndex, assessed: Assessment
) -> Iterator[Considered]:
    """Every policy: those that match first, in the order of the contest, then the others with what does not match."""
    found = index.explain(user=assessed.user_id, feature=assessed.feature, plan=assessed.plan)
    matching = {candidate.policy.ref.name for candidate in found}
    for candidate in found:
        part = _part(candidate)
        yield _considered(candidate.policy, part, _why(candidate, part))
    for policy in policies:
        if policy.ref.name not in matching:
            off = policy.rule.mode is Mode.OFF
            why = "it is switched off" if off else _mismatch(policy.rule.scope, assessed)
            yield _considered(policy, Part.OFF if off else Part.NO_MATCH, why)


def _considered(policy: StoredPolicy, part: Part, why: str) -> Considered:
    return Considered(policy.ref.name, policy.ref.version, policy.ref.id, part, why)


def _part(candidate: Candidate) -> Part:
    rule = candidate.policy.rule
    if candidate.outcome.startswith("loses"):
        return Part.STANDS_BACK
    if rule.mode is Mode.MONITOR:
        return Part.MONITORS
    return Part.ALWAYS if rule.kind is Kind.GUARDRAIL else Part.DECIDES


def _why(candidate: Candidate, part: Part) -> str:
    scope = candidate.policy.rule.scope
    if part is Part.STANDS_BACK:
        return candidate.outcome.removeprefix("loses: ")
    whom = f"names {_named(scope)}" if any(scope.rank) else "is for everybody"
    if candidate.policy.rule.kind is Kind.GUARDRAIL:
        return f"a guardrail; it {whom}"
    return whom if part is Part.MONITORS else f"{whom}; nothing more specific matches"


def _named(scope: Scope) -> str:
    return " and ".join(f"the {name} {text}" for name, text in _parts(scope))


def _parts(scope: Scope) -> list[tuple[str, str]]:
    named = (("user", scope.user), ("feature", scope.feature), ("plan", scope.plan))
    return [(name, text) for name, text in named if text]


def _mismatch(scope: Scope, assessed: Assessment) -> str:
    called = {"user": assessed.user_id, "feature": assessed.feature, "plan": assessed.plan}
    differing = [
        f"the {name} {text}, not {called[name]}" if called[name] else f"the {name} {text}; the call has none"
        for name, text in _parts(scope)
        if called[name] != text
    ]
    return "names " + " and ".join(differing)


def _call(evaluated: Evaluated) -> str:
    assessed = evaluated.assessment
    refusal = assessed.refusal
    if refusal is not None and _decided_by.get(refusal.reason_code) is Question.CALL:
        return refusal.message
    amounts = evaluated.decision.amounts
    tokens = f"{wording.count(amounts.input_tokens)} tokens in, {wording.count(amounts.output_tokens)} out"
    if not assessed.priced:
        return f"Yes. {assessed.model} has no price; {tokens}."
    return f"Yes. {assessed.model} costs at most {wording.money(amounts.cost_nano)} for {tokens}."


def _stood(assessed: Assessment, finding: LimitFinding, *, counted: bool) -> Stood:
    limit = finding.limit
    words = wording.allowance(limit.metric, limit.window, limit.amount)
    return Stood(
        policy=assessed.policies[limit.policy].name,
        metric=limit.metric,
        says=f"{words}, {wording.subject(limit.per)}",
        limit=limit.amount,
        boosted=assessed.boosted_by(limit),
        used=finding.used,
        held=finding.held,
        needed=assessed.least.of(limit.metric),
        exceeded=finding.exceeded,
        enforced=limit.enforce,
        resets_at=None if limit.resets_at_ms is None else from_ms(limit.resets_at_ms),
        counted=counted,
    )
