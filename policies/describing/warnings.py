"""What is probably not meant in a policy that may be published all the same: warnings, not errors. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from policies.resolution import StoredPolicy
from policies.rules import Kind, LimitRule, Mode, PolicyRule, Scope
from usage import wording
from usage.amounts import Per
from usage.prices.model_groups import matches
from usage.prices.same_model import names_of
from usage.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWarning:
    """`limit`: the number of the limit it is about, from 0. None: the policy."""

    text: str
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Names that exist or were seen lately. Of what is None it is not known, and nothing is said."""

    models: frozenset[str] | None = None
    plans: frozenset[str] | None = None


def warnings(
    rule: PolicyRule, others: Iterable[StoredPolicy], known: Known, *, ordinal: int | None = None
) -> list[PolicyWarning]:
    """`others`: the rest of what is in force. `ordinal`: of the policy, if it is stored; a new one is the youngest."""
    if rule.mode is Mode.OFF:
        return []
    in_force = [other for other in others if other.rule.mode is not Mode.OFF]
    found = [*_shadowed(rule, in_force, ordinal), *_without_match(rule, known)]
    binding = [(rule, limit) for limit in rule.limits] + [
        (other.rule, limit)
        for other in in_force
        if _applies_always(other.rule, rule.scope)
        for limit in other.rule.limits
    ]
    for number, limit in enumerate(rule.limits):
        for owner, tighter in binding:
            if tighter is not limit and _hides(tighter, limit, is_own=owner is rule):
                found.append(PolicyWarning(text=_never_binds(rule, owner, tighter), limit=number))
                break
    return found


def _shadowed(rule: PolicyRule, others: list[StoredPolicy], ordinal: int | None) -> Iterator[PolicyWarning]:
    if rule.kind is Kind.GUARDRAIL:
        return
    for other in others:
        if other.rule.kind is Kind.GUARDRAIL or other.rule.scope != rule.scope:
            continue
        higher = other.rule.priority > rule.priority
        older = other.rule.priority == rule.priority and (ordinal is None or other.ordinal < ordinal)
        if higher or older:
            why = "has the higher priority" if higher else "is older"
            text = f"Never decides: {other.rule.name} is for the same callers and {why}."
            yield PolicyWarning(text=text)
            return


def _without_match(rule: PolicyRule, known: Known) -> Iterator[PolicyWarning]:
    if _leaves_no_model(rule):
        yield PolicyWarning(text="No model is left: all that may be called is denied as well.")
    if known.models is not None:
        named: list[tuple[int | None, str]] = [
            (None, glob) for glob in (*rule.models.allow, *rule.models.deny)
        ]
        named += [(number, glob) for number, limit in enumerate(rule.limits) for glob in limit.models]
        for number, glob in named:
            if not any(matches(glob, model) for model in known.models):
                text = f"No model that is priced or was called lately is named {glob}."
                yield PolicyWarning(text=text, limit=number)
    plan = rule.scope.plan
    if plan and known.plans is not None and plan not in known.plans:
        yield PolicyWarning(text=f"No end user is on the plan {plan}, and no call named it lately.")


def _leaves_no_model(rule: PolicyRule) -> bool:
    """A pattern counts as denied where another one covers it as a text: `gpt-4*` under `gpt-*`."""
    return all(rule.models.denies(names_of(allowed, None)) for allowed in rule.models.allow or ("*",))


def _applies_always(other: PolicyRule, scope: Scope) -> bool:
    """Whether it blocks whenever a policy of this scope is asked."""
    covers = all(
        getattr(other.scope, name) in ("", getattr(scope, name)) for name in ("user", "feature", "plan")
    )
    return covers and other.kind is Kind.GUARDRAIL and other.mode is Mode.ENFORCE


# Windows that lie inside of one of the longer kind.
_INSIDE = {
    Window.MINUTE: {Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH, Window.TOTAL},
    Window.HOUR: {Window.DAY, Window.WEEK, Window.MONTH, Window.TOTAL},
    Window.DAY: {Window.WEEK, Window.MONTH, Window.TOTAL},
    Window.WEEK: {Window.TOTAL},
    Window.MONTH: {Window.TOTAL},
    Window.TOTAL: set(),
}


def _hides(tighter: LimitRule, limit: LimitRule, *, is_own: bool) -> bool:
    """Whether whoever comes to the limit has come to the tighter one before."""
    if tighter.metric is not limit.metric or limit.amount == 0:
        return False
    same_window, same_per = tighter.window is limit.window, tighter.per is limit.per
    contains = same_window or tighter.window in _INSIDE[limit.window]
    counts_more = same_per or _counts_all_of(tighter.per, limit.per)
    counts_all = not tighter.models or (bool(limit.models) and set(limit.models) <= set(tighter.models))
    if not contains or not counts_more or not counts_all:
        return False
    # The same limit twice: either binds.
    alike = same_window and same_per and set(limit.models) == set(tighter.models) and not is_own
    return tighter.amount < limit.amount if alike else tighter.amount <= limit.amount


def _counts_all_of(wide: Per, narrow: Per) -> bool:
    if wide is Per.ENVIRONMENT:
        return narrow is not Per.ENVIRONMENT
    return narrow is Per.USER_FEATURE and wide in (Per.USER, Per.FEATURE)


def _never_binds(rule: PolicyRule, owner: PolicyRule, tighter: LimitRule) -> str:
    words = wording.allowance(tighter.kind, tighter.amount)
    whose = wording.subject(tighter.per)
    by = "the limit of" if owner is rule else f"{owner.name} stops"
    end = f"{words} for {whose}" if owner is rule else f"{whose} at {words}"
    return f"Can never bind: {by} {end}{' comes first' if owner is rule else ''}."
