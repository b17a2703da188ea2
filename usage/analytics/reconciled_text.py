"""A reconciliation as a table to read, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from usage.analytics.provider_exports.lines import Export
from usage.analytics.reconciling import Reconciliation, Row, Side

NANO_USD = Decimal("1e-9")
TOKENS = ("input_tokens", "output_tokens")
_HEADER = (
    "day",
    "model",
    "ours USD",
    "theirs USD",
    "difference",
    "input tokens",
    "output tokens",
    "explained by",
)
_LEFT = {0, 1, 7}


def table(export: Export, found: Reconciliation) -> Iterator[str]:
    """Rows that differ; the last line is of all."""
    rows = [_HEADER, *map(_cells, found.differing)]
    if len(rows) > 1:
        widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADER))]
        for row in rows:
            yield _aligned(row, widths)
    yield _totals(export, found)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        cell.ljust(width) if place in _LEFT else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.day.isoformat(),
        named(row),
        usd(_cost(row.ours)),
        usd(_cost(row.theirs)),
        usd(row.difference),
        *(_signed(row.used_difference(name)) for name in TOKENS),
        "; ".join(reason.text for reason in row.reasons) or "nothing that is known",
    )


def named(row: Row) -> str:
    """Provider and model, as the price book calls them."""
    return f"{row.provider}/{row.model}" if row.model else f"{row.provider} (no model named)"


def _totals(export: Export, found: Reconciliation) -> str:
    days = f"{min(export.days)} to {max(export.days)}"
    said = f"{len(found.differing)} of {len(found.rows)} rows differ ({export.kind}, {days} UTC)"
    sums = _sums(found)
    if sums["theirs_usd"] is None:
        tokens = "; ".join(
            f"{name.replace('_', ' ')}: ours {sums['ours'][name]}, theirs {sums['theirs'][name]}"
            for name in TOKENS
        )
        return f"{said}. {tokens}.{_elsewhere(found)}"
    return (
        f"{said}. Ours {sums['ours_usd']} USD, theirs {sums['theirs_usd']} USD, difference {sums['difference_usd']} "
        f"USD.{_elsewhere(found)}"
    )


def _elsewhere(found: Reconciliation) -> str:
    if not found.elsewhere_calls:
        return ""
    return f" Not compared: {found.elsewhere_calls} calls of ours at other providers, {usd(found.elsewhere_cost)} USD."


def _sums(found: Reconciliation) -> dict[str, Any]:
    ours = sum((_cost(row.ours) or Decimal(0) for row in found.rows), Decimal(0))
    known = [row for row in found.rows if row.difference is not None]
    theirs = sum((_cost(row.theirs) or Decimal(0) for row in known), Decimal(0)) if known else None
    return {
        "ours_usd": usd(ours),
        "theirs_usd": None if theirs is None else usd(theirs),
        "difference_usd": None if theirs is None else usd(ours - theirs),
        "ours": {name: sum(_of(row.ours, name) for row in found.rows) for name in TOKENS},
        "theirs": {name: sum(_of(row.theirs, name) for row in found.rows) for name in TOKENS},
    }


def json_lines(export: Export, found: Reconciliation) -> Iterator[str]:
    yield json.dumps(
        {
            "kind": export.kind,
            "from": min(export.days).isoformat(),
            "to": max(export.days).isoformat(),
            "unknown_columns": list(export.unknown),
            "notes": list(export.notes),
            "rows": [_row(row) for row in found.rows],
            "differing": len(found.differing),
            "totals": _sums(found),
            "at_other_providers": {
                "calls": found.elsewhere_calls,
                "cost_usd": usd(found.elsewhere_cost),
            },
        },
        indent=2,
    )


def _row(row: Row) -> dict[str, Any]:
    return {
        "day": row.day.isoformat(),
        "provider": row.provider,
        "model": row.model or None,
        "ours": _side(row.ours),
        "theirs": _side(row.theirs),
        "difference_usd": None if row.difference is None else usd(row.difference),
        "differs": row.differs,
        "explained_by": [{"code": reason.why.value, "text": reason.text} for reason in row.reasons],
    }


def _side(side: Side | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "cost_usd": None if side.cost is None else usd(side.cost),
        "names": list(side.names),
        "tiers": sorted(tier for tier in side.tiers if tier),
        "used": dict(side.used),
    }


def _cost(side: Side | None) -> Decimal | None:
    return None if side is None else side.cost


def _of(side: Side | None, name: str) -> int:
    return 0 if side is None else side.used.get(name, 0)


def usd(value: Decimal | None) -> str:
    """To a billionth, cents at least; a dash for what there is not."""
    if value is None:
        return "-"
    text = f"{value.quantize(NANO_USD):f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _signed(number: int | None) -> str:
    return "-" if number is None else f"{number:+d}" if number else "0"
