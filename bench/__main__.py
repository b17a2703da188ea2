"""`make bench`: prints the ratios that DESIGN promises, each measured side by side in one run.

    python -m bench [--rows 10000000] [--policies 10000] [--seconds 5] [--runs 3]
                    [--only-sdk | --only-reports | --only-serving | --only-ledger] [--durable] [--against COMMIT]

Figures of one machine say little; the ratios are the result. Medians of `--runs` interleaved runs.
"""

from __future__ import annotations

import sys

from bench import options
from bench.servers import bench_stack


def main() -> None:
    chosen = options.from_command_line(__doc__.splitlines()[0])
    with bench_stack(durable=chosen.durable):
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        from bench import measures

        results = measures.all_measures(chosen)
    print()
    for result in results:
        print(result)
    if any(not result.met for result in results):
        sys.exit("Some targets were not met.")


if __name__ == "__main__":
    main()
