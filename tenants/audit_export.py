"""The audit log as a file: CSV or JSON Lines, written while it is read, whatever its length.

The file says first what is in it: whose log, with which filters, in which time zone, by whom and when it was exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.models import QuerySet

from audit import log as audit_log
from audit import wording
from audit.log import Target
from audit.models import Entry
from tenants import exporting
from tenants.exporting import Format

BATCH = 1_000
COLUMNS = (
    "entry", "at", "actor", "action", "sentence", "address", "request_id",
    "object_kind", "object_id", "object_name", "data", "hash",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the file says of itself."""

    log: str
    filters: Mapping[str, str]
    time_zone: str
    exported_by: str
    exported_at: str


def export(
    entries: QuerySet[Entry],
    kind: Format,
    *,
    tenant_id: int | None,
    whose: str,
    filters: Mapping[str, str],
    zone: ZoneInfo,
) -> Iterator[str]:
    """The lines of the file, the newest entry first. All must be of this chain, which gets an entry for the export."""
    with transaction.atomic():
        target = Target("audit.entry", whose)
        done = audit_log.log(
            "audit.exported", target, tenant_id=tenant_id, format=kind.value, filters=dict(filters)
        )
    about = About(
        log=whose,
        filters=filters,
        time_zone=zone.key,
        exported_by=wording.who(done.actor),
        exported_at=done.at.astimezone(zone).isoformat(timespec="seconds"),
    )
    # What is written meanwhile is not in it, nor is the export itself.
    return exporting.written(kind, asdict(about), COLUMNS, _rows(entries.filter(pk__lt=done.pk), zone))


def _rows(entries: QuerySet[Entry], zone: ZoneInfo) -> Iterator[dict[str, object]]:
    last: int | None = None
    while True:
        rest = entries if last is None else entries.filter(pk__lt=last)
        batch = list(rest.order_by("-pk")[:BATCH])
        for entry in batch:
            yield _row(entry, zone)
            last = entry.pk
        if len(batch) < BATCH:
            return


def _row(entry: Entry, zone: ZoneInfo) -> dict[str, object]:
    values = (
        entry.seq,
        entry.at.astimezone(zone).isoformat(timespec="milliseconds"),
        entry.actor,
        entry.action,
        str(wording.sentence(entry)),
        entry.address,
        entry.request_id,
        entry.target_type,
        entry.target_id,
        entry.target_name,
        entry.data,
        entry.hash,
    )
    return dict(zip(COLUMNS, values, strict=True))
