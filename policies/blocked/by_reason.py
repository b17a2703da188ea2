"""Calls that were blocked for a reason that needs no counter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from policies.blocked.explanation import NOTHING_CHARGED, Remedy, Way
from policies.reasons import Reason

if TYPE_CHECKING:
    from policies.models import BlockedDecision

# Why, what to tell the customer, and the ways.
Answer = tuple[str, str, tuple[Way, ...]]
# Of the models that a customer is told.
MODELS_TOLD_MAX = 5


def _environment_frozen(decision: BlockedDecision) -> Answer:
    return (
        "While an environment is frozen, every call in it is blocked.",
        f"Our AI features are switched off for the moment. Please try again later. {NOTHING_CHARGED}",
        (Way(Remedy.UNFREEZE, "Unfreezing the environment"),),
    )


def _feature_frozen(decision: BlockedDecision) -> Answer:
    return (
        f"While a feature is frozen, every call of it is blocked; this one was of {decision.feature}.",
        f"This feature is switched off for the moment. Please try again later. {NOTHING_CHARGED}",
        (Way(Remedy.UNFREEZE, f"Unfreezing {decision.feature}"),),
    )


def _user_blocked(decision: BlockedDecision) -> Answer:
    return (
        "A blocked user may make no call, whatever the policies allow.",
        f"Your access to our AI features is switched off. Please contact us. {NOTHING_CHARGED}",
        (Way(Remedy.UNBLOCK, f"Unblocking {decision.user_id}"),),
    )


def _model_refused(decision: BlockedDecision) -> Answer:
    denied = decision.reason_code == Reason.MODEL_DENIED.value
    how = "denies this model" if denied else "does not list this model among those that it allows"
    return (
        f"{decision.policy_name or 'The policy'} {how}.",
        f"That model is not available to you. Another one will work. {NOTHING_CHARGED}",
        (
            Way(Remedy.CALLER, "Another model that the policy allows"),
            Way(Remedy.POLICY, f"Allowing {decision.model} in {decision.policy_name or 'the policy'}"),
            *(
                [Way(Remedy.PLAN, f"Another plan than {decision.plan}, whose policy allows {decision.model}")]
                if decision.plan
                else []
            ),
        ),
    )


def other_models(allowed: Sequence[str]) -> str:
    """What to tell the customer where these models are allowed."""
    named, more = ", ".join(allowed[:MODELS_TOLD_MAX]), len(allowed) - MODELS_TOLD_MAX
    listed = f"{named} and {more} more" if more > 0 else named
    return f"That model is not available to you. Available to you: {listed}. {NOTHING_CHARGED}"


def _price_unknown(decision: BlockedDecision) -> Answer:
    return (
        f"{decision.policy_name or 'The policy'} limits cost, and what a call of {decision.model} costs is not known.",
        f"That model is not available to you. Another one will work. {NOTHING_CHARGED}",
        (
            Way(Remedy.PRICE, f"A price for {decision.model}"),
            Way(Remedy.CALLER, "A model that has a price"),
            Way(
                Remedy.POLICY,
                f"Letting models without a price pass in {decision.policy_name or 'the policy'} "
                "(unknown_price: allow); their cost is then in no sum",
            ),
        ),
    )


def _request_too_large(decision: BlockedDecision) -> Answer:
    cost = decision.reason_code == Reason.REQUEST_COST_EXCEEDED.value
    return (
        decision.message,
        "That request was larger than one request may be. A shorter text, or a shorter answer, may work. "
        + NOTHING_CHARGED,
        (
            Way(
                Remedy.CALLER,
                f"A shorter prompt or a lower max_output_tokens{', or a cheaper model' if cost else ''}",
            ),
            Way(Remedy.POLICY, f"A higher cap for one call in {decision.policy_name or 'the policy'}"),
        ),
    )


def _no_policy(decision: BlockedDecision) -> Answer:
    plan = f"the plan {decision.plan}" if decision.plan else "whoever comes"
    return (
        decision.message,
        f"That request could not be served. Please contact us. {NOTHING_CHARGED}",
        (
            Way(Remedy.POLICY, f"A policy for {plan}"),
            Way(Remedy.PLAN, "A plan that a policy names; a misspelt one is a common cause"),
        ),
    )


ANSWERS = {
    Reason.ENVIRONMENT_FROZEN.value: _environment_frozen,
    Reason.FEATURE_FROZEN.value: _feature_frozen,
    Reason.USER_BLOCKED.value: _user_blocked,
    Reason.MODEL_NOT_ALLOWED.value: _model_refused,
    Reason.MODEL_DENIED.value: _model_refused,
    Reason.PRICE_UNKNOWN.value: _price_unknown,
    Reason.REQUEST_TOKENS_EXCEEDED.value: _request_too_large,
    Reason.REQUEST_COST_EXCEEDED.value: _request_too_large,
    Reason.NO_POLICY.value: _no_policy,
}
