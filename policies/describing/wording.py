"""A policy in plain English: what it allows to whom, and beneath it what happens otherwise. Pure.

The console, the commands and the API say it alike. What the writer of a form has not made readable yet is a hole in the
sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from policies.rules import Kind, LimitRule, Mode, OnUnavailable, OnUnsettled, PolicyRule, Scope, UnknownPrice
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window


class Look(StrEnum):
    PLAIN = "plain"
    STRONG = "strong"
    # What cannot be read.
    HOLE = "hole"


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a sentence. The names in it are those that people chose: escape them."""

    text: str
    look: Look = Look.PLAIN


Pieces = tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holes:
    """What of a policy cannot be read, by what it is called."""

    limits: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    pieces: Pieces
    # What happens beyond, in cases of doubt, and whose days are meant.
    beneath: str

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


def describe(rule: PolicyRule, zone: str, holes: Holes = Holes()) -> Wording:
    """`zone`: the tenant's time zone."""
    return Wording(pieces=_sentences(rule, holes), beneath=" ".join(_beneath(rule, zone, holes)))


def scope(scope: Scope, kind: Kind) -> str:
    """Whom a policy is for: `plan free`, `user ann, feature chat`."""
    named = [f"{name} {text}" for name in ("user", "plan", "feature") if (text := getattr(scope, name))]
    if named:
        return ", ".join(named)
    return "everybody" if kind is Kind.GUARDRAIL else "everybody else"


def _sentences(rule: PolicyRule, holes: Holes) -> Pieces:
    groups = _groups(rule.limits)
    models = _models(rule)
    if holes.limits and not groups:
        groups = [(Per.USER, ())]
    said: list[Pieces] = []
    for number, (per, limits) in enumerate(groups):
        allowed = _allowed(limits)
        if number == len(groups) - 1:
            allowed += [_hole(name) for name in holes.limits]
        with_models = _plain(", ") + models if models and len(groups) == 1 else ()
        said.append(_may(rule, per, allowed) + with_models + _plain("."))
    if not groups:
        unlimited = _plain("make ") + _strong("any number of calls")
        with_models = _plain(", ") + models if models else ()
        as_far = _plain(", as far as this guardrail goes") if rule.kind is Kind.GUARDRAIL else ()
        said.append(_may(rule, Per.USER, [unlimited]) + with_models + as_far + _plain("."))
    elif models and len(groups) > 1:
        said.append(_plain("Calls are made ") + models + _plain("."))
    if caps := [*_caps(rule), *(_hole(name) for name in holes.caps)]:
        said.append(_plain("One call may ") + _listed(caps) + _plain("."))
    if holes.others:
        said.append(_plain("Also: ") + _listed([_hole(name) for name in holes.others]) + _plain("."))
    return _spaced(said)


def _groups(limits: Iterable[LimitRule]) -> list[tuple[Per, tuple[LimitRule, ...]]]:
    """By whom they count together, in the order of Per."""
    listed = tuple(limits)
    found = [(per, tuple(limit for limit in listed if limit.per is per)) for per in Per]
    return [(per, those) for per, those in found if those]


def _may(rule: PolicyRule, per: Per, allowed: Sequence[Pieces]) -> Pieces:
    who, left = _who(rule.scope, per)
    lead = _lead(rule, left)
    if not lead:
        first, *rest = who
        who = (Piece(first.text[0].upper() + first.text[1:], first.look), *rest)
    return lead + who + _plain(" may ") + _listed(allowed)


def _who(scope: Scope, per: Per) -> tuple[Pieces, Scope]:
    """Whose calls are counted together, and what of the scope that does not say."""
    on_plan = _plain(" on the ") + _strong(scope.plan) + _plain(" plan") if scope.plan else ()
    user = _plain("the user ") + _strong(scope.user) if scope.user else _plain("every user")
    match per:
        case Per.USER:
            return user + on_plan, Scope(feature=scope.feature)
        case Per.USER_FEATURE:
            feature = _strong(scope.feature) if scope.feature else _plain("each feature")
            of_feature = _plain("the feature ") + feature if scope.feature else feature
            return _plain("in ") + of_feature + _plain(", ") + user + on_plan, Scope()
        case Per.FEATURE if scope.feature:
            who = _plain("all users of the feature ") + _strong(scope.feature) + _plain(" together")
            return who, Scope(user=scope.user, plan=scope.plan)
        case Per.FEATURE:
            return _plain("all users of each feature together"), scope
        case Per.PLAN if scope.plan:
            who = _plain("all users") + on_plan + _plain(" together")
            return who, Scope(user=scope.user, feature=scope.feature)
        case Per.PLAN:
            return _plain("all users of each plan together"), scope
        case Per.RUN:
            return _plain("each run"), scope
    return _plain("everybody together"), scope


def _lead(rule: PolicyRule, left: Scope) -> Pieces:
    """For which calls, where the rest of the sentence does not say so."""
    if rule.scope == Scope() and rule.kind is Kind.OVERRIDE:
        return _plain("Where no more specific policy decides, ")
    if left == Scope():
        return ()
    found = _plain("For calls")
    if left.user:
        found += _plain(" by the user ") + _strong(left.user)
    if left.feature:
        found += _plain(" of the feature ") + _strong(left.feature)
    if left.plan:
        found += _plain(" on the ") + _strong(left.plan) + _plain(" plan")
    return found + _plain(", ")


_VERBS = {
    Metric.REQUESTS: ("make", "no requests at all"),
    Metric.TOKENS: ("use", "no tokens at all"),
    Metric.INPUT_TOKENS: ("use", "no input tokens at all"),
    Metric.OUTPUT_TOKENS: ("use", "no output tokens at all"),
    Metric.COST_USD: ("spend", "nothing at all"),
    Metric.CONCURRENCY: ("make", "no calls at all"),
}


def _allowed(limits: Sequence[LimitRule]) -> list[Pieces]:
    """A verb that is the same as the one before is not said again."""
    found, said = [], ""
    for limit in limits:
        verb, nothing = _VERBS[limit.metric]
        lead = f"{verb} up to " if limit.metric is Metric.COST_USD and limit.amount else f"{verb} "
        words = wording.allowance(limit.kind, limit.amount)
        amount = _strong(words if limit.amount else f"{nothing}{wording.with_models(limit.models)}")
        found.append(amount if lead == said else _plain(lead) + amount)
        said = lead
    return found


def _models(rule: PolicyRule) -> Pieces:
    allow, deny = (
        _listed([_strong(glob) for glob in globs]) for globs in (rule.models.allow, rule.models.deny)
    )
    if allow and deny:
        return _plain("with ") + allow + _plain(" only, but never with ") + deny
    if allow:
        return _plain("with ") + allow + _plain(" only")
    return _plain("with any model but ") + deny if deny else ()


def _caps(rule: PolicyRule) -> list[Pieces]:
    caps = rule.per_request
    found = []
    if caps.cost_nano is not None:
        found.append(_cap("cost", caps.cost_nano, wording.money(caps.cost_nano), "nothing"))
    for verb, tokens in (("read", caps.input_tokens), ("write", caps.output_tokens)):
        if tokens is not None:
            found.append(_cap(verb, tokens, wording.amount(Metric.TOKENS, tokens), "no tokens"))
    return found


def _cap(verb: str, amount: int, words: str, nothing: str) -> Pieces:
    return _plain(f"{verb} ") + (_strong(nothing) if amount == 0 else _plain("at most ") + _strong(words))


_DATED = {Window.DAY: "days", Window.WEEK: "weeks", Window.MONTH: "months"}


def _beneath(rule: PolicyRule, zone: str, holes: Holes) -> list[str]:
    if rule.mode is Mode.OFF:
        return ["Off: it applies to no call."]
    found = []
    if rule.mode is Mode.MONITOR:
        found.append("Monitored: it blocks nothing, and says what it would have blocked.")
    elif rule.limits or rule.models.allow or rule.models.deny or _caps(rule) or holes != Holes():
        found.append("Calls beyond that are blocked.")
    if rule.kind is Kind.GUARDRAIL:
        found.append("It applies beside whichever policy decides.")
    if rule.mode is Mode.ENFORCE:
        blocked = {True: "blocked", False: "allowed"}
        found += [
            f"If the counters cannot be read, calls are {blocked[rule.on_unavailable is OnUnavailable.BLOCK]}.",
            f"Calls of a model without a price are {blocked[rule.unknown_price is UnknownPrice.BLOCK]}.",
        ]
    gives_back = rule.on_unsettled is OnUnsettled.RELEASE
    ending = "gives back what it held" if gives_back else "is charged what it held"
    found.append(f"A call that is never reported {ending}.")
    dated = [words for window, words in _DATED.items() if any(each.window is window for each in rule.limits)]
    if dated:
        words = _text(_listed([_plain(word) for word in dated]))
        found.append(f"{words.capitalize()} are those of {zone}.")
    return found


def _plain(text: str) -> Pieces:
    return (Piece(text),)


def _strong(text: str) -> Pieces:
    return (Piece(text, Look.STRONG),)


def _hole(name: str) -> Pieces:
    return (Piece(f"{name} cannot be read yet", Look.HOLE),)


def _listed(items: Sequence[Pieces]) -> Pieces:
    """`a, b and c`."""
    found: Pieces = ()
    for number, item in enumerate(items):
        between = "" if number == 0 else " and " if number == len(items) - 1 else ", "
        found += (*(_plain(between) if between else ()), *item)
    return found


def _spaced(sentences: Sequence[Pieces]) -> Pieces:
    found: Pieces = ()
    for sentence in sentences:
        found += (*(_plain(" ") if found else ()), *sentence)
    return found


def _text(pieces: Pieces) -> str:
    return "".join(piece.text for piece in pieces)
