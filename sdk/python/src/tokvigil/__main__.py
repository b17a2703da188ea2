"""`python -m tokvigil doctor`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tokvigil import doctor


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 if there is a problem. A call that cannot be understood exits with 2."""
    options = _parser().parse_args(arguments)
    is_well = True
    for finding in doctor.examine(options.api_key, options.base_url, options.spool):
        print(finding, flush=True)
        is_well &= finding.level != "problem"
    return 0 if is_well else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tokvigil")
    commands = parser.add_subparsers(metavar="command", required=True)
    command = commands.add_parser(
        "doctor",
        help="check configuration, control plane, key, clock, spool, tokens, prices and provider SDKs",
        description="Prints one line for each check; exits with 1 if there is a problem.",
    )
    command.add_argument(
        "--api-key", help="default: TOKVIGIL_API_KEY, which other users of the machine do not see"
    )
    command.add_argument("--base-url", help="default: TOKVIGIL_BASE_URL")
    command.add_argument(
        "--spool", help="the spool's file; default: TOKVIGIL_SPOOL, else as clients choose it"
    )
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # Whoever read it has seen enough, as in `doctor | head -1`. What Python writes at its end must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
