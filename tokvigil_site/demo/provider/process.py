"""The provider as a child process of whoever needs one: the demo, the bench, the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S_MAX = 30.0
STOP_S_MAX = 5.0


@contextmanager
def start_provider(*, latency_ms: float = 5.0, failure_rate: float = 0.0) -> Iterator[str]:
    """Runs the provider as a child process and yields its base URL, which ends in /v1 as OpenAI's does.

    The child ends with the block, and also if this process dies without ending it: its standard input closes.
    """
    root = Path(__file__).resolve().parents[3]
    search_path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tokvigil_site.demo.provider", "--port", "0", "--while-stdin-is-open"]
    process = subprocess.Popen(
        [*command, "--latency-ms", str(latency_ms), "--failure-rate", str(failure_rate)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": search_path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the caller, who ends the calls in flight first
    )
    try:
        yield _read_url(process)
    finally:
        _stop(process)


def _read_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    overdue = threading.Timer(START_S_MAX, process.kill)
    overdue.start()
    try:
        url = process.stdout.readline().strip()
    finally:
        overdue.cancel()
    if not url:
        raise RuntimeError("the demo provider did not start; its output says why")
    return url


def _stop(process: subprocess.Popen[str]) -> None:
    with process:  # closes the pipes, waits
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
