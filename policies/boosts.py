"""Giving boosts, ending them before their time, and reading them for decisions.

A boost of an end user stands in the record of the user beside the counters (policies/end_users.py): so there may be as
many as there are users, and one binds without any process compiling anything. The others are few and stand in the
snapshot of the environment (policies/deciding/snapshot.py). A change of either announces itself before it commits.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from audit import log as audit_log
from policies.models import Boost, Limit, Plan
from policies.rules import Mode
from tenants import revisions
from tenants.models import Environment
from usage.amounts import Models, Per
from usage.assessment import LimitKind
from usage.boosts import BOOSTED_PERS, BoostRef, raised
from usage.counting.keys import user_key
from usage.instants import to_ms
from usage.metrics import Metric
from usage.money import MAX_LIMIT_NANO, NANO, to_nano
from usage.windows import Window

LASTS_MAX = timedelta(days=366)
# Of one user; of all features, plans and the environment together.
USER_MAX = 20
SHARED_MAX = 200
EXTRA_MAX = {Metric.COST_USD: Decimal(MAX_LIMIT_NANO) / NANO}
COUNT_EXTRA_MAX = Decimal(10**12)
# The store's clock says when one is over; that of whoever reads may be ahead by so much.
CLOCKS_DIFFER_MAX = timedelta(hours=1)
_COLUMNS = ("per", "subject", "metric", "window", "extra", "starts_at", "ends_at")


def give(boost: Boost, *, actor: str) -> Boost:
    """Stores a new boost; it binds the very next call, or the first one after its start. Raises ValidationError."""
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(boost.environment_id)
        clean(boost)
        boost.given_by = actor
        boost.save(force_insert=True)
        _announce(boost)
        _log("boost.given", boost, reason=boost.reason, starts_at=boost.starts_at, ends_at=boost.ends_at)
    return boost


class AlreadyGiven(Exception):
    """The id is that of a boost that says something else."""


def give_once(boost: Boost, *, actor: str) -> tuple[Boost, bool]:
    """As `give`, but not again what was given with this id, be it over by now. The boost, and whether it is new.

    Raises ValidationError, AlreadyGiven.
    """
    with transaction.atomic():
        Environment.lock(boost.environment_id)
        of_id = Boost.objects.filter(environment_id=boost.environment_id, boost_id=boost.boost_id)
        before = of_id.first()
        if before is None:
            return give(boost, actor=actor), True
    _normalise(boost)
    if any(getattr(before, column) != getattr(boost, column) for column in (*_COLUMNS, "reason")):
        raise AlreadyGiven
    return before, False


def end_now(boost_id: int, environment: Environment, *, actor: str) -> bool:
    """Ends a boost before its time, from the very next call on. Whether it was running or still to come."""
    with audit_log.acting_as(actor), transaction.atomic():
        Environment.lock(environment.pk)
        boost = current(environment.pk).filter(pk=boost_id).first()
        if boost is None:
            return False
        boost.ended_at, boost.ended_by = timezone.now(), actor
        boost.save(update_fields=["ended_at", "ended_by"])
        _announce(boost)
        _log("boost.ended", boost)
    return True


def current(environment_id: int) -> QuerySet[Boost]:
    """Those that run or are still to come."""
    return Boost.objects.filter(environment_id=environment_id, ended_at=None, ends_at__gt=timezone.now())


def of_user(environment_id: int, user_id: str) -> QuerySet[Boost]:
    """As `current`, those of one end user."""
    return current(environment_id).filter(per=Per.USER, subject=user_id)


def alike(boost: Boost) -> QuerySet[Boost]:
    """The others of `current` that raise the same limits of the same subject."""
    same = {name: getattr(boost, name) for name in ("per", "subject", "metric", "window")}
    return current(boost.environment_id).filter(**same).exclude(pk=boost.pk)


def ended(environment_id: int) -> QuerySet[Boost]:
    over = ~Q(ended_at=None) | Q(ends_at__lte=timezone.now())
    return Boost.objects.filter(over, environment_id=environment_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raisable:
    """A limit in force that boosts of its kind raise. `amount` is nano-USD for costs."""

    per: Per
    metric: Metric
    window: Window
    models: Models
    policy: str
    amount: int

    @property
    def key(self) -> str:
        return raised(self.per, self.metric, self.window)

    @property
    def kind(self) -> LimitKind:
        return self.metric, self.window, self.per, self.models


def raisable(environment_id: int) -> list[Raisable]:
    """In the order of their kinds; one query."""
    rows = Limit.objects.filter(
        policy__environment_id=environment_id, policy__archived_at=None, per__in=BOOSTED_PERS
    ).exclude(policy__mode=Mode.OFF)
    found = [
        Raisable(
            per=Per(per),
            metric=Metric(metric),
            window=Window(window),
            models=tuple(models),
            policy=policy,
            amount=to_nano(amount) if metric == Metric.COST_USD else int(amount),
        )
        for per, metric, window, models, policy, amount in rows.values_list(
            "per", "metric", "window", "models", "policy__name", "amount"
        )
    ]
    windows = list(Window)
    return sorted(
        found,
        key=lambda each: (BOOSTED_PERS.index(each.per), windows.index(each.window), each.metric, each.policy),
    )


def shared(environment_id: int) -> tuple[BoostRef, ...]:
    """All but those of end users, for the snapshot; one query."""
    rows = Boost.objects.filter(environment_id=environment_id, ended_at=None, ends_at__gt=over_since())
    return tuple(ref(*row) for row in rows.exclude(per=Per.USER).order_by("id").values_list(*_COLUMNS))


def extras(environment_id: int, now_ms: int, *, only_user: str | None = None) -> dict[tuple[str, str], int]:
    """What the boosts that run add, by the kind of limits (`raised`) and the subject; of users, of all or one."""
    rows = Boost.objects.filter(environment_id=environment_id, ended_at=None, ends_at__gt=over_since())
    if only_user is not None:
        rows = rows.filter(~Q(per=Per.USER) | Q(subject=only_user))
    found: dict[tuple[str, str], int] = defaultdict(int)
    for each in (ref(*row) for row in rows.values_list(*_COLUMNS)):
        if each.starts_at_ms <= now_ms < each.ends_at_ms:
            found[raised(each.per, each.metric, each.window), each.subject] += each.extra
    return found


def ref_of(boost: Boost) -> BoostRef:
    return ref(*(getattr(boost, column) for column in _COLUMNS))


def key_of(boost: Boost) -> str:
    return raised(Per(boost.per), Metric(boost.metric), Window(boost.window))


def over_since() -> datetime:
    """Boosts that ended before are over by any clock."""
    return timezone.now() - CLOCKS_DIFFER_MAX


def ref(
    per: str,
    subject: str,
    metric: str,
    window: str,
    extra: Decimal,
    starts_at: datetime | None,
    ends_at: datetime,
) -> BoostRef:
    """Of the columns of a row."""
    counted = Metric(metric)
    return BoostRef(
        per=Per(per),
        subject=subject,
        metric=counted,
        window=Window(window),
        extra=to_nano(extra) if counted is Metric.COST_USD else int(extra),
        starts_at_ms=0 if starts_at is None else to_ms(starts_at),
        ends_at_ms=to_ms(ends_at),
    )


def clean(boost: Boost) -> None:
    """Raises ValidationError if it cannot be given."""
    _normalise(boost)
    boost.clean_fields(exclude=["environment", "given_by"])
    errors = {
        field: "Null characters are not allowed."
        for field in ("subject", "reason")
        if "\x00" in getattr(boost, field)
    }
    if (boost.per == Per.ENVIRONMENT) != (boost.subject == ""):
        errors["subject"] = (
            "A boost of the whole environment names nobody."
            if boost.subject
            else f"Name the {boost.per} that gets it."
        )
    counts = boost.metric != Metric.COST_USD
    most = EXTRA_MAX.get(Metric(boost.metric), COUNT_EXTRA_MAX)
    if not 0 < boost.extra <= most or (counts and boost.extra != int(boost.extra)):
        errors["extra"] = f"Give {'a whole number ' if counts else ''}above 0, at most {most:,}."
    starts_at, now = boost.starts_at or timezone.now(), timezone.now()
    if boost.ends_at <= max(starts_at, now):
        errors["ends_at"] = "It must end in the future, after it starts."
    elif boost.ends_at - starts_at > LASTS_MAX:
        errors["ends_at"] = f"It may last {LASTS_MAX.days} days at most."
    elif starts_at - now > LASTS_MAX:
        errors["starts_at"] = f"It must start within {LASTS_MAX.days} days."
    if boost.per == Per.PLAN and boost.subject and not _is_plan(boost.environment_id, boost.subject):
        errors["subject"] = f"There is no plan {boost.subject!r} here."
    if errors:
        raise ValidationError(errors)
    _check_room_for(boost)


def _normalise(boost: Boost) -> None:
    if boost.metric == Metric.CONCURRENCY:
        # It has no window; limits on it are written down as of this one.
        boost.window = Window.TOTAL
    boost.reason = boost.reason.strip()


def _is_plan(environment_id: int, name: str) -> bool:
    return "\x00" not in name and Plan.objects.filter(environment_id=environment_id, name=name).exists()


def _check_room_for(boost: Boost) -> None:
    others = current(boost.environment_id)
    if boost.per == Per.USER:
        count, most = others.filter(per=Per.USER, subject=boost.subject).count(), USER_MAX
    else:
        count, most = others.exclude(per=Per.USER).count(), SHARED_MAX
    if count >= most:
        raise ValidationError(f"There are {count} such boosts already; end one first.")


def _announce(boost: Boost) -> None:
    if boost.per == Per.USER:
        revisions.announce_change_of(user_key(boost.environment_id, boost.subject), boost.environment_id)
    else:
        revisions.bump(boost.environment_id, policies=False)


def _log(action: str, boost: Boost, **data: object) -> None:
    environment = boost.environment
    audit_log.log(
        action,
        boost,
        tenant_id=environment.tenant_id,
        environment=environment.slug,
        per=str(boost.per),
        subject=boost.subject,
        metric=str(boost.metric),
        window=str(boost.window),
        extra=boost.extra,
        **data,
    )
