"""What a policy says, field by field, and where two policies differ. Pure: the console shows it in two columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from policies.rules import LimitRule, PolicyRule, Scope
from usage import wording
from usage.metrics import Metric

# What an audit entry holds of a value, because it is bounded.
AUDITED_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True)
class Line:
    """A field in both. None: one of them does not say it."""

    label: str
    before: str | None
    after: str | None

    @property
    def differs(self) -> bool:
        return self.before != self.after

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.label}: {self.after}, new"
        if self.after is None:
            return f"{self.label}: no longer {self.before}"
        return f"{self.label}: {self.before} → {self.after}"


def fields(rule: PolicyRule) -> dict[str, str]:
    """What it says, by label, in people's words; what it does not limit is left out."""
    caps = rule.per_request
    found = {
        "Name": rule.name,
        "For": _scope(rule.scope),
        "Kind": rule.kind.value,
        "Mode": rule.mode.value,
        "Priority": wording.count(rule.priority),
        "Models allowed": ", ".join(rule.models.allow),
        "Models denied": ", ".join(rule.models.deny),
        "One call may cost": "" if caps.cost_nano is None else wording.money(caps.cost_nano),
        "One call may read": _tokens(Metric.INPUT_TOKENS, caps.input_tokens),
        "One call may write": _tokens(Metric.OUTPUT_TOKENS, caps.output_tokens),
        **{_label(limit): wording.amount(limit.metric, limit.amount) for limit in rule.limits},
        "Without counters": rule.on_unavailable.value,
        "Holds never reported": rule.on_unsettled.value,
        "Models without a price": rule.unknown_price.value,
    }
    return {label: text for label, text in found.items() if text}


def compare(before: PolicyRule | None, after: PolicyRule | None) -> tuple[Line, ...]:
    """Every field of either, in their order."""
    old, new = ({} if rule is None else fields(rule) for rule in (before, after))
    return tuple(Line(label, old.get(label), new.get(label)) for label in _merged(old, new))


def changes(before: PolicyRule | None, after: PolicyRule | None) -> tuple[Line, ...]:
    """The fields that differ."""
    return tuple(line for line in compare(before, after) if line.differs)


def same(before: PolicyRule | None, after: PolicyRule | None) -> bool:
    """Whether they say the same. Their words may not tell: a name may hold a comma."""
    return before is after or (before is not None and after is not None and _sorted(before) == _sorted(after))


def _sorted(rule: PolicyRule) -> PolicyRule:
    """Its limits in one order: theirs says nothing."""
    return replace(rule, limits=tuple(sorted(rule.limits, key=_label)))


def named(before: PolicyRule | None, after: PolicyRule | None) -> tuple[dict[str, str], dict[str, str]]:
    """The same fields of both, for the audit log. A new policy beside the defaults; of an archived one nothing."""
    if after is None:
        return {}, {}
    old, new = fields(before or PolicyRule(name=after.name)), fields(after)
    labels = _merged(old, new)
    both = (
        {label.lower(): each.get(label, "")[:AUDITED_LENGTH_MAX] for label in labels} for each in (old, new)
    )
    first, second = both
    return first, second


def summary(before: PolicyRule | None, after: PolicyRule | None) -> str:
    """What changed, in one line."""
    if after is None:
        return "Archived"
    if before is None:
        return "Put in force"
    return "; ".join(map(str, changes(before, after))) or "Nothing: published again as it was"


def _merged(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """The labels of both. One that only the old has stands behind the one that it followed there."""
    found = list(new)
    behind = 0
    for label in old:
        if label in found:
            behind = found.index(label) + 1
        else:
            found.insert(behind, label)
            behind += 1
    return found


def _label(limit: LimitRule) -> str:
    """`Requests a day, each user`"""
    name = wording.limit_name(limit.kind)
    return name[0].upper() + name[1:]


def _scope(scope: Scope) -> str:
    named = {"user": scope.user, "feature": scope.feature, "plan": scope.plan}
    return ", ".join(f"{name} {text}" for name, text in named.items() if text) or "everybody"


def _tokens(metric: Metric, cap: int | None) -> str:
    return "" if cap is None else wording.amount(metric, cap)
