"""`python -m tokvigil doctor`, and `quarantine`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tokvigil import doctor, quarantine
from tokvigil.journal import default_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 if there is a problem. A call that cannot be understood exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m tokvigil")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="command")
    command = commands.add_parser(
        "doctor",
        help="check configuration, control plane, key, clock, journal, tokens, prices and provider SDKs",
        description="Prints one line for each check; exits with 1 if there is a problem.",
    )
    command.set_defaults(run=_doctor)
    command.add_argument(
        "--api-key", help="default: TOKVIGIL_API_KEY, which other users of the machine do not see"
    )
    command.add_argument("--base-url", help="default: TOKVIGIL_BASE_URL")
    reports = commands.add_parser(
        "quarantine",
        help="show the usage reports that TokVigil refused for good, or that cannot be read",
        description="Prints one line for each report: when it was set aside, its request id, and why.",
    )
    reports.set_defaults(run=_quarantine)
    reports.add_argument("--send", action="store_true", help="have them sent again by the next client")
    for each in (command, reports):
        each.add_argument(
            "--journal", help="the journal's folder; default: TOKVIGIL_JOURNAL, else as clients choose it"
        )
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help(sys.stderr)
        return 2
    return int(options.run(options))


def _doctor(options: argparse.Namespace) -> int:
    status = 0
    for finding in doctor.examine(options.api_key, options.base_url, options.journal):
        print(finding, flush=True)
        if finding.level == "problem":
            status = 1
    return status


def _quarantine(options: argparse.Namespace) -> int:
    folder = Path(options.journal) if options.journal else default_folder()
    directories = [] if folder is None else sorted(folder.glob("*/"))
    is_empty = True
    for directory in directories:
        for each in quarantine.read(directory):
            is_empty = False
            at = "-" if each.at is None else f"{each.at:%Y-%m-%d %H:%M:%S} UTC"
            print(f"{at:<24}{each.request_id or '-':<38}{' '.join(each.reason.split())}")
    if is_empty:
        print("nothing is set aside" + (f" in {folder}" if folder else ""))
    if options.send:
        count = sum(quarantine.send_again(directory) for directory in directories)
        print(f"to be sent again by the next client: {count}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # Whoever read it has seen enough, as in `doctor | head -1`. What Python writes at its end must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
