"""`make bench`: prints the ratios that DESIGN promises, each measured side by side in one run.

    python -m bench [--rows 10000000] [--policies 10000] [--seconds 5] [--runs 3]
                    [--only-sdk | --only-reports | --only-serving | --only-ledger] [--against COMMIT]

Figures of one machine say little; the ratios are the result. Medians of `--runs` interleaved runs.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from bench.servers import bench_stack


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
    against: str | None


def main() -> None:
    options = _options()
    with bench_stack():
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        from bench import measures

        results = measures.all_measures(options)
    print()
    for result in results:
        print(result)
    if any(not result.met for result in results):
        sys.exit("Some targets were not met.")


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
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
    parser.add_argument("--against", metavar="COMMIT", help="measure batches of this commit beside today's")
    return Options(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
