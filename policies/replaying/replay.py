"""Replays a past period of an environment under other policies. Reads only; the same again gives the same report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from django.db.models import Q

from policies import boosts
from policies.deciding.assessing import EnvironmentState
from policies.models import Boost, Policy
from policies.replaying import past_calls
from policies.replaying.past_calls import BY_OUTAGE, BY_STAFF, PastCall, Progress
from policies.replaying.report import Report, Tally
from policies.replaying.simulation import Simulation
from policies.resolution import StoredPolicy
from policies.rules import PolicySet
from tenants.models import DefaultAction, Environment
from usage.amounts import digest
from usage.assessment import PolicyRef
from usage.boosts import BoostRef

# How often progress is told.
STEP = 5_000


def replay(
    environment: Environment,
    policies: Sequence[StoredPolicy],
    start: datetime,
    end: datetime,
    *,
    progress: Progress = lambda done: None,
) -> Report:
    """From `start` until before `end`. `progress` is told how many calls are done. Raises DatabaseError."""
    zone = ZoneInfo(environment.tenant.timezone)
    state = EnvironmentState(
        frozen=False,
        frozen_features=frozenset(),
        allow_without_policy=environment.default_action == DefaultAction.ALLOW,
    )
    simulation = Simulation(environment.pk, zone, policies, state, _boosts(environment, start, end), start)
    comparing = _Comparing(simulation, Tally(start, end, zone))
    done = 0
    for done, call in enumerate(past_calls.read(environment, start, end), start=1):
        comparing.compare(call)
        if done % STEP == 0:
            progress(done)
    progress(done)
    return comparing.tally.report()


def supposed(environment: Environment, wanted: PolicySet) -> list[StoredPolicy]:
    """As if the file were in force: policies are matched by name, what is new is the youngest. Two queries."""
    rows = {row.name: row for row in Policy.objects.in_force(environment.pk)}
    youngest = max((row.ordinal for row in rows.values()), default=0)
    found = []
    for place, rule in enumerate(wanted.policies, start=1):
        row = rows.get(rule.name)
        ref = PolicyRef("", rule.name, row.version if row else 1, rule.scope.label)
        found.append(StoredPolicy(ref=ref, ordinal=row.ordinal if row else youngest + place, rule=rule))
    return found


def _boosts(environment: Environment, start: datetime, end: datetime) -> list[BoostRef]:
    """Those that ran in the period, until they were over."""
    ran = Boost.objects.filter(
        Q(ended_at=None) | Q(ended_at__gt=start), environment=environment, ends_at__gt=start, given_at__lt=end
    )
    return [
        boosts.ref(
            boost.per, boost.subject, boost.metric, boost.window, boost.extra, boost.started_at, boost.over_at
        )
        for boost in ran.order_by("id")
    ]


class _Comparing:
    def __init__(self, simulation: Simulation, tally: Tally) -> None:
        self._simulation = simulation
        self.tally = tally
        # Requests that were blocked and would have been allowed: their repeats would not have been made.
        self._passed: set[str] = set()

    def compare(self, call: PastCall) -> None:
        if self._passed and digest(call.request_id) in self._passed:
            self.tally.retry()
            return
        if call.blocked is not None and call.blocked.reason_code in BY_STAFF:
            self.tally.unchanged(call)
        elif call.blocked is not None and call.blocked.reason_code in BY_OUTAGE:
            self.tally.undecidable(call, "the counters could not be read")
        elif call.amounts is None:
            self.tally.undecidable(call, "what it needed was not kept")
        else:
            self._decide(call)

    def _decide(self, call: PastCall) -> None:
        verdict = self._simulation.play(call).verdict
        if call.blocked is None:
            if verdict.allowed:
                self.tally.unchanged(call)
            else:
                self.tally.newly_blocked(call, verdict)
        elif verdict.allowed:
            self._passed.add(digest(call.request_id))
            self.tally.newly_allowed(call, verdict)
        else:
            self.tally.unchanged(call, other_reason=verdict.reason_code != call.blocked.reason_code)
