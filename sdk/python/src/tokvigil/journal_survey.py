"""What is in a journal's folder, for people: looks, and changes nothing."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tokvigil import quarantine
from tokvigil.journal import directory_in
from tokvigil.journal_file import SUFFIX, Reports, destination_of, is_in_use, read_reports

REASONS_MAX = 5
OTHERS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Reports to one destination, but for `of_others`, which wait for clients with another key or address.

    `of_others` is their number by destination, the largest `OTHERS_MAX`; `unnamed_others` says how many more
    destinations there are, and how many reports for them. `quarantined` is the number of reports set aside, by reason;
    the commonest `REASONS_MAX`.
    """

    pending: int
    under_way: int
    of_dead_processes: int
    of_others: Mapping[str, int]
    unnamed_others: tuple[int, int]
    oldest_at: datetime | None
    quarantined: Mapping[str, int]


def survey(folder: Path, destination: str) -> Survey:
    """Raises `OSError` if nothing can be written there."""
    _check_can_be_written(folder)
    mine = directory_in(folder, destination)
    pending = under_way = dead = 0
    times: list[datetime] = []
    others: Counter[str] = Counter()
    for path in folder.glob(f"*/*{SUFFIX}"):
        named = destination_of(path)
        if named is None:
            continue  # no journal, or just now deleted
        is_dead = not is_in_use(path)
        found = _read(path)
        if path.parent == mine:
            times += _times(found.pending.values())
            dead += len(found.pending) if is_dead else 0
            under_way += 0 if is_dead else found.under_way
            pending += 0 if is_dead else len(found.pending) - found.under_way
        elif is_dead:
            others[named] += len(found.pending)
    ranked = [(named, count) for named, count in others.most_common() if count]
    unnamed = ranked[OTHERS_MAX:]
    return Survey(
        pending=pending,
        under_way=under_way,
        of_dead_processes=dead,
        of_others=dict(ranked[:OTHERS_MAX]),
        unnamed_others=(len(unnamed), sum(count for _, count in unnamed)),
        oldest_at=min(times, default=None),
        quarantined=dict(Counter(each.reason for each in quarantine.read(mine)).most_common(REASONS_MAX)),
    )


def _read(path: Path) -> Reports:
    try:
        return read_reports(path)
    except FileNotFoundError:
        return Reports({}, 0, [], 0)  # all of it has been sent meanwhile


def _times(reports: Iterable[bytes]) -> list[datetime]:
    times = []
    for report in reports:
        try:
            times.append(datetime.fromisoformat(json.loads(report)["occurred_at"]).astimezone(UTC))
        except (ValueError, TypeError, KeyError):
            continue
    return times


def _check_can_be_written(folder: Path) -> None:
    """Whether a client can make it, and a file in it."""
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is no directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"{nearest} cannot be written")
