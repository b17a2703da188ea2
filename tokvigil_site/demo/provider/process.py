"""The provider as a child process of whoever needs one: the demo, the bench, the tests."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokvigil_site.children import Child

START_S_MAX = 30.0
STOP_S_MAX = 5.0


@contextmanager
def start_provider(*, latency_ms: float = 5.0, failure_rate: float = 0.0) -> Iterator[str]:
    """Runs the provider and yields its base URL, which ends in /v1 as OpenAI's does. Raises ChildError.

    It ends with the block, and also if this process dies without ending it: its standard input closes.
    """
    options = ("--latency-ms", str(latency_ms), "--failure-rate", str(failure_rate))
    with tempfile.TemporaryDirectory(prefix="tokvigil-provider-") as folder:
        child = Child(
            name="demo provider",
            module=("tokvigil_site.demo.provider", "--port", "0", "--while-stdin-is-open", *options),
            log=Path(folder) / "provider.log",
            stdin=subprocess.PIPE,
        )
        try:
            child.start()
            child.await_ready(lambda: bool(_printed(child.log)[0]), within_s=START_S_MAX)
            yield _printed(child.log)[0]
        finally:
            child.stop(within_s=STOP_S_MAX)
            # What follows the URL are defects.
            sys.stderr.write(_printed(child.log)[1])


def _printed(log: Path) -> tuple[str, str]:
    """Its base URL, empty until it is whole, and what it printed afterwards."""
    url, end, rest = log.read_text().partition("\n")
    return (url if end else ""), rest
