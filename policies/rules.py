"""What a policy says, as values: the one form that files, the admin, the database and the decision share.

Pure: no database, no clock. Amounts are integers; money is nano-USD.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from usage.amounts import Models, Pair, Per
from usage.assessment import LimitKind, pair_of
from usage.metrics import Metric
from usage.prices.model_groups import any_matches
from usage.prices.same_model import ModelNames
from usage.windows import Window

LIMITS_MAX = 32
# All limits that can apply to one call; the reserve script checks and answers each of them.
LIMITS_OF_A_CALL_MAX = 1_000
MODEL_GLOBS_MAX = 100
# Of a limit, together: what is counted is told apart by them, in an index.
MODELS_OF_LIMIT_BYTES_MAX = 1_000
PRIORITY_MAX = 10_000
# Lua counts in doubles: below 2^53 they are exact.
COUNT_LIMIT_MAX = 9_000_000_000_000_000


class Kind(StrEnum):
    OVERRIDE = "override"
    GUARDRAIL = "guardrail"


class Mode(StrEnum):
    ENFORCE = "enforce"
    MONITOR = "monitor"
    OFF = "off"


class OnUnavailable(StrEnum):
    BLOCK = "block"
    ALLOW = "allow"


class OnUnsettled(StrEnum):
    RELEASE = "release"
    CHARGE = "charge"


class UnknownPrice(StrEnum):
    BLOCK = "block"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whom a policy is for; all that is named must match, `""` matches any."""

    user: str = ""
    feature: str = ""
    plan: str = ""

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """user > feature > plan > default, compared lexicographically."""
        return bool(self.user), bool(self.feature), bool(self.plan)

    @property
    def label(self) -> str:
        """`user+feature`, `plan`, ...; `default` if nothing is named."""
        named = [name for name in ("user", "feature", "plan") if getattr(self, name)]
        return "+".join(named) or "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRules:
    """Patterns of model names. An empty allow list allows all; deny wins."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def allows(self, names: ModelNames) -> bool:
        return not self.allow or any_matches(self.allow, names.to_allow)

    def denies(self, names: ModelNames) -> bool:
        return bool(self.deny) and any_matches(self.deny, names.to_deny)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerRequest:
    """What one call may take at most; None = any amount."""

    cost_nano: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRule:
    """At most `amount` of the metric per subject and window; 0 means none. Money is nano-USD.

    `models`: patterns of those that it counts; calls to others are free of it. None: it counts calls to all.
    """

    metric: Metric
    window: Window
    amount: int
    per: Per
    models: Models = ()

    @property
    def pair(self) -> Pair | None:
        return pair_of(self.kind)

    @property
    def kind(self) -> LimitKind:
        """A policy has one limit of a kind."""
        return self.metric, self.window, self.per, self.models


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """One policy, complete."""

    name: str
    scope: Scope = field(default_factory=Scope)
    kind: Kind = Kind.OVERRIDE
    mode: Mode = Mode.ENFORCE
    priority: int = 0
    models: ModelRules = field(default_factory=ModelRules)
    per_request: PerRequest = field(default_factory=PerRequest)
    limits: tuple[LimitRule, ...] = ()
    on_unavailable: OnUnavailable = OnUnavailable.BLOCK
    on_unsettled: OnUnsettled = OnUnsettled.RELEASE
    unknown_price: UnknownPrice = UnknownPrice.BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """How many limits a policy puts on each call that its scope matches."""

    scope: Scope
    kind: Kind
    limits: int

    @classmethod
    def of(cls, rule: PolicyRule) -> Weight:
        return cls(scope=rule.scope, kind=rule.kind, limits=0 if rule.mode is Mode.OFF else len(rule.limits))


def limits_of_a_call(weights: Iterable[Weight]) -> int:
    """An upper bound of the limits that can apply to one call.

    One override applies, and of each way to name user, feature and plan the guardrails of one scope.
    """
    override = 0
    guardrails: Counter[Scope] = Counter()
    for weight in weights:
        if weight.kind is Kind.OVERRIDE:
            override = max(override, weight.limits)
        else:
            guardrails[weight.scope] += weight.limits
    largest: dict[tuple[bool, bool, bool], int] = {}
    for scope, limits in guardrails.items():
        largest[scope.rank] = max(limits, largest.get(scope.rank, 0))
    return override + sum(largest.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet:
    """All policies of an environment, and the plans it sells; what a policy file holds."""

    plans: tuple[str, ...] = ()
    # Names and the models behind them. None: not said, those that there are stay.
    deployments: tuple[tuple[str, str], ...] | None = None
    policies: tuple[PolicyRule, ...] = ()

    @property
    def binds_everyone(self) -> bool:
        """Whether an enforced policy meets whoever comes, with a plan that is misspelt too."""
        return any(policy.scope == Scope() and policy.mode is Mode.ENFORCE for policy in self.policies)
