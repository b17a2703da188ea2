"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

Cell = str | int


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Numbers to the right, all else to the left."""
    widths = [max(len(str(row[at])) for row in (header, *rows)) for at in range(len(header))]
    rule = tuple("─" * width for width in widths)
    return "\n".join(_line(row, rows, widths) for row in (header, rule, *rows))


def _line(row: Sequence[Cell], rows: Sequence[Sequence[Cell]], widths: Sequence[int]) -> str:
    cells = (
        str(cell).rjust(width) if rows and isinstance(rows[0][at], int) else str(cell).ljust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return ("  " + "  ".join(cells)).rstrip()
