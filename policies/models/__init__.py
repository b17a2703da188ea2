"""What an environment's policies, users and decisions look like as stored: the door by which Django finds them."""

from policies.models.alerts import (
    Alert,
    AlertDelivery,
    AlertEndpoint,
    AlertRule,
    EndpointKind,
    HourlySpend,
)
from policies.models.boosts import Boost
from policies.models.budgets import ClosedMonth, MonthlyBudget
from policies.models.columns import NOTE_LENGTH_MAX, metrics
from policies.models.decisions import BlockedDecision
from policies.models.deployments import Deployment
from policies.models.drafts import Draft, NamedCaller
from policies.models.plans import EndUser, Plan
from policies.models.policies import Limit, Policy, PolicyVersion
from policies.models.replays import PolicyReplay, ReplayState

__all__ = [
    "NOTE_LENGTH_MAX",
    "Alert",
    "AlertDelivery",
    "AlertEndpoint",
    "AlertRule",
    "BlockedDecision",
    "Boost",
    "ClosedMonth",
    "Deployment",
    "Draft",
    "EndUser",
    "EndpointKind",
    "HourlySpend",
    "Limit",
    "MonthlyBudget",
    "NamedCaller",
    "Plan",
    "Policy",
    "PolicyReplay",
    "PolicyVersion",
    "ReplayState",
    "metrics",
]
