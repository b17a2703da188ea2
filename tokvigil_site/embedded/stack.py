"""The embedded stack of one home: PostgreSQL and Valkey, started, reused and stopped as one.

The servers outlive whoever started them; the next start finds and reuses them. Every change of a home happens
under its lock, so concurrent starts give the same stack. The servers listen on 127.0.0.1 only and ask for the
home's passwords.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tokvigil_site.embedded import files, placement, ports, process, programs, state
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.placement import Placement
from tokvigil_site.embedded.postgres import Passwords, Postgres
from tokvigil_site.embedded.process import Account
from tokvigil_site.embedded.programs import Programs
from tokvigil_site.embedded.state import State
from tokvigil_site.embedded.valkey import Valkey

LOCK_FILE = "lock"
ORIGIN_FILE = "where-this-is-from.txt"
OWNER_FILE = "owner.lock"
NOTE_FILE = "where-the-data-is.txt"
HOME_NAMES = (NOTE_FILE, state.STATE_FILE, LOCK_FILE)
DATA_PATTERNS = ("postgres", "postgres.*", "valkey", "valkey.*")
# Somebody else may take a free port between our looking and the server's listening.
START_ATTEMPTS_MAX = 3
CLAIM_TIMEOUT_S = 0.2
KILLED_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Process ids, None for a server that does not run."""

    postgres_pid: int | None = None
    valkey_pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A started stack. Its methods let a test take one server away and bring it back on the same port.

    `owner_url` is for migrations alone: its role may do everything, the one of `database_url` owns nothing.
    """

    home: Path
    database_url: str
    owner_url: str
    redis_url: str

    def kill_valkey(self) -> None:
        with _changing(self.home) as servers:
            servers.valkey.kill()

    def start_valkey(self) -> None:
        with _changing(self.home) as servers:
            servers.valkey.start(programs.usable_by(servers.account))

    def kill_postgres(self) -> None:
        """All its processes at once, as a crash of their machine would."""
        for pid in self._stop_making_postgres_processes():
            os.kill(pid, signal.SIGKILL)
        process.wait_until(lambda: status(self.home).postgres_pid is None, timeout_s=KILLED_TIMEOUT_S)

    @contextmanager
    def hanging_postgres(self) -> Iterator[None]:
        """All its processes are stopped; the kernel under them still takes what they are sent."""
        pids = self._stop_making_postgres_processes()
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _stop_making_postgres_processes(self) -> list[int]:
        """The ids of those there are. The first makes the others, and is stopped."""
        first = status(self.home).postgres_pid
        if first is None:
            raise StackError("PostgreSQL does not run.")
        os.kill(first, signal.SIGSTOP)
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    def stop_postgres(self) -> None:
        with _changing(self.home) as servers:
            servers.postgres.stop()

    def start_postgres(self) -> None:
        with _changing(self.home) as servers:
            servers.postgres.start(programs.usable_by(servers.account))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One of the servers of a home, for whoever looks after it."""

    home: Path
    url: str
    _server: Postgres | Valkey

    @property
    def name(self) -> str:
        return self._server.name

    @property
    def log(self) -> Path:
        return self._server.log

    def ended(self) -> str | None:
        """What is known of its end; None while it runs."""
        return "is gone" if self._server.pid() is None else None

    def start(self) -> None:
        """On its port, with its data. Returns when its process runs, which may not answer yet. Raises StackError."""
        with _changing(self.home) as servers:
            server = servers.named(self.name)
            if server.pid() is None:
                server.launch(programs.usable_by(servers.account))


def start(home: Path, *, durable: bool = True) -> Stack:
    """Starts what is not running yet and returns when both servers answer; raises StackError.

    `durable=False` is for tests: PostgreSQL does not wait for the disk. A running stack is reused as it is.
    """
    home = home.resolve()
    with _locked(home):
        known = state.read(home)
        place = placement.choose(home, Path(known.data) if known else None)
        _make_data_folder(home, place)
        if known is None:
            known = _new_state(home, place.data, durable)
            _set_aside_lost_data(_Servers.of(known, place.account))
        elif not known.owner_password:
            known = replace(known, owner_password=state.new_password())
        running = _start_servers(known, place, durable)
    return Stack(
        home=home,
        database_url=running.database_url,
        owner_url=running.owner_url,
        redis_url=running.redis_url,
    )


def stop(home: Path) -> None:
    """Stops what runs; does nothing for a home that was never started."""
    if (home / state.STATE_FILE).exists():
        with _changing(home.resolve()) as servers:
            servers.stop()


def delete(home: Path) -> None:
    """Stops the servers and deletes their data, wherever it is; other files in the home stay."""
    if not (home / state.STATE_FILE).exists():
        return
    home = home.resolve()
    with _changing(home) as servers:
        servers.stop()
        data = servers.postgres.data
        for path in [path for pattern in DATA_PATTERNS for path in data.glob(pattern)]:
            _remove(path)
        if data != home:
            _remove(data / ORIGIN_FILE)
            data.rmdir()
        for name in HOME_NAMES:
            _remove(home / name)


def status(home: Path) -> Status:
    known = state.read(home.resolve())
    if known is None:
        return Status()
    return _status_of(known)


def running_urls(home: Path) -> tuple[str, str] | None:
    """(database URL, Redis URL) if both servers of this home run, else None. Only reads files."""
    known = state.read(home.resolve())
    if known is None or None in (_status_of(known).postgres_pid, _status_of(known).valkey_pid):
        return None
    return known.database_url, known.redis_url


def servers(home: Path) -> tuple[Server, ...]:
    """PostgreSQL and Valkey, whether they run or not; none if nothing was ever started in this home."""
    home = home.resolve()
    known = state.read(home)
    if known is None:
        return ()
    both = _Servers.of(known, account=None)
    return (
        Server(home=home, url=known.database_url, _server=both.postgres),
        Server(home=home, url=known.redis_url, _server=both.valkey),
    )


def is_claimed(home: Path) -> bool:
    return files.is_locked(home / OWNER_FILE)


def owner_url(home: Path) -> str | None:
    """The owner's database URL, which migrations need, if PostgreSQL of this home runs. Only reads files."""
    known = state.read(home.resolve())
    if known is None or not known.owner_password or _status_of(known).postgres_pid is None:
        return None
    return known.owner_url


@contextmanager
def claimed(home: Path) -> Iterator[None]:
    """Marks a home as having an owner, who may stop it; the mark ends with the owner's process.

    Raises BlockingIOError if another process owns it.
    """
    files.make_folder(home)
    # Whoever looks whether there is an owner holds the lock for an instant.
    process.wait_until(lambda: not is_claimed(home), timeout_s=CLAIM_TIMEOUT_S)
    with files.locked(home / OWNER_FILE, wait=False):
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class _Servers:
    postgres: Postgres
    valkey: Valkey
    account: Account | None

    @classmethod
    def of(cls, known: State, account: Account | None) -> Self:
        data = Path(known.data)
        return cls(
            postgres=Postgres(data=data, port=known.postgres_port, account=account, durable=known.durable),
            valkey=Valkey(data=data, port=known.valkey_port, account=account, password=known.password),
            account=account,
        )

    def named(self, name: str) -> Postgres | Valkey:
        return next(server for server in (self.postgres, self.valkey) if server.name == name)

    def start(self, server: Programs, passwords: Passwords) -> None:
        self.postgres.create(server, passwords)
        self.postgres.ensure_roles(server, passwords)
        self.postgres.start(server)
        self.valkey.start(server)

    def stop(self) -> None:
        self.valkey.stop()
        self.postgres.stop()


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    files.make_folder(home)
    with files.locked(home / LOCK_FILE):
        yield


@contextmanager
def _changing(home: Path) -> Iterator[_Servers]:
    """The servers of a home that was started before, under its lock."""
    with _locked(home):
        known = state.read(home)
        if known is None:
            raise StackError(f"Nothing was ever started in {home}.")
        yield _Servers.of(known, placement.choose(home, Path(known.data)).account)


def _start_servers(wanted: State, place: Placement, durable: bool) -> State:
    server = programs.usable_by(place.account)
    passwords = Passwords(owner=wanted.owner_password, application=wanted.password)
    for attempts_left in reversed(range(START_ATTEMPTS_MAX)):
        wanted = _ready_to_start(wanted, durable)
        # Before the start: whoever comes after a killed start must find what it left running.
        state.write(wanted)
        try:
            _Servers.of(wanted, place.account).start(server, passwords)
        except StackError:
            if attempts_left == 0 or wanted == _ready_to_start(wanted, durable):
                raise
        else:
            break
    return wanted


def _ready_to_start(known: State, durable: bool) -> State:
    """Servers that run keep their settings; others get those asked for, and a new port if theirs is taken."""
    now = _status_of(known)
    if now.postgres_pid is None:
        known = replace(known, durable=durable, postgres_port=_free(known.postgres_port))
    if now.valkey_pid is None:
        known = replace(known, valkey_port=_free(known.valkey_port))
    return known


def _status_of(known: State) -> Status:
    servers = _Servers.of(known, account=None)
    return Status(postgres_pid=servers.postgres.pid(), valkey_pid=servers.valkey.pid())


def _free(port: int) -> int:
    return port if ports.is_free(port) else ports.pick_free()


def _new_state(home: Path, data: Path, durable: bool) -> State:
    return State(
        home=str(home),
        data=str(data),
        password=state.new_password(),
        owner_password=state.new_password(),
        postgres_port=ports.pick_free(),
        valkey_port=ports.pick_free(),
        durable=durable,
    )


def _set_aside_lost_data(servers: _Servers) -> None:
    """A home that was deleted took the password of its servers along, and its data may lie elsewhere.

    A new home of the same name begins anew; the lost data stays beside its own until that is deleted.
    """
    servers.stop()
    for folder in (servers.postgres.folder, servers.valkey.folder):
        if folder.exists():
            folder.rename(folder.with_name(f"{folder.name}.lost-{secrets.token_hex(4)}"))


def _make_data_folder(home: Path, place: Placement) -> None:
    files.make_folder(place.data)
    if place.data != home:
        (home / NOTE_FILE).write_text(
            f"The account that runs the servers cannot enter this folder; their data is in\n{place.data}\n"
        )
        (place.data / ORIGIN_FILE).write_text(f"The data of the servers that were started in\n{home}\n")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
