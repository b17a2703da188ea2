"""What is in a journal's folder, for people: looks, and changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tokvigil import quarantine
from tokvigil.journal import directory_in
from tokvigil.journal_file import SUFFIX, destination_of, is_in_use, read_reports


@dataclass(slots=True, kw_only=True)
class Survey:
    """Reports to one destination, but for `of_others`, which wait for clients with another key or address, by their
    destination. `quarantined` is the number of reports set aside, by reason."""

    pending: int = 0
    under_way: int = 0
    of_dead_processes: int = 0
    of_others: Counter[str] = field(default_factory=Counter)
    oldest_at: datetime | None = None
    quarantined: Counter[str] = field(default_factory=Counter)


def survey(folder: Path, destination: str) -> Survey:
    """Raises `OSError` if nothing can be written there."""
    mine = directory_in(folder, destination)
    _check_can_be_written(mine)
    found = Survey(quarantined=Counter(each.reason for each in quarantine.read(mine)))
    times: list[datetime] = []
    for path in folder.glob(f"*/*{SUFFIX}"):
        named = destination_of(path)
        if named is None:
            continue  # no journal, or just now deleted
        is_dead = not is_in_use(path)
        try:
            reports = read_reports(path)
        except FileNotFoundError:
            continue  # all of it has been sent meanwhile
        if path.parent != mine:
            if is_dead and reports.pending:
                found.of_others[named] += len(reports.pending)
            continue
        times += _times(reports.pending.values())
        if is_dead:
            found.of_dead_processes += len(reports.pending)
        else:
            found.under_way += reports.under_way
            found.pending += len(reports.pending) - reports.under_way
    found.oldest_at = min(times, default=None)
    return found


def _times(reports: Iterable[bytes]) -> list[datetime]:
    times = []
    for report in reports:
        try:
            times.append(datetime.fromisoformat(json.loads(report)["occurred_at"]).astimezone(UTC))
        except (ValueError, TypeError, KeyError):
            continue
    return times


def _check_can_be_written(directory: Path) -> None:
    """Whether a client can make it, and a file in it: tried in the part of it that is there, and removed."""
    nearest = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    with TemporaryDirectory(dir=nearest) as made:
        Path(made, "file").write_bytes(b"\n")
