"""A FOCUS file: its lines, what it says of itself, and the entry in the audit log that says who took it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import chain

from django.db import transaction

from audit import log as audit_log
from audit import wording
from tenants import exporting
from tenants.exporting import Format
from usage.analytics.focus import COLUMNS, VERSION, Focus
from usage.ledger.partitions import REPORTED_WITHIN

FORMATS = (Format.CSV, Format.JSON)


def settled_at(focus: Focus) -> datetime:
    """From when on nothing can change what the month cost."""
    return focus.period.end + REPORTED_WITHIN


def name(focus: Focus, now: datetime) -> str:
    """Of the file, without its ending. It says if what is in it may change."""
    whose = str(focus.environments[0]) if len(focus.environments) == 1 else focus.environments[0].tenant.slug
    state = "" if settled_at(focus) <= now else "-so-far" if now < focus.period.end else "-not-final"
    return f"focus-{whose.replace('/', '-')}-{focus.month:%Y-%m}{state}"


def lines(focus: Focus, kind: Format, now: datetime) -> Iterator[str]:
    """The first row is read at once: what cannot be read raises DatabaseError before there is a file.

    A CSV has no lines but those of the table, as FOCUS demands; what a JSON file is stands in its `about`.
    """
    tenant = focus.environments[0].tenant
    with transaction.atomic():
        done = audit_log.log(
            "usage.exported",
            tenant,
            tenant_id=tenant.pk,
            file=f"the FOCUS file of {focus.month:%Y-%m}",
            environments=[each.slug for each in focus.environments],
            format=kind.value,
        )
    about = {
        "focus_version": VERSION,
        "tenant": tenant.slug,
        "environments": [each.slug for each in focus.environments],
        "month": f"{focus.month:%Y-%m}",
        "time_zone": tenant.timezone,
        "by": focus.by.value,
        "final": settled_at(focus) <= now,
        "final_from": settled_at(focus).isoformat(timespec="seconds"),
        "exported_by": wording.who(done.actor),
        "exported_at": done.at.isoformat(timespec="seconds"),
    }
    rows = focus.rows()
    first = next(rows, None)
    return exporting.written(
        kind, {} if kind is Format.CSV else about, COLUMNS, rows if first is None else chain([first], rows)
    )
