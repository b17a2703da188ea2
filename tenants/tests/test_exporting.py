"""Tables as files: what each format says, and that no spreadsheet takes a cell for a formula."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tenants.exporting import Format, safe_cell, written

ABOUT = {"table": "users", "filters": {"feature": "chat"}}
COLUMNS = ("user", "calls", "cost_usd")
ROWS = [
    {"user": '=HYPERLINK("x")', "calls": -1, "cost_usd": Decimal("-0.000000007")},
    {"user": 'añа\n,"b"', "calls": 2, "cost_usd": None},
]


def test_a_csv_names_its_filters_and_keeps_numbers_numbers() -> None:
    lines = list(csv.reader(io.StringIO("".join(written(Format.CSV, ABOUT, COLUMNS, ROWS)))))
    assert lines == [
        ["#", "table", "users"],
        ["#", "filters", '{"feature": "chat"}'],
        ["user", "calls", "cost_usd"],
        ['\'=HYPERLINK("x")', "-1", "-0.000000007"],
        ['añа\n,"b"', "2", ""],
    ]


def test_json_is_one_document_in_which_money_is_text() -> None:
    found = json.loads("".join(written(Format.JSON, ABOUT, COLUMNS, ROWS)))
    assert found["about"] == ABOUT
    assert found["rows"][0] == {"user": '=HYPERLINK("x")', "calls": -1, "cost_usd": "-0.000000007"}
    assert found["rows"][1]["cost_usd"] is None
    assert json.loads("".join(written(Format.JSON, ABOUT, COLUMNS, [])))["rows"] == []


def test_json_lines_begin_with_what_the_file_is() -> None:
    first, *rest = "".join(written(Format.JSON_LINES, ABOUT, COLUMNS, ROWS)).splitlines()
    assert json.loads(first) == {"about": ABOUT}
    assert [json.loads(line)["calls"] for line in rest] == [-1, 2]


@pytest.mark.parametrize("kind", list(Format))
def test_a_file_is_written_while_its_rows_are_read(kind: Format) -> None:
    read = []

    def rows() -> Iterator[dict[str, object]]:
        for number in range(3):
            read.append(number)
            yield {"user": "ana", "calls": number, "cost_usd": Decimal(0)}

    lines = written(kind, ABOUT, COLUMNS, rows())
    assert next(lines)
    assert read == []
    while read == []:
        next(lines)
    assert read == [0]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_text_that_a_spreadsheet_would_calculate_is_marked_as_text(start: str) -> None:
    assert safe_cell(f"{start}1") == f"'{start}1"
