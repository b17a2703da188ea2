"""Tables as files: CSV, JSON or JSON Lines, written while they are read, whatever their length.

A file says first what is in it (`about`: whose, with which filters, in which time zone, as of when), then the rows.
Amounts of money are Decimals: numbers for a spreadsheet, text in JSON, where readers would make floats of them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum

from django.http import StreamingHttpResponse

# What a spreadsheet would take for a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
Row = Mapping[str, object]


class Format(StrEnum):
    CSV = "csv"
    JSON = "json"
    JSON_LINES = "jsonl"


CONTENT_TYPES = {
    Format.CSV: "text/csv; charset=utf-8",
    Format.JSON: "application/json",
    Format.JSON_LINES: "application/jsonl; charset=utf-8",
}


def written(
    kind: Format, about: Mapping[str, object], columns: Sequence[str], rows: Iterable[Row]
) -> Iterator[str]:
    """The lines of the file. Each row has all columns, in any order."""
    return _WRITERS[kind](about, columns, rows)


def download(kind: Format, name: str, lines: Iterable[str]) -> StreamingHttpResponse:
    """The answer of a page, to be saved as `name` with the ending of the format."""
    answer = StreamingHttpResponse(lines, content_type=CONTENT_TYPES[kind])
    answer["Content-Disposition"] = f'attachment; filename="{name}.{kind.value}"'
    answer["Cache-Control"] = "no-store"
    return answer


def safe_cell(value: object) -> str:
    """As text for a spreadsheet: an apostrophe stands before what it would calculate. Numbers stay numbers."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Mapping):
        text = _text(value)
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _csv(about: Mapping[str, object], columns: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    yield "".join(_csv_line(["#", name, safe_cell(value)]) for name, value in about.items())
    yield _csv_line(columns)
    for row in rows:
        yield _csv_line([safe_cell(row[column]) for column in columns])


def _csv_line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def _json_lines(about: Mapping[str, object], columns: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    yield _text({"about": dict(about)}) + "\n"
    for row in rows:
        yield _text({column: row[column] for column in columns}) + "\n"


def _json(about: Mapping[str, object], columns: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    yield f'{{"about": {_text(dict(about))},\n"rows": ['
    between = "\n"
    for row in rows:
        yield between + _text({column: row[column] for column in columns})
        between = ",\n"
    yield "\n]}\n"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=_as_text)


def _as_text(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


_WRITERS: Mapping[Format, Callable[[Mapping[str, object], Sequence[str], Iterable[Row]], Iterator[str]]] = {
    Format.CSV: _csv,
    Format.JSON: _json,
    Format.JSON_LINES: _json_lines,
}
