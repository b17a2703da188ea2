"""Replays a past period of an environment under other policies. Reads only; the same again gives the same report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from django.db.models import Q

from policies import boosts
from policies.deciding.assessing import EnvironmentState
from policies.models import Boost
from policies.replaying import past_calls
from policies.replaying.comparing import Checking, Comparing
from policies.replaying.past_calls import Progress
from policies.replaying.report import SimulationReport
from policies.replaying.simulation import Edition, Simulation
from policies.replaying.tally import Tally
from policies.replaying.versions import in_force
from policies.resolution import StoredPolicy
from tenants.models import DefaultAction, Environment
from usage.boosts import BoostRef
from usage.counting import rules

# How often progress is told.
STEP = 1_000


def replay(
    environment: Environment,
    policies: Sequence[StoredPolicy],
    start: datetime,
    end: datetime,
    *,
    instead_of: Sequence[StoredPolicy] | None = None,
    check: bool = False,
    progress: Progress = lambda done: None,
) -> SimulationReport:
    """From `start` until before `end`. `progress` is told how many calls are done. Raises DatabaseError.

    `instead_of`: it is compared with what these would have decided; without it, with what was decided then.
    `check`: the policies that were in force are replayed beside them, and compared with what was decided then.
    """
    zone = ZoneInfo(environment.tenant.timezone)
    world = World(environment, zone, start, end)
    before = None if instead_of is None else world.simulation([Edition(0, instead_of)])
    comparing = Comparing(world.simulation([Edition(0, policies)]), Tally(start, end, zone), before)
    checking = Checking(world.simulation(in_force(environment.pk, start, end))) if check else None
    done = 0
    for done, call in enumerate(past_calls.read(environment, start, end), start=1):
        comparing.compare(call)
        if checking is not None:
            checking.compare(call)
        if done % STEP == 0:
            progress(done)
    progress(done)
    return comparing.tally.report(None if checking is None else checking.found())


class World:
    """What stays as it was, whatever the policies. One query."""

    def __init__(self, environment: Environment, zone: ZoneInfo, start: datetime, end: datetime) -> None:
        self._environment_id = environment.pk
        self._zone = zone
        self._start = start
        self._boosts = _boosts(environment, start, end)
        self._groups = rules.model_groups(environment)
        self._state = EnvironmentState(
            frozen=False,
            frozen_features=frozenset(),
            allow_without_policy=environment.default_action == DefaultAction.ALLOW,
        )

    def simulation(self, editions: Sequence[Edition]) -> Simulation:
        return Simulation(
            self._environment_id, self._zone, editions, self._state, self._boosts, self._start, self._groups
        )


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
