"""What `python -m bench` is asked to measure, and for how long."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    rows: int
    policies: int
    seconds: int
    runs: int
    only_sdk: bool
    only_reports: bool
    only_serving: bool
    only_ledger: bool
    only_console: bool
    against: str | None
    durable: bool


def from_command_line(description: str) -> Options:
    parser = argparse.ArgumentParser(prog="bench", description=description)
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="ledger rows beside which evaluate is measured"
    )
    parser.add_argument("--policies", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only-sdk", action="store_true", help="measure the Python SDK alone")
    parser.add_argument("--only-reports", action="store_true", help="measure reports beside evaluates alone")
    parser.add_argument("--only-serving", action="store_true", help="measure the web server alone")
    parser.add_argument("--only-ledger", action="store_true", help="measure rollups and cold counters alone")
    parser.add_argument("--only-console", action="store_true", help="measure pages of the console alone")
    parser.add_argument("--durable", action="store_true", help="have PostgreSQL wait for the disk")
    parser.add_argument("--against", metavar="COMMIT", help="measure batches of this commit beside today's")
    return Options(**vars(parser.parse_args()))
