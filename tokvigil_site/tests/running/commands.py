"""manage.py as a person starts it: a process of its own, with nothing of the tests in its environment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPResponse
from pathlib import Path

from tokvigil_site.embedded import ports, stack

ROOT = Path(__file__).resolve().parents[3]
OURS = (
    *("DATABASE_URL", "MIGRATION_DATABASE_URL", "REDIS_URL", "SECRET_KEY", "API_KEY_PEPPER", "AUDIT_KEY"),
    *("DEBUG", "DJANGO_SETTINGS_MODULE"),
)
START_S_MAX = 60.0
# The contract of Ctrl-C and SIGTERM.
STOP_S_MAX = 10.0


class Command:
    """A started `manage.py`, or another program of Python; its output goes to a file, to be read while it runs."""

    def __init__(
        self, home: Path, *arguments: str, program: Sequence[str] = ("manage.py",), **variables: str
    ) -> None:
        self.home = home
        self._output = home.parent / f"{time.monotonic_ns()}.out"
        environ = {name: value for name, value in os.environ.items() if name not in OURS}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=ROOT,
                env=environ | {"TOKVIGIL_HOME": str(home)} | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def finish(self, timeout_s: float = START_S_MAX) -> int:
        """The exit status."""
        return self.process.wait(timeout_s)

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Signals it and waits; the seconds it took."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(2 * STOP_S_MAX)
        return time.monotonic() - started


class Up(Command):
    """`manage.py up`, ready."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.port = ports.pick_free()
        super().__init__(home, "up", "--port", str(self.port), "--workers", "1", **variables)
        wait_until(lambda: "Ctrl-C stops" in self.output or self.process.poll() is not None, START_S_MAX)
        assert self.process.poll() is None, self.output

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return self.said(r"(tv_prod_\w+)")

    def said(self, pattern: str) -> str:
        found = re.search(pattern, self.output)
        assert found is not None, self.output
        return found[1]

    def get(self, path: str, **headers: str) -> HTTPResponse:
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 (our own server)
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=10)  # noqa: S310
        return answer


def processes_of(home: Path) -> dict[int, str]:
    """Command lines by pid of what runs for a home, its embedded servers apart, which have a bare environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"TOKVIGIL_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def servers_run(home: Path) -> bool:
    return stack.running_urls(home) is not None


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
