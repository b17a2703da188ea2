"""One PostgreSQL server: create its data folder, start, stop."""

import os
import secrets
import shlex
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tokvigil_site import interruptions
from tokvigil_site.embedded import files, process
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.ports import HOST
from tokvigil_site.embedded.process import Account
from tokvigil_site.embedded.programs import Programs
from tokvigil_site.embedded.state import APPLICATION, DATABASE, OWNER

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
# It notes its process id long before it is ready.
LAUNCH_TIMEOUT_S = 2
STATUS_LINE = 7
# A process id no system gives: the largest signed 32-bit number.
NOBODYS_PID = 2**31 - 1
# In the data folder once it has the roles with the home's passwords; it travels with the data.
ROLES_FILE = "tokvigil-roles"
SETTINGS = {
    "listen_addresses": HOST,
    # A socket's path may have 107 bytes; a checkout's path may have more.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "1GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
# For tests: a power failure may cost the data, kill -9 the last commits.
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Passwords:
    owner: str
    application: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    name: ClassVar = "PostgreSQL"

    data: Path
    port: int
    account: Account | None
    durable: bool

    @property
    def folder(self) -> Path:
        return self.data / "postgres"

    @property
    def log(self) -> Path:
        return self.data / "postgres.log"

    @property
    def pid_file(self) -> Path:
        return self.folder / "postmaster.pid"

    def pid(self) -> int | None:
        """The server's process id; None if it does not run."""
        pid = process.read_pid(self.pid_file)
        return pid if process.runs_with(pid, self.folder) else None

    def create(self, server: Programs, passwords: Passwords) -> None:
        """Makes the data folder if there is none: complete or not at all, whenever this is interrupted."""
        # Another name each time: the initdb of a killed start may still be at work in the folder before.
        for leftover in self.data.glob("postgres.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if self.folder.exists():
            return self._require_same_major(server.postgres_major())
        files.require_space(self.data)
        unfinished = self.data / f"postgres.new-{secrets.token_hex(4)}"
        files.make_folder(unfinished, mode=0o700, account=self.account)
        self._initialise(unfinished, server, passwords)
        unfinished.rename(self.folder)
        return None

    def ensure_roles(self, server: Programs, passwords: Passwords) -> None:
        """Brings over a data folder from the time when the application was the superuser; stops the server for it."""
        if not (self.folder / ROLES_FILE).exists():
            self.stop()
            self._disown_pid_file()
            self._make_roles(self.folder, server, passwords)

    def start(self, server: Programs) -> None:
        """Returns when the server accepts connections, else raises StackError with the end of its log."""
        if self.pid() is None:
            files.fresh_log(self.log, account=self.account)
            self.launch(server)
        process.wait_until(self._has_ended_or_is_ready, timeout_s=READY_TIMEOUT_S)
        if self.pid() is None:
            raise self._did_not_start()
        if not self._is_ready():
            raise self._failed(f"is running but not ready after {READY_TIMEOUT_S} s")

    def launch(self, server: Programs) -> None:
        """Returns when its process runs, which may have to recover before it is ready; raises StackError otherwise."""
        self._disown_pid_file()
        files.kept_log(self.log, account=self.account)
        settings = SETTINGS | ({} if self.durable else NOT_DURABLE) | {"port": str(self.port)}
        options = shlex.join(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        where = ["-D", str(self.folder), "-l", str(self.log)]
        wait = ["-w", "-t", str(LAUNCH_TIMEOUT_S)]
        with interruptions.held_back():
            process.run(server.pg_ctl, "start", *where, *wait, "-o", options, account=self.account)
        if self.pid() is None:
            raise self._did_not_start()

    def stop(self) -> None:
        """Ends all connections and returns when the server is gone."""
        pid = self.pid()
        if pid is not None and not process.end(pid, self.folder, signal.SIGINT, timeout_s=STOP_TIMEOUT_S):
            raise self._failed(f"did not stop within {STOP_TIMEOUT_S} s")

    def _did_not_start(self) -> StackError:
        return self._failed(f"did not start on port {self.port}")

    def _failed(self, what: str) -> StackError:
        return StackError(f"PostgreSQL {what}; its log {self.log} ends: {files.tail(self.log)}")

    def _initialise(self, folder: Path, server: Programs, passwords: Passwords) -> None:
        """Nothing waits for the disk until all is there; then everything does at once."""
        self._run_initdb(folder, server, passwords.owner)
        self._run_single_user(folder, server, f"CREATE DATABASE {DATABASE};")
        self._make_roles(folder, server, passwords)
        if self.durable:
            process.run(server.initdb, "-D", folder, "--sync-only", account=self.account)

    def _run_initdb(self, folder: Path, server: Programs, password: str) -> None:
        password_file = self.data / "postgres.password"
        files.write_secret(password_file, password, account=self.account)
        # The builtin locale sorts the same on every machine.
        options = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--auth=scram-sha-256", f"--username={OWNER}", f"--pwfile={password_file}", "--no-sync"]
        try:
            done = process.run(server.initdb, "-D", folder, *options, account=self.account)
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise StackError(f"PostgreSQL's data folder could not be made at {folder}: {done.stderr.strip()}")

    def _make_roles(self, folder: Path, server: Programs, passwords: Passwords) -> None:
        """Can be done again after it was interrupted. The passwords hold no quotes."""
        self._run_single_user(
            folder,
            server,
            f"ALTER ROLE {OWNER} PASSWORD '{passwords.owner}';",
            f"DO 'BEGIN CREATE ROLE {APPLICATION}; EXCEPTION WHEN duplicate_object THEN NULL; END';",
            f"ALTER ROLE {APPLICATION} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{passwords.application}';",
        )
        files.write_secret(folder / ROLES_FILE, f"{OWNER}, {APPLICATION}\n", account=self.account)

    def _run_single_user(self, folder: Path, server: Programs, *statements: str) -> None:
        """Without a server, so that a data folder never exists without its database and its roles.

        A statement is a line. One that fails is not repeated in the message, for it may hold a password.
        """
        options = ["--single", "-c", "fsync=off", "-c", "log_min_error_statement=panic"]
        done = process.run(
            server.postgres,
            *(*options, "-D", str(folder), "postgres"),
            account=self.account,
            stdin="".join(f"{statement}\n" for statement in statements),
        )
        if done.returncode != 0 or "ERROR" in done.stderr:
            raise StackError(f"PostgreSQL could not set up its data at {folder}: {done.stderr.strip()}")

    def _require_same_major(self, brought: str) -> None:
        written_by = (self.folder / "PG_VERSION").read_text().strip()
        if written_by != brought:
            raise StackError(
                f"{self.folder} was written by PostgreSQL {written_by}, this checkout brings {brought}: dump the "
                "data with the older checkout, or give it up with `python -m tokvigil_site.embedded delete`."
            )

    def _has_ended_or_is_ready(self) -> bool:
        return self.pid() is None or self._is_ready()

    def _is_ready(self) -> bool:
        try:
            lines = self.pid_file.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready"

    def _disown_pid_file(self) -> None:
        """Takes the process id out of a pid file that a killed server left behind.

        PostgreSQL takes any living process with that number for itself and would not start: a stranger that
        got the number since, or a zombie in a container without an init. The rest of the file stays, because
        PostgreSQL finds there whether orphans of the killed server still use its shared memory.
        """
        try:
            descriptor = os.open(self.pid_file, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "r+") as stream:
            rest = stream.read().partition("\n")[2]
            stream.seek(0)
            stream.write(f"{NOBODYS_PID}\n{rest}")
            stream.truncate()
