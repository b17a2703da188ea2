"""The web server alone: `python -m tokvigil_site.serving --host 0.0.0.0 --port 8000 --workers 2`."""

from __future__ import annotations

import argparse
import os
import sys

from tokvigil_site import unreachable
from tokvigil_site.embedded import ports
from tokvigil_site.serving import command


def main() -> None:
    parser = argparse.ArgumentParser(prog="tokvigil_site.serving", description=__doc__)
    parser.add_argument("--host", default=ports.HOST)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")
    # Its processes would wait for a database that nobody named, and be started again and again.
    unreachable.require_a_database()
    arguments = command.granian(options.port, host=options.host, workers=options.workers)
    os.execv(sys.executable, [sys.executable, "-m", *arguments])  # noqa: S606 (no shell is meant)


if __name__ == "__main__":
    main()
