"""From a call and the policies that match it to an assessment: all that can be said before counting. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from policies.deciding.call_terms import CallTerms
from policies.reasons import Reason, rank, without_policy
from policies.resolution import Matched, StoredPolicy
from policies.rules import Mode, PolicyRule, UnknownPrice
from usage.amounts import Amounts, Subjects
from usage.assessment import Assessment, Refusal, affordable_output, asked, held_cost_nano
from usage.boosts import BoostRef
from usage.money import format_usd
from usage.prices.cost import AS_USUAL, HeldRates, Price, Served, dearest_of
from usage.prices.same_model import ModelNames, names_of
from usage.quantities import noun

# A call without a cap of its own gets what its limits leave, if that is so much at least. Some providers want more of
# a cap than a token: who calls them names the cap that the call needs.
LEAST_OUTPUT_TOKENS = 1
NO_RATES = HeldRates(0, 0)
NO_NAMES = ModelNames(to_allow=(), to_deny=())


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What the application wants to do, and what TokVigil knows of its user."""

    request_id: str
    subjects: Subjects
    model: str
    # All but its output and its cost, which are assessed.
    asked: Amounts
    # As asked for; None: not said.
    max_output_tokens: int | None
    user_blocked: bool
    # "": not said.
    provider: str = ""
    served: Served = AS_USUAL
    # What else it uses at most, by quantity; None: not said.
    said: Mapping[str, int] | None = None
    # None: no key asks.
    api_key_id: int | None = None

    @property
    def input_tokens(self) -> int:
        return self.asked.input_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentState:
    """The state of the environment that applies whatever the policies say."""

    frozen: bool
    frozen_features: frozenset[str]
    allow_without_policy: bool
    # All but those of end users, which stand in their records.
    boosts: tuple[BoostRef, ...] = ()


def assess(
    call: Call,
    terms: CallTerms,
    state: EnvironmentState,
    price: Price | None,
    output_tokens: int,
    deployed: str | None = None,
    elsewhere: Sequence[Price] = (),
) -> Assessment:
    """`output_tokens` is what the call asks for; if it names no cap, the most that is worth holding for it.

    `price`: by which its report is charged if nobody is named. `elsewhere`: what others take who sell the model, where
    the call does not name the one it goes to; what is held is enough for the dearest. `deployed`: the model behind the
    name, if it is that of a deployment.
    """
    subjects = call.subjects
    prices = elsewhere if price is None else (price, *elsewhere)
    rates = dearest_of(prices, call.input_tokens, call.served, call.said) if prices else NO_RATES

    def cost(output: int) -> int:
        return rates.fees + held_cost_nano(call.input_tokens, rates.input, output, rates.output)

    least = None if call.max_output_tokens is not None else min(LEAST_OUTPUT_TOKENS, output_tokens)
    if least is not None and rates.output > 0:
        output_tokens = _within_cost_caps(call, terms, rates, least, output_tokens)
    least_cost = None if not prices else cost(output_tokens if least is None else least)
    amounts = msgspec.structs.replace(call.asked, output_tokens=output_tokens, cost_nano=cost(output_tokens))
    refusals = [
        *_state_refusals(call, terms.matched, state),
        *_policy_refusals(call, terms.matched, price, deployed, least_cost, rates.unpriced),
    ]
    return Assessment(
        request_id=call.request_id,
        user_id=subjects.user_id,
        feature=subjects.feature,
        plan=subjects.plan,
        run_id=subjects.run_id,
        model=call.model,
        policies=terms.policies,
        has_override=terms.matched.override is not None,
        limits=terms.limits,
        refusal=_first(refusal for refusal in refusals if refusal.enforced) if refusals else None,
        shadow_refusal=_first(refusal for refusal in refusals if not refusal.enforced) if refusals else None,
        priced=bool(prices) and not rates.unpriced,
        # A cap that nobody asked for and no policy needs would only cut answers short.
        max_output_tokens=output_tokens
        if call.max_output_tokens is not None or terms.bounds_output
        else None,
        least_output_tokens=least,
        input_rate=rates.input,
        output_rate=rates.output,
        fees_nano=rates.fees,
        service_tier=call.served.tier.value,
        region=call.served.region,
        provider=call.provider,
        boosted=terms.boosted,
        api_key_id=call.api_key_id,
        **asked(amounts),
    )


def _within_cost_caps(call: Call, terms: CallTerms, rates: HeldRates, least: int, output_tokens: int) -> int:
    """The output that the policies' caps on a request's cost leave; unchanged if they leave none."""
    caps = [
        policy.rule.per_request.cost_nano
        for policy in terms.matched.policies
        if policy.rule.mode is Mode.ENFORCE
    ]
    for cap in caps:
        if cap is not None:
            affordable = affordable_output(cap - rates.fees, call.input_tokens, rates.input, rates.output)
            if affordable < least:
                break
            output_tokens = min(output_tokens, affordable)
    return output_tokens


class _Found(msgspec.Struct, frozen=True):
    reason: Reason
    message: str
    policy: int | None = None
    enforced: bool = True


def _first(found: Iterable[_Found]) -> Refusal | None:
    """The refusal whose reason wins; among equals the one of the policy named first."""
    winner = min(found, key=lambda refusal: rank(refusal.reason), default=None)
    return None if winner is None else Refusal(winner.reason.value, winner.message, winner.policy)


def _state_refusals(call: Call, matched: Matched, state: EnvironmentState) -> Iterator[_Found]:
    if matched.override is None and not state.allow_without_policy:
        message = f"{without_policy(call.subjects.plan)}; the environment blocks such calls."
        yield _Found(Reason.NO_POLICY, message)
    if state.frozen:
        yield _Found(Reason.ENVIRONMENT_FROZEN, "The environment is frozen: every AI call is blocked.")
    feature = call.subjects.feature
    if feature in state.frozen_features:
        yield _Found(Reason.FEATURE_FROZEN, f"Feature {feature} is frozen: its AI calls are blocked.")
    if call.user_blocked:
        yield _Found(Reason.USER_BLOCKED, f"User {call.subjects.user_id} is blocked.")


def _policy_refusals(
    call: Call,
    matched: Matched,
    price: Price | None,
    deployed: str | None,
    cost: int | None,
    unpriced: tuple[str, ...],
) -> Iterator[_Found]:
    has_lists = any(policy.rule.models.allow or policy.rule.models.deny for policy in matched.policies)
    names = names_of(call.model, price, deployed) if has_lists else NO_NAMES
    for place, policy in enumerate(matched.policies):
        enforced = policy.rule.mode is Mode.ENFORCE
        for reason, message in _rule_refusals(call, policy, names, price, cost, unpriced):
            yield _Found(reason, message, place, enforced)


def _without_price(call: Call, rule: PolicyRule, *, is_sold: bool) -> str:
    if is_sold:
        return (
            f"Model {call.model} is sold by several, each at a price of their own, and policy {rule.name} blocks calls "
            "whose price is not known; say which `provider` it goes to, or let the policy say `unknown_price: allow`."
        )
    return (
        f"Model {call.model} has no price in the price book, and policy {rule.name} blocks such models; "
        "add its price, or let the policy say `unknown_price: allow`."
    )


def _rule_refusals(
    call: Call,
    policy: StoredPolicy,
    names: ModelNames,
    price: Price | None,
    cost: int | None,
    unpriced: tuple[str, ...],
) -> Iterator[tuple[Reason, str]]:
    rule, caps = policy.rule, policy.rule.per_request
    if not rule.models.allows(names):
        allowed = ", ".join(rule.models.allow)
        yield (
            Reason.MODEL_NOT_ALLOWED,
            f"Model {call.model} is not among those of policy {rule.name}: {allowed}.",
        )
    if rule.models.denies(names):
        yield Reason.MODEL_DENIED, f"Model {call.model} is denied by policy {rule.name}."
    if price is None and rule.unknown_price is UnknownPrice.BLOCK:
        yield Reason.PRICE_UNKNOWN, _without_price(call, rule, is_sold=cost is not None)
    if unpriced and rule.unknown_price is UnknownPrice.BLOCK:
        yield (
            Reason.PRICE_UNKNOWN,
            f"Model {call.model} has no rate for {', '.join(map(noun, unpriced))} in the price book, and policy "
            f"{rule.name} blocks what has no price; add the rate, or let the policy say `unknown_price: allow`.",
        )
    if caps.input_tokens is not None and call.input_tokens > caps.input_tokens:
        yield (
            Reason.REQUEST_TOKENS_EXCEEDED,
            f"The call has {call.input_tokens} input tokens; "
            f"policy {rule.name} allows {caps.input_tokens} per request.",
        )
    asked = call.max_output_tokens
    if caps.output_tokens is not None and asked is not None and asked > caps.output_tokens:
        yield (
            Reason.REQUEST_TOKENS_EXCEEDED,
            f"The call asks for {asked} output tokens; policy {rule.name} allows {caps.output_tokens} per request.",
        )
    if caps.cost_nano is not None and cost is not None and cost > caps.cost_nano:
        yield (
            Reason.REQUEST_COST_EXCEEDED,
            f"The call may cost {format_usd(cost)} USD; policy {rule.name} allows {format_usd(caps.cost_nano)} USD "
            "per request.",
        )
