"""A made-up past that obeyed the policies in force.

Each made-up call (usage/ledger/synthetic.py) is decided as a replay decides it, in the order of time. Those that are
allowed go into the ledger, the others are stored as blocked decisions. So a replay of the same policies over that past
finds no difference. What a call used is not cut: limits that shorten answers are obeyed but for that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import msgspec

from policies import policy_rows
from policies.blocked import decision_log
from policies.models import BlockedDecision
from policies.replaying.past_calls import PastCall
from policies.replaying.replay import World
from policies.replaying.simulation import Edition, Simulation
from tenants.models import ApiKey, Environment
from usage.instants import to_ms
from usage.ledger import synthetic
from usage.ledger.synthetic import AllowedBy, Asked, Plan
from usage.prices import stored_book


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    calls: int
    blocked: int


def write(key: ApiKey, plan: Plan) -> Past:
    """As if all calls had been asked with this key. Counters are not touched. Raises MadeAlready, DatabaseError."""
    book = stored_book.load(key.environment.tenant_id)
    deciding = _Deciding(simulation=_simulation(key.environment, plan), key=key)
    calls = blocked = 0
    for calls in synthetic.write(plan, book, deciding.decide):  # noqa: B007 (the last is how many there are)
        blocked += deciding.store_blocked()
    # Those after the last call that was allowed.
    return Past(calls=calls, blocked=blocked + deciding.store_blocked())


def _simulation(environment: Environment, plan: Plan) -> Simulation:
    world = World(environment, ZoneInfo(environment.tenant.timezone), plan.first, plan.until)
    return world.simulation([Edition(0, policy_rows.in_force(environment.pk))])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deciding:
    simulation: Simulation
    key: ApiKey
    blocked: list[BlockedDecision] = field(default_factory=list)

    def decide(self, asked: Asked) -> AllowedBy | None:
        call = _call(asked)
        assessed, decision = self.simulation.play_assessed(call)
        policy = decision.verdict.policy
        if decision.verdict.allowed:
            return AllowedBy(
                None if policy is None else policy.id, None if policy is None else policy.version, self.key.pk
            )
        assessed = msgspec.structs.replace(assessed, api_key_id=self.key.pk)
        self.blocked.append(
            # Its request id is used once, so it tells its rows apart as an entry of the stream does.
            decision_log.row(self.key.environment_id, asked.request_id, call.at_ms, assessed, decision)
        )
        return None

    def store_blocked(self) -> int:
        """How many there were since the last time."""
        count = len(self.blocked)
        decision_log.store(self.blocked)
        self.blocked.clear()
        return count


def _call(asked: Asked) -> PastCall:
    at_ms, kind = to_ms(asked.at), asked.kind
    return PastCall(
        at_ms=at_ms,
        ended_ms=at_ms,
        request_id=asked.request_id,
        user_id=asked.user_id,
        feature=kind.feature.name,
        plan=asked.plan,
        run_id=asked.run_id,
        model=kind.model,
        amounts=kind.amounts,
        priced=kind.price is not None,
        price=kind.price,
        cap=None,
        by_policy=True,
        blocked=None,
    )
