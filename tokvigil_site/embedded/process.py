"""Running programs as the account that owns the data, and telling our processes from strangers."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tokvigil_site.embedded.errors import StackError

COMMAND_TIMEOUT_S = 120
POLL_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An existing user of the operating system."""

    uid: int
    gid: int


def run(
    *command: str | Path, account: Account | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, as `account` if one is given (only root can).

    It gets its own session, so Ctrl-C in the terminal does not reach what it leaves running, and a bare
    environment, because PGDATA, PGPORT and their like would redirect the servers. Raises StackError if it
    cannot be started.
    """
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            umask=0o077,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(
            f"{Path(command[0]).name} did not finish within {COMMAND_TIMEOUT_S} s; is the disk overloaded?"
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        who = "this user" if account is None else f"user id {account.uid}"
        raise StackError(f"{command[0]} cannot be run as {who}: {error}.") from error


def can_run(*command: str | Path, account: Account | None) -> bool:
    """Asks the kernel by doing it: mode bits alone would miss ACLs, mount options and missing libraries."""
    try:
        return run(*command, account=account).returncode == 0
    except StackError:
        return False


def runs_with(pid: int | None, argument: Path) -> bool:
    """True if process `pid` is alive and was started with `argument`.

    The number alone proves nothing: pids are reused, and zombies keep theirs. The command line is readable
    for everybody, unlike the working directory, which root in a container may not look at.
    """
    if pid is None:
        return False
    try:
        return os.fsencode(argument) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return not Path("/proc/self").exists() and f" {argument}" in _listed_command(pid)


def end(pid: int, argument: Path, with_signal: signal.Signals, *, timeout_s: float) -> bool:
    """Signals a process that was started with `argument`; True when it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, with_signal)
    return wait_until(lambda: not runs_with(pid, argument), timeout_s=timeout_s)


def read_pid(file: Path) -> int | None:
    """The number in the first line of a pid file; None if there is no such file or it is still empty."""
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def _listed_command(pid: int) -> str:
    """For systems without /proc (macOS)."""
    return run("ps", "-ww", "-o", "command=", "-p", str(pid)).stdout
