"""End users whose plan is known, who are blocked, or who have boosts.

A record of each stands beside the counters (usage/counting/stored_user.py), which compare it with the caller's copy on
every evaluate. A change announces itself to the store before it commits, as a revision does (tenants/revisions.py), so
that the record never stays behind PostgreSQL; where it cannot, the environment is noted as missed, and all its records
are forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.core.exceptions import ValidationError
from django.core.validators import ProhibitNullCharactersValidator
from django.db import connection, transaction

from audit import log as audit_log
from policies import boosts
from policies.models import EndUser, Plan
from tenants import revisions
from tenants.models import Environment
from usage import wording
from usage.counting.keys import user_key
from usage.counting.stored_user import UNKNOWN, record, with_boosts
from usage.ledger.connections import ledger_connections

# Users of a plan that are counted.
COUNTED_MAX = 100_000
# The columns before those of a boost.
_OF_USER = 3
_RECORD = """
    SELECT end_user.id IS NOT NULL, plan.name, end_user.blocked,
      boost.per, boost.subject, boost.metric, boost."window", boost.extra, boost.starts_at, boost.ends_at
    FROM (VALUES (%s::bigint, %s)) AS asked (environment_id, user_id)
    LEFT JOIN policies_enduser AS end_user USING (environment_id, user_id)
    LEFT JOIN policies_plan AS plan ON plan.id = end_user.plan_id
    LEFT JOIN policies_boost AS boost ON boost.environment_id = asked.environment_id
      AND boost.per = 'user' AND boost.subject = asked.user_id
      AND boost.ended_at IS NULL AND boost.ends_at > %s
    ORDER BY boost.id
"""


def load_record(environment_id: int, user_id: str) -> str:
    """The record as PostgreSQL has it, with the user's boosts; one query."""
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, [environment_id, user_id, boosts.over_since()])
        rows = cursor.fetchall()
    is_stored, plan_name, blocked = rows[0][:_OF_USER]
    given = [boosts.ref(*row[_OF_USER:]) for row in rows if row[_OF_USER] is not None]
    return with_boosts(record(plan_name, blocked) if is_stored else UNKNOWN, given)


_PLANS = """
    SELECT end_user.user_id, plan.name FROM policies_enduser AS end_user
    JOIN policies_plan AS plan ON plan.id = end_user.plan_id
    WHERE end_user.environment_id = %b AND end_user.user_id = ANY(%b::text[])
"""


def plans_of(environment_id: int, user_ids: Sequence[str]) -> dict[str, str]:
    """Of these end users, the plans of those that have one; one query. Raises DatabaseError."""
    return dict(ledger_connections.execute(_PLANS, [environment_id, list(user_ids)]))


_STORED_ON = """
    SELECT plan.id, (SELECT count(*) FROM (
      SELECT FROM policies_enduser AS end_user WHERE end_user.plan_id = plan.id LIMIT %s
    ) AS counted) FROM unnest(%s::bigint[]) AS plan (id)
"""


def stored_on(plan_ids: Sequence[int]) -> dict[int, int]:
    """How many users are stored on each of these plans, COUNTED_MAX + 1 at most; one query, by the index of plans."""
    with connection.cursor() as cursor:
        cursor.execute(_STORED_ON, [COUNTED_MAX + 1, list(plan_ids)])
        return dict(cursor.fetchall())


def says(stored: int) -> str:
    """`1,412`, `more than 100,000`"""
    return wording.count(stored) if stored <= COUNTED_MAX else f"more than {wording.count(COUNTED_MAX)}"


def set_end_user(
    environment: Environment,
    user_id: str,
    *,
    plan_name: str | None,
    blocked: bool,
    blocked_reason: str | None = None,
    actor: str,
) -> EndUser:
    """Stores the plan (None: take the one in the request) and the block; it binds the user's very next call.

    `blocked_reason` None leaves the one there is; without a block there is none. Raises ValidationError for a bad
    user_id or reason, or a plan that the environment does not have.
    """
    _validate(user_id, blocked_reason or "")
    with audit_log.acting_as(actor), transaction.atomic():
        plan = None if plan_name is None else _plan(environment, plan_name)
        user, created = EndUser.objects.select_for_update(no_key=True).get_or_create(
            environment=environment, user_id=user_id, defaults={"plan": plan, "blocked": blocked}
        )
        reason = (user.blocked_reason if blocked_reason is None else blocked_reason) if blocked else ""
        # Also when nothing changes, so that repeating a call that failed half-way completes it.
        _announce(environment, user_id)
        before = _NEW if created else _audited(user)
        user.plan, user.blocked, user.blocked_reason = plan, blocked, reason
        if created or before != _audited(user):
            user.save(update_fields=["plan", "blocked", "blocked_reason"])
            changes = audit_log.changes(before, _audited(user))
            _log("end_user.changed", user, environment, changes=changes)
    return user


def change_plan(environment: Environment, user_id: str, plan_name: str | None, *, actor: str) -> EndUser:
    """Leaves the block as it is. Raises as `set_end_user`."""
    with transaction.atomic():
        blocked = (user := _locked(environment, user_id)) is not None and user.blocked
        return set_end_user(environment, user_id, plan_name=plan_name, blocked=blocked, actor=actor)


def block(environment: Environment, user_id: str, reason: str, *, actor: str) -> EndUser:
    """Leaves the plan as it is. Raises as `set_end_user`."""
    with transaction.atomic():
        plan_name = _plan_name(_locked(environment, user_id))
        return set_end_user(
            environment, user_id, plan_name=plan_name, blocked=True, blocked_reason=reason, actor=actor
        )


def unblock(environment: Environment, user_id: str, *, actor: str) -> EndUser | None:
    """None: nothing is stored of the user, so there is no block."""
    with transaction.atomic():
        user = _locked(environment, user_id)
        if user is None:
            return None
        return set_end_user(environment, user_id, plan_name=_plan_name(user), blocked=False, actor=actor)


def _locked(environment: Environment, user_id: str) -> EndUser | None:
    """So that what a change leaves alone is what it is then."""
    rows = EndUser.objects.filter(environment=environment, user_id=user_id).order_by()
    return rows.select_for_update(no_key=True).first()


def _plan_name(user: EndUser | None) -> str | None:
    return None if user is None or user.plan is None else user.plan.name


def remove_end_user(environment: Environment, user_id: str, *, actor: str) -> bool:
    """Forgets the plan and the block of an end user; the ledger stays. Whether there was anything."""
    with audit_log.acting_as(actor), transaction.atomic():
        users = EndUser.objects.filter(environment=environment, user_id=user_id).order_by()
        user = users.select_for_update().first()
        _announce(environment, user_id)
        if user is None:
            return False
        # By a query, so that the row keeps its id for the log.
        users.delete()
        _log("end_user.removed", user, environment, **_audited(user))
    return True


def _validate(user_id: str, blocked_reason: str) -> None:
    EndUser(user_id=user_id, blocked_reason=blocked_reason).clean_fields(exclude=["environment", "plan"])
    for text in (user_id, blocked_reason):
        ProhibitNullCharactersValidator()(text)


# Foreign keys are checked when the transaction ends, when it has the audit log's lock; who removes a plan takes the
# locks in the other order. So the plan is kept before anything is written.
_KEEP_PLAN = "SELECT * FROM policies_plan WHERE environment_id = %s AND name = %s FOR KEY SHARE"


def _plan(environment: Environment, name: str) -> Plan:
    """The plan; nobody can remove it until the transaction ends."""
    plan = next(iter(Plan.objects.raw(_KEEP_PLAN, [environment.pk, name])), None)
    if plan is None:
        raise ValidationError(
            {"plan": f"There is no plan {name!r} in {environment}; add it to its policy file."}
        )
    return plan


_NEW = {"plan": None, "blocked": False, "blocked_reason": None}


def _audited(user: EndUser) -> dict[str, object]:
    return {
        "plan": None if user.plan is None else user.plan.name,
        "blocked": user.blocked,
        "blocked_reason": user.blocked_reason or None,
    }


def _log(action: str, user: EndUser, environment: Environment, **data: object) -> None:
    audit_log.log(action, user, tenant_id=environment.tenant_id, environment=environment.slug, **data)


def _announce(environment: Environment, user_id: str) -> None:
    revisions.announce_change_of(user_key(environment.pk, user_id), environment.pk)
