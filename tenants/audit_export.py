"""The audit log as a file: CSV or JSON Lines, written while it is read, whatever its length.

The file says first what is in it: whose log, with which filters, in which time zone, by whom and when it was exported.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.models import QuerySet

from audit import log as audit_log
from audit import wording
from audit.log import Target
from audit.models import Entry

BATCH = 1_000
COLUMNS = (
    "entry", "at", "actor", "action", "sentence", "address", "request_id",
    "object_kind", "object_id", "object_name", "data", "hash",
)  # fmt: skip
# What a spreadsheet would take for a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class Format(StrEnum):
    CSV = "csv"
    JSON_LINES = "jsonl"


CONTENT_TYPES = {Format.CSV: "text/csv; charset=utf-8", Format.JSON_LINES: "application/jsonl; charset=utf-8"}


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
    return _WRITERS[kind](about, _rows(entries.filter(pk__lt=done.pk), zone))


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


def _csv(about: About, rows: Iterator[dict[str, object]]) -> Iterator[str]:
    yield "".join(_csv_line(["#", name, safe_cell(_text(value))]) for name, value in asdict(about).items())
    yield _csv_line(COLUMNS)
    for row in rows:
        yield _csv_line([safe_cell(_text(value)) for value in row.values()])


def _csv_line(cells: list[str] | tuple[str, ...]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def safe_cell(text: str) -> str:
    """As text for a spreadsheet: an apostrophe stands before what it would calculate."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _json_lines(about: About, rows: Iterator[dict[str, object]]) -> Iterator[str]:
    yield json.dumps({"about": asdict(about)}, ensure_ascii=False) + "\n"
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


_WRITERS: Mapping[Format, Callable[[About, Iterator[dict[str, object]]], Iterator[str]]] = {
    Format.CSV: _csv,
    Format.JSON_LINES: _json_lines,
}
