"""Child processes: started, waited for until they answer, stopped, and started again.

Each lives in a session of its own, so that Ctrl-C reaches only this process, which stops them in order. If this process
dies without doing so, the kernel tells them to end (on Linux; to the kernel the parent is the thread that started it).
"""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tokvigil_site import interruptions
from tokvigil_site.embedded import files
from tokvigil_site.embedded.placement import CHECKOUT

POLL_S = 0.05
PROBE_S_MAX = 5.0
LOG_LINES_SHOWN = 15
PR_SET_PDEATHSIG = 1


class ChildError(Exception):
    """A child ended by itself or was not ready in time. The message says where its output is, and how it ends."""


@dataclass(slots=True, kw_only=True)
class Child:
    """`python -m` with `module` (its name and its arguments), of the checkout in `folder`; it prints into `log`."""

    name: str
    module: Sequence[str]
    log: Path
    folder: Path = CHECKOUT
    variables: Mapping[str, str] = field(default_factory=dict)
    # Variables of this process that it must not see.
    withheld: frozenset[str] = frozenset()
    stdin: int = subprocess.DEVNULL
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _status: int | None = field(default=None, init=False)

    def start(self) -> None:
        """Returns at once; raises OSError if no process can be made."""
        with self.log.open("ab") as output, interruptions.held_back():
            self._status = None
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.module],
                cwd=self.folder,
                env=self._environment(),
                stdin=self.stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(_end_with, os.getpid()) if sys.platform == "linux" else None,
            )

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in self.withheld}
        return {**inherited, **self.variables}

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return None if self._process is None else self._process.pid

    def status(self) -> int | None:
        """Its exit status, None while it runs. What it left behind has ended with it."""
        if self._process is not None:
            self._status = self._process.poll()
            if self._status is not None:
                self.kill()
        return self._status

    def ended(self) -> str | None:
        """How it ended; None while it runs."""
        status = self.status()
        return None if status is None else f"ended by itself (status {status})"

    def require_running(self) -> None:
        """Raises ChildError."""
        ended = self.ended()
        if ended is not None:
            raise ChildError(f"The {self.name} {ended}. {self.last_words()}")

    def await_ready(self, is_ready: Callable[[], bool], *, within_s: float) -> None:
        """Raises ChildError if it ends before it is ready, or is not ready in time."""
        deadline = time.monotonic() + within_s
        while not is_ready():
            self.require_running()
            if time.monotonic() > deadline:
                raise ChildError(
                    f"The {self.name} was not ready within {within_s:.0f} s. {self.last_words()}"
                )
            time.sleep(POLL_S)

    def last_words(self) -> str:
        lines = files.tail(self.log).splitlines()[-LOG_LINES_SHOWN:]
        return "\n".join((f"{self.log} ends with:", *(f"    {line}" for line in lines)))

    def stop(self, *, within_s: float) -> None:
        stop_all((self,), within_s=within_s)

    def kill(self) -> None:
        """SIGKILL for it and whatever else is in its session."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._status = self._process.wait()
        self._process = None


def stop_all(children: Iterable[Child], *, within_s: float) -> None:
    """Told to end all at once. Who has not ended in time is killed, and so is what each leaves behind."""
    children = tuple(children)
    running = [child._process for child in children if child._process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + within_s
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for child in children:
        child.kill()


# What listens here is never behind a proxy that the environment may name.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http_status(url: str) -> int | None:
    """Of a GET; None if nothing answers there."""
    try:
        with _opener.open(url, timeout=PROBE_S_MAX) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


_libc = ctypes.CDLL(None)


def _end_with(parent: int) -> None:
    """In the child: have the kernel end it when its parent ends, however that happens."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
