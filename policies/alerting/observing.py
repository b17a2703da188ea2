"""Reading what is watched: standings, the ledger and the blocked decisions. Changes nothing of them.

Each returns what was read, and whether that is all: what could not be read may still stand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

from policies.alerting import conditions
from policies.alerting.conditions import (
    CallsReading,
    DriftReading,
    LimitReading,
    UnpricedReading,
)
from policies.blocked import unpriced_calls
from policies.models import AlertRule, BlockedDecision
from policies.rules import Mode
from policies.standing import standing_wording
from policies.standing.pace import Ending, Outlook
from policies.standing.standings import Standing, SubjectStanding, standings
from tenants.models import Environment
from usage.amounts import Per
from usage.ledger import subject_sums, unpriced
from usage.settling import recount
from usage.settling.recount import Drift

# Limits that one user or one run has to themself.
_OWN = frozenset({Per.USER, Per.USER_FEATURE, Per.RUN})
# Between the two checks of the counters: a charge on its way to a counter has arrived by then.
DRIFT_CHECKED_AGAIN_S = 3.0


def limits_of(found: list[Standing], rule: AlertRule) -> tuple[list[LimitReading], bool]:
    """Of `standings`, those that the rule watches."""
    alike = [each for each in found if _watches(rule, each)]
    # Of one that counts some models: it, or once its models were edited those that count some models too.
    watched = [each for each in alike if _is_of_its_models(rule, each)] or [
        each for each in alike if rule.models and each.limit.models
    ]
    readings = [reading for standing in watched for reading in _readings(standing)]
    complete = all(each.complete and all(of.used is not None for of in each.subjects) for each in watched)
    return readings, complete


def of_limits(environment: Environment) -> list[Standing]:
    return standings(environment)


def _watches(rule: AlertRule, standing: Standing) -> bool:
    limit = standing.limit
    return (
        rule.policy_id in (None, standing.policy.pk)
        and rule.metric in ("", limit.metric)
        and rule.window in ("", limit.window)
        and rule.per in ("", limit.per)
        and (rule.of_users or limit.per not in _OWN or bool(standing.policy.scope_user))
    )


def _is_of_its_models(rule: AlertRule, standing: Standing) -> bool:
    """A rule of all limits, or of all budgets, watches those of any models."""
    return not rule.metric or not rule.per or tuple(rule.models) == standing.limit.models


def _readings(standing: Standing) -> Iterator[LimitReading]:
    limit, course = standing.limit, standing.course
    for each in standing.subjects:
        name, ends = each.subject.name(limit.per), _runs_out(standing, each)
        if each.used is None or name is None:
            continue
        yield LimitReading(
            policy_id=str(standing.policy.pk),
            policy=standing.policy.name,
            metric=limit.metric,
            window=limit.window,
            per=limit.per,
            models=limit.models,
            subject=name,
            subject_words=standing_wording.subject(each.subject, limit.per),
            used=each.used,
            held=each.held or 0,
            limit=each.allowed(limit),
            begins_at=None if course is None else course.begun_at,
            resets_at=standing.resets_at,
            runs_out_at=None if ends is None else ends.at,
            by_forecast=ends is not None and ends.by_forecast,
            monitored=standing.policy.mode == Mode.MONITOR,
        )


def _runs_out(standing: Standing, of: SubjectStanding) -> Outlook | None:
    """None: not before it resets, used up already, or not known."""
    outlook = standing.outlook_of(of)
    return outlook if outlook is not None and outlook.ending is Ending.RUNS_OUT else None


def calls(environment: Environment, now: datetime) -> CallsReading:
    """Raises DatabaseError."""
    lately, before = now - conditions.SPIKE_MINUTES, now - conditions.SPIKE_MINUTES - conditions.SPIKE_BEFORE
    return CallsReading(
        blocked=_blocked(environment, lately, now),
        made=_made(environment, lately, now),
        blocked_before=_blocked(environment, before, lately),
        made_before=_made(environment, before, lately),
    )


def _blocked(environment: Environment, start: datetime, end: datetime) -> int:
    return BlockedDecision.objects.filter(
        environment=environment, decided_at__gte=start, decided_at__lt=end
    ).count()


def _made(environment: Environment, start: datetime, end: datetime) -> int:
    _, found = subject_sums.of_all(environment.pk, Per.ENVIRONMENT, start, end)
    return sum(amounts.requests for amounts in found.values())


def drift(environment: Environment) -> DriftReading:
    """Reads the counters twice if they differ at all. Raises StoreUnavailable, DatabaseError."""
    first = recount.check(environment)
    if not first.drifts:
        return DriftReading(counters=0, checked=first.complete)
    time.sleep(DRIFT_CHECKED_AGAIN_S)
    again = recount.check(environment)
    differed = {each.key: _difference(each) for each in first.drifts}
    lasting = [each for each in again.drifts if differed.get(each.key) == _difference(each)]
    return DriftReading(counters=len(lasting), checked=again.complete)


def _difference(drift: Drift) -> tuple[int, ...]:
    return tuple(counted - recorded for counted, recorded in zip(drift.counted, drift.recorded, strict=True))


def unpriced_models(environment: Environment, now: datetime) -> list[UnpricedReading]:
    """Those with most calls, also if these were blocked for want of a price. Raises DatabaseError."""
    since = now - conditions.UNPRICED_SINCE
    uses = [
        *unpriced.found_unpriced(environment.pk, since, now),
        *unpriced_calls.blocked_unpriced(environment, since, now),
    ]
    by_model: dict[str, list[unpriced.UnpricedUse]] = {}
    for use in uses:
        by_model.setdefault(use.model, []).append(use)
    return [
        UnpricedReading(
            model=model,
            features=tuple(dict.fromkeys(use.feature for use in those)),
            calls=sum(use.calls for use in those if not use.blocked),
            blocked=sum(use.calls for use in those if use.blocked),
            first_at=min(use.first_at for use in those),
        )
        for model, those in by_model.items()
    ]
