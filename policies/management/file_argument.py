"""The policy file that a command is given."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from policies.files.strict_yaml import FILE_BYTES_MAX


def add_argument(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a YAML policy file; - reads standard input")


def read(file: str) -> str:
    """One byte more than a policy file may have, so that a longer one is refused and not cut."""
    if file == "-":
        return sys.stdin.buffer.read(FILE_BYTES_MAX + 1).decode()
    with Path(file).open("rb") as opened:
        return opened.read(FILE_BYTES_MAX + 1).decode()
