"""What re-pricing found, as a table to read, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from usage import wording
from usage.money import format_usd
from usage.settling.repricing import OfModel, Repriced

_HEADER = ("model", "calls", "changed", "cost before USD", "cost now USD", "difference USD")


def lines(found: Repriced, *, dry_run: bool) -> Iterator[str]:
    """The models with something to say of, then what stays unpriced and why; the last line is of all."""
    rows = [_HEADER, *map(_cells, found.listed)]
    if len(rows) > 1:
        widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADER))]
        for row in rows:
            yield _aligned(row, widths)
    for each in found.listed:
        yield from stays(each)
    yield _total(found, dry_run=dry_run)


def stays(figures: OfModel) -> Iterator[str]:
    """`team-chat: 12 calls stay unpriced: no price in the book for this name at its provider`"""
    for why, calls in figures.left.most_common():
        yield f"{figures.model}: {wording.counted(calls, 'call')} not or not wholly priced: {why}"
    if figures.kept:
        yield (
            f"{figures.model}: {wording.counted(figures.kept, 'call')} would have no price or rate now: "
            "left as charged"
        )


def document(found: Repriced, *, dry_run: bool) -> str:
    total = found.total
    models = [{"model": each.model, **_figures(each)} for each in found.listed]
    return json.dumps({"dry_run": dry_run, **_figures(total), "models": models}, ensure_ascii=False)


def _figures(figures: OfModel) -> dict[str, Any]:
    return {
        "calls": figures.calls,
        "changed": figures.changed,
        "cost_usd_before": format_usd(figures.before_nano),
        "cost_usd": format_usd(figures.after_nano),
        "difference_usd": format_usd(figures.difference_nano),
        "unpriced": dict(figures.left.most_common()),
        "left_as_charged": figures.kept,
    }


def _cells(figures: OfModel) -> tuple[str, ...]:
    return (
        figures.model,
        str(figures.calls),
        str(figures.changed),
        format_usd(figures.before_nano),
        format_usd(figures.after_nano),
        format_usd(figures.difference_nano),
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    model, *numbers = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([model, *numbers]).rstrip()


def _total(found: Repriced, *, dry_run: bool) -> str:
    total = found.total
    changed = "would be re-priced" if dry_run else "re-priced"
    return (
        f"{wording.counted(total.calls, 'call')} looked at, {wording.count(total.changed)} {changed}: "
        f"{format_usd(total.before_nano)} USD before, {format_usd(total.after_nano)} now, difference "
        f"{format_usd(total.difference_nano)}; {wording.count(total.left.total())} not or not wholly priced"
    )
