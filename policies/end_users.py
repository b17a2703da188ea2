"""End users whose plan is known or who are blocked.

A record of each stands beside the counters (usage/counting/stored_user.py), which compare it with the caller's copy on
every evaluate. A change announces itself to the store before it commits, as a revision does (tenants/revisions.py), so
that the record never stays behind PostgreSQL; where it cannot, the environment is noted as missed, and all its records
are forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.core.exceptions import ValidationError
from django.core.validators import ProhibitNullCharactersValidator
from django.db import transaction

from audit import log as audit_log
from policies.models import EndUser, Plan
from tenants import revisions
from tenants.models import Environment
from usage.counting.keys import user_key
from usage.counting.stored_user import UNKNOWN, record
from usage.ledger.connections import ledger_connections


def load_record(environment_id: int, user_id: str) -> str:
    """The record as PostgreSQL has it; one query."""
    rows = EndUser.objects.filter(environment_id=environment_id, user_id=user_id)
    for plan_name, blocked in rows.order_by().values_list("plan__name", "blocked"):
        return record(plan_name, blocked)
    return UNKNOWN


_PLANS = """
    SELECT end_user.user_id, plan.name FROM policies_enduser AS end_user
    JOIN policies_plan AS plan ON plan.id = end_user.plan_id
    WHERE end_user.environment_id = %b AND end_user.user_id = ANY(%b::text[])
"""


def plans_of(environment_id: int, user_ids: Sequence[str]) -> dict[str, str]:
    """Of these end users, the plans of those that have one; one query. Raises DatabaseError."""
    return dict(ledger_connections.execute(_PLANS, [environment_id, list(user_ids)]))


def set_end_user(
    environment: Environment, user_id: str, *, plan_name: str | None, blocked: bool, actor: str
) -> EndUser:
    """Stores the plan (None: take the one in the request) and the block; it binds the user's very next call.

    Raises ValidationError for a bad user_id or a plan that the environment does not have.
    """
    _validate(user_id)
    with audit_log.acting_as(actor), transaction.atomic():
        plan = None if plan_name is None else _plan(environment, plan_name)
        user, created = EndUser.objects.select_for_update(no_key=True).get_or_create(
            environment=environment, user_id=user_id, defaults={"plan": plan, "blocked": blocked}
        )
        # Also when nothing changes, so that repeating a call that failed half-way completes it.
        _announce(environment, user_id)
        before = _NEW if created else _audited(user)
        user.plan, user.blocked = plan, blocked
        if created or before != _audited(user):
            user.save(update_fields=["plan", "blocked"])
            changes = audit_log.changes(before, _audited(user))
            _log("end_user.changed", user, environment, changes=changes)
    return user


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


def _validate(user_id: str) -> None:
    EndUser(user_id=user_id).clean_fields(exclude=["environment", "plan"])
    ProhibitNullCharactersValidator()(user_id)


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


_NEW = {"plan": None, "blocked": False}


def _audited(user: EndUser) -> dict[str, object]:
    return {"plan": None if user.plan is None else user.plan.name, "blocked": user.blocked}


def _log(action: str, user: EndUser, environment: Environment, **data: object) -> None:
    audit_log.log(action, user, tenant_id=environment.tenant_id, environment=environment.slug, **data)


def _announce(environment: Environment, user_id: str) -> None:
    revisions.announce_change_of(user_key(environment.pk, user_id), environment.pk)
