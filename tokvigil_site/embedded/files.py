"""Folders, locks and files of the stack. Only what is created here gets an owner or a mode."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.process import Account

FREE_SPACE_MIN_BYTES = 300 * 1024 * 1024
LOG_TAIL_BYTES = 2000


def make_folder(folder: Path, *, mode: int = 0o755, account: Account | None = None) -> None:
    """Creates a missing folder, and those above it, whatever the umask; leaves existing ones alone."""
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    try:
        folder.mkdir()
        folder.chmod(mode)
    except FileExistsError:
        return
    except OSError as error:
        raise StackError(
            f"{folder} cannot be created ({error.strerror}): choose another TOKVIGIL_HOME."
        ) from error
    give(folder, account)


def give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def write_secret(file: Path, text: str, *, account: Account | None = None) -> None:
    """Writes a file that only its owner can read; readers see the old content or the new, never a part."""
    unfinished = file.with_name(f"{file.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    give(unfinished, account)
    unfinished.replace(file)


def fresh_log(file: Path, *, account: Account | None) -> None:
    """Starts an empty log and keeps the one before: logs neither grow for ever nor vanish with a restart."""
    if file.exists():
        file.replace(file.with_suffix(".log.previous"))
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    give(file, account)


def kept_log(file: Path, *, account: Account | None) -> None:
    """Makes the log if there is none: a restart goes on in the log that says why the one before ended."""
    if not file.exists():
        fresh_log(file, account=account)


def tail(file: Path) -> str:
    """The end of a log, for an error message."""
    try:
        return file.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip() or "(empty)"
    except OSError:
        return "(not readable)"


def require_space(folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < FREE_SPACE_MIN_BYTES:
        raise StackError(
            f"Only {free_bytes // 2**20} MiB are free at {folder}, {FREE_SPACE_MIN_BYTES // 2**20} MiB are "
            "needed: free some space, or set TOKVIGIL_HOME to a folder on another disk."
        )


def is_locked(file: Path) -> bool:
    """True if somebody holds its lock. Whoever tries to get it at this very instant may fail."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked(file: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a lock that the kernel drops when this process dies.

    Raises BlockingIOError if somebody else holds it and `wait` is False, StackError if the file belongs to
    another user.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StackError(
            f"{file} cannot be opened ({error.strerror}): run this as the user who owns that folder, "
            "or set TOKVIGIL_HOME to a folder of your own."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
