"""Public traces of LLM traffic: one request per row, with its time and its tokens, and of nobody in particular.

Two formats are known, by their columns. Both data sets are CC BY 4.0: their source is named wherever they are shown.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from usage.amounts import TOKENS_MAX

ROWS_MAX = 100_000_000
SECONDS_MAX = 10.0**10
CELL_SHOWN_MAX = 40


class TraceError(Exception):
    """The file cannot be replayed. Names the line and the column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    source: str
    time: str
    input_tokens: str
    output_tokens: str
    # The names of the models, if the trace tells them, and what they are called in the price book.
    model: str | None = None
    models: Mapping[str, str]
    read_time: Callable[[str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`number` counts the requests from 1, `at_s` is in seconds since some moment, `model` is "" if not told.

    No output: the request failed.
    """

    number: int
    at_s: float
    input_tokens: int
    output_tokens: int
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A file whose rows to replay have all been read once, so that no replay breaks off at a bad one."""

    file: Path
    format: Format
    count: int

    def rows(self) -> Iterator[Row]:
        return islice(_rows(self.file), self.count)


def _seconds_of_date(text: str) -> float:
    # Seven digits of a second; datetime takes six.
    head, point, fraction = text.partition(".")
    return datetime.fromisoformat(head + point + fraction[:6]).timestamp()


AZURE = Format(
    source="Azure LLM inference trace 2023, Azure Public Dataset, Microsoft, CC BY 4.0",
    time="TIMESTAMP",
    input_tokens="ContextTokens",
    output_tokens="GeneratedTokens",
    models={},
    read_time=_seconds_of_date,
)
BURSTGPT = Format(
    source="BurstGPT, github.com/HPMLL/BurstGPT, CC BY 4.0",
    time="Timestamp",
    input_tokens="Request tokens",
    output_tokens="Response tokens",
    model="Model",
    models={"ChatGPT": "gpt-3.5-turbo", "GPT-4": "gpt-4"},
    read_time=float,
)
FORMATS = (AZURE, BURSTGPT)


def open_trace(file: Path, *, limit: int | None = None) -> Trace:
    """The first `limit` rows, or all. Raises TraceError."""
    found = _format(_header(file), file)
    count = sum(1 for _ in islice(_rows(file), ROWS_MAX if limit is None else limit))
    if count == 0:
        raise TraceError(f"{file} has no rows.")
    return Trace(file=file, format=found, count=count)


def _header(file: Path) -> list[str]:
    return next(_lines(file), (1, []))[1]


def _format(header: list[str], file: Path) -> Format:
    for known in FORMATS:
        needed = {known.time, known.input_tokens, known.output_tokens, *filter(None, [known.model])}
        if needed <= set(header):
            return known
    raise TraceError(
        f"{file}, line 1: unknown columns {', '.join(header)!r}; known are "
        f"{' · '.join(f'{known.time},{known.input_tokens},{known.output_tokens}' for known in FORMATS)}."
    )


def _rows(file: Path) -> Iterator[Row]:
    lines = _lines(file)
    _, header = next(lines)
    known = _format(header, file)
    for number, (line, cells) in enumerate(lines, 1):
        if len(cells) != len(header):
            raise TraceError(f"{file}, line {line}: {len(cells)} columns instead of {len(header)}.")
        row = _Reader(file, line, dict(zip(header, cells, strict=True)))
        name = row.model(known)
        yield Row(
            number=number,
            at_s=row.time(known),
            input_tokens=row.tokens(known.input_tokens),
            output_tokens=row.tokens(known.output_tokens),
            model=name,
        )


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line that is not empty."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{file} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class _Reader:
    file: Path
    line: int
    cells: dict[str, str]

    def time(self, known: Format) -> float:
        try:
            seconds = known.read_time(self.cells[known.time].strip())
        except (ValueError, OverflowError):
            seconds = math.nan
        if not 0 <= seconds <= SECONDS_MAX:
            raise self._bad(known.time, "is no time")
        return seconds

    def tokens(self, column: str) -> int:
        text = self.cells[column].strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= TOKENS_MAX):
            raise self._bad(column, f"is no number of tokens (0 to {TOKENS_MAX})")
        return int(text)

    def model(self, known: Format) -> str:
        if known.model is None:
            return ""
        name = self.cells[known.model].strip()
        if name not in known.models:
            raise self._bad(known.model, f"is none of {', '.join(known.models)}")
        return known.models[name]

    def _bad(self, column: str, fault: str) -> TraceError:
        cell = self.cells[column][:CELL_SHOWN_MAX]
        return TraceError(f"{self.file}, line {self.line}, column {column!r}: {cell!r} {fault}.")
