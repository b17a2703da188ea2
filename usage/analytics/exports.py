"""Files about a month: what each says of itself, and the entry in the audit log that says who took it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from django.db import transaction

from audit import log as audit_log
from audit import wording
from tenants import exporting
from tenants.exporting import Format
from tenants.models import Environment, Tenant
from usage.analytics.focus import COLUMNS, VERSION, Focus
from usage.ledger.partitions import REPORTED_WITHIN

FORMATS = (Format.CSV, Format.JSON)


def settled_at(focus: Focus) -> datetime:
    """From when on nothing can change what the month cost."""
    return focus.period.end + REPORTED_WITHIN


def focus_name(focus: Focus, now: datetime) -> str:
    """Of the file, without its ending. It says if what is in it may change."""
    whose = str(focus.environments[0]) if len(focus.environments) == 1 else focus.environments[0].tenant.slug
    state = "" if settled_at(focus) <= now else "-so-far" if now < focus.period.end else "-not-final"
    return f"focus-{whose.replace('/', '-')}-{focus.month:%Y-%m}{state}"


def focus_lines(focus: Focus, kind: Format, now: datetime) -> Iterator[str]:
    """Read when they are asked for, which raises DatabaseError.

    A CSV has no lines but those of the table, as FOCUS demands; what a JSON file is stands in its `about`.
    """
    tenant = focus.environments[0].tenant
    about = {
        "focus_version": VERSION,
        "tenant": tenant.slug,
        "month": f"{focus.month:%Y-%m}",
        "time_zone": tenant.timezone,
        "by": focus.by.value,
        "final": settled_at(focus) <= now,
        "final_from": settled_at(focus).isoformat(timespec="seconds"),
        **logged(tenant, f"the FOCUS file of {focus.month:%Y-%m}", focus.environments, kind),
    }
    return exporting.written(kind, {} if kind is Format.CSV else about, COLUMNS, focus.rows())


def logged(tenant: Tenant, file: str, environments: Sequence[Environment], kind: Format) -> dict[str, object]:
    """Writes into the audit log who takes it, and returns what a file says of that."""
    slugs = [each.slug for each in environments]
    with transaction.atomic():
        done = audit_log.log(
            "usage.exported", tenant, tenant_id=tenant.pk, file=file, environments=slugs, format=kind.value
        )
    at = done.at.astimezone(ZoneInfo(tenant.timezone))
    return {
        "environments": slugs,
        "exported_by": wording.who(done.actor),
        "exported_at": at.isoformat(timespec="seconds"),
    }
