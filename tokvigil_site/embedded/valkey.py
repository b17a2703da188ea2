"""One Valkey server: start, stop, kill."""

import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tokvigil_site import interruptions
from tokvigil_site.embedded import files, process
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.ports import HOST
from tokvigil_site.embedded.process import Account
from tokvigil_site.embedded.programs import Programs

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
PROBE_TIMEOUT_S = 1
APPEAR_TIMEOUT_S = 5
# Of the time above: how long an interruption waits for it.
UNINTERRUPTED_S = 1
SETTINGS = {
    "bind": HOST,
    "databases": "64",
    "maxmemory-policy": "noeviction",
    "save": "",
    "appendonly": "yes",
    # A rewrite takes a core for a second or two: on a small machine callers feel each, so do it seldom.
    "auto-aof-rewrite-min-size": "512mb",
    "appendfsync": "everysec",
    "daemonize": "yes",
    # The command line keeps the folder's name, by which the process is known to be ours.
    "set-proc-title": "no",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Valkey:
    name: ClassVar = "Valkey"

    data: Path
    port: int
    account: Account | None
    password: str

    @property
    def folder(self) -> Path:
        return self.data / "valkey"

    @property
    def log(self) -> Path:
        return self.data / "valkey.log"

    def pid(self) -> int | None:
        """The server's process id; None if it does not run."""
        pid = process.read_pid(self.folder / "valkey.pid")
        return pid if process.runs_with(pid, self.folder) else None

    def start(self, server: Programs) -> None:
        """Returns when the server answers; raises StackError with the end of its log otherwise."""
        if self.pid() is None:
            files.fresh_log(self.log, account=self.account)
            self.launch(server)
        process.wait_until(self._has_ended_or_answers, timeout_s=READY_TIMEOUT_S)
        if not self._answers():
            raise self._did_not_start()

    def launch(self, server: Programs) -> None:
        """Returns when its process runs, which may have to load before it answers; raises StackError otherwise."""
        files.make_folder(self.folder, mode=0o700, account=self.account)
        files.kept_log(self.log, account=self.account)
        paths = {"dir": self.folder, "pidfile": self.folder / "valkey.pid", "logfile": self.log}
        settings = SETTINGS | paths | {"port": str(self.port)}
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        # "-": the rest comes from standard input, because everybody can read a command line.
        secret = f"requirepass {self.password}\n"
        with interruptions.held_back():
            done = process.run(server.valkey_server, *options, "-", account=self.account, stdin=secret)
            if done.returncode != 0:
                raise StackError(f"Valkey did not accept its settings: {done.stderr.strip()}")
            # It goes into the background before it listens: from here on only its process and its log tell more.
            process.wait_until(self._runs, timeout_s=min(UNINTERRUPTED_S, APPEAR_TIMEOUT_S))
        if not process.wait_until(self._runs, timeout_s=APPEAR_TIMEOUT_S):
            raise self._did_not_start()

    def stop(self) -> None:
        """Returns when the server has written its data and is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self._end(signal.SIGKILL)

    def _runs(self) -> bool:
        return self.pid() is not None

    def _did_not_start(self) -> StackError:
        return StackError(
            f"Valkey did not start on port {self.port}; its log {self.log} ends: {files.tail(self.log)}"
        )

    def _has_ended_or_answers(self) -> bool:
        return not self._runs() or self._answers()

    def _answers(self) -> bool:
        """False also while it still loads its data."""
        try:
            with socket.create_connection((HOST, self.port), timeout=PROBE_TIMEOUT_S) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\nQUIT\r\n".encode())
                with connection.makefile("rb") as answer:
                    return b"+PONG" in answer.read()
        except OSError:
            return False

    def _end(self, with_signal: signal.Signals) -> None:
        pid = self.pid()
        if pid is not None and not process.end(pid, self.folder, with_signal, timeout_s=STOP_TIMEOUT_S):
            raise StackError(f"Valkey did not stop within {STOP_TIMEOUT_S} s; its log is {self.log}.")
