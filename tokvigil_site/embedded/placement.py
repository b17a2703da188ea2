"""Where the data lives and which account runs the servers.

PostgreSQL refuses to run as root. Started by an ordinary user, that user runs both servers and the data lives
in the home. Started by root, an existing account without rights runs them; the data lives in the home if that
account can reach it, else in a folder of its own below /var/lib/tokvigil. No permission of an existing folder
changes.
"""

import hashlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from tokvigil_site.embedded import files, process
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.process import Account

# initdb wants an entry in the user database, so a user id that nobody has will not do.
ACCOUNT_NAME = "nobody"
SHARED_FOLDERS = (Path("/var/lib/tokvigil"), Path("/var/tmp/tokvigil"))  # noqa: S108 (its owner is checked)
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`data` holds the servers' folders and logs; `account` runs the servers, None is whoever runs this."""

    data: Path
    account: Account | None


def default_home() -> Path:
    return Path(os.environ.get("TOKVIGIL_HOME") or CHECKOUT / ".tokvigil").absolute()


def choose(home: Path, remembered: Path | None) -> Placement:
    """`remembered` is the data folder of an earlier start: once chosen, a home keeps its place."""
    if os.geteuid() != 0:
        return Placement(data=remembered or home, account=None)
    if remembered is not None:
        return _again(home, remembered)
    account = _unprivileged_account()
    if can_enter(home, account):
        return Placement(data=home, account=account)
    return Placement(data=shared_folder(account) / _name_of(home), account=account)


def belongs_to(home: Path, data: Path) -> bool:
    """Root must not follow a user's file to any other folder."""
    return data == home or data in {folder / _name_of(home) for folder in SHARED_FOLDERS}


def can_enter(folder: Path, account: Account) -> bool:
    """True if `account` reaches the folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return process.can_run("/bin/sh", "-c", '[ -x "$1" ]', "sh", folder, account=account)


def shared_folder(account: Account) -> Path:
    """A folder of root's that `account` can enter and others cannot write; made if missing.

    Raises StackError if there is none.
    """
    for folder in SHARED_FOLDERS:
        if folder.parent.is_dir() and os.access(folder.parent, os.W_OK):
            files.make_folder(folder)
        if _is_roots_own(folder) and can_enter(folder, account):
            return folder
    raise StackError(
        f"Root needs a folder for the servers' data that user id {account.uid} can enter, and "
        f"{' and '.join(map(str, SHARED_FOLDERS))} are not: set TOKVIGIL_HOME to one, or start as an "
        "ordinary user."
    )


def _again(home: Path, data: Path) -> Placement:
    if not belongs_to(home, data):
        raise StackError(
            f"{home} names {data} as its data folder, which is not of our making: delete {home}."
        )
    account = _owner_of(data / "postgres") or _unprivileged_account()
    if not can_enter(data, account):
        raise StackError(
            f"User id {account.uid}, who runs the servers, can no longer enter {data}: let it enter the "
            "folders above, or give up the data with `python -m tokvigil_site.embedded delete`."
        )
    return Placement(data=data, account=account)


def _unprivileged_account() -> Account:
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
        account = Account(uid=entry.pw_uid, gid=entry.pw_gid)
        process.run("true", account=account)
    except (KeyError, StackError) as error:
        raise StackError(
            f"PostgreSQL does not run as root, and root cannot run it as {ACCOUNT_NAME!r} here ({error}): "
            "start as an ordinary user, or set DATABASE_URL and REDIS_URL to servers of your own."
        ) from error
    return account


def _owner_of(folder: Path) -> Account | None:
    try:
        owner = folder.lstat()
    except FileNotFoundError:
        return None
    return Account(uid=owner.st_uid, gid=owner.st_gid)


def _is_roots_own(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == 0 and not status.st_mode & 0o022


def _name_of(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
