"""The `--month` that commands take."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import date

_WRITTEN = re.compile(r"(\d{4})-(\d\d)", re.ASCII)
_YEARS = range(1971, 9998)


def add_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--month", type=parsed, required=True, metavar="YYYY-MM", help="of the tenant's time zone"
    )


def parsed(text: str) -> date:
    """Its first day. Raises ArgumentTypeError."""
    found = _WRITTEN.fullmatch(text)
    if found is None or int(found[1]) not in _YEARS or not 1 <= int(found[2]) <= 12:
        raise ArgumentTypeError(f"{text!r} is no month: write it such as 2026-11")
    return date(int(found[1]), int(found[2]), 1)
