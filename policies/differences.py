"""A policy as named values in people's words, for the audit log: two of them show what a change is about."""

from __future__ import annotations

from audit import log as audit_log
from policies.rules import LimitRule, PolicyRule
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

# Each value is cut to it, because an entry is bounded.
VALUE_LENGTH_MAX = 200
_CALL = "of one call at most"


def changes(before: PolicyRule | None, after: PolicyRule | None) -> dict[str, dict[str, object]]:
    """As `audit.log.changes` has them. A new policy is compared with the defaults; an archived one changes nothing."""
    if after is None:
        return {}
    old = _said(before or PolicyRule(name=after.name))
    new = _said(after)
    return audit_log.changes(old, {**dict.fromkeys(old, ""), **new})


def _said(rule: PolicyRule) -> dict[str, str]:
    call = rule.per_request
    values = {
        "name": rule.name,
        "user": rule.scope.user,
        "feature": rule.scope.feature,
        "plan": rule.scope.plan,
        "kind": str(rule.kind),
        "mode": str(rule.mode),
        "priority": str(rule.priority),
        "allowed models": ", ".join(rule.models.allow),
        "denied models": ", ".join(rule.models.deny),
        f"cost {_CALL}": _amount(Metric.COST_USD, call.cost_nano),
        f"input {_CALL}": _amount(Metric.INPUT_TOKENS, call.input_tokens),
        f"output {_CALL}": _amount(Metric.OUTPUT_TOKENS, call.output_tokens),
        "when the counters are away": str(rule.on_unavailable),
        "when no usage is reported": str(rule.on_unsettled),
        "when the price is unknown": str(rule.unknown_price),
        **_limits(rule.limits),
    }
    return {name: value[:VALUE_LENGTH_MAX] for name, value in values.items()}


def _amount(metric: Metric, amount: int | None) -> str:
    return "" if amount is None else wording.amount(metric, amount)


def _limits(limits: tuple[LimitRule, ...]) -> dict[str, str]:
    """Of several on the same thing the amounts stand side by side."""
    found: dict[tuple[Metric, Window, Per], list[str]] = {}
    for limit in limits:
        amount = (
            wording.money(limit.amount) if limit.metric is Metric.COST_USD else wording.count(limit.amount)
        )
        found.setdefault((limit.metric, limit.window, limit.per), []).append(amount)
    return {wording.limit_name(*what): ", ".join(amounts) for what, amounts in found.items()}
