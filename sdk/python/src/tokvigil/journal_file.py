"""One file of usage reports on their way. The process that writes it keeps it locked for as long as it lives.

The operating system ends the lock however the process ends; whoever takes the lock then sends what is left. Each line
is a state, a request id as JSON, and a report's body:

    asking "id" {...}    TokVigil is being asked; the body is the report if the call goes out and nobody sees its end
    sent "id" [{...}]    the call goes out; the body, if it is another by now
    final "id" {...}     the call has ended, and this is to be sent
    forgot "id"          the call does not go out, or its report is elsewhere
    done "id"            TokVigil has the report, or refused it for good

A line is written by one call of the operating system, so a process that is killed leaves whole lines, at most the last
one cut. They survive the process; the last ones may not survive a loss of power.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
import time
import uuid
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, Self

try:
    import fcntl
except ImportError:  # Windows: a file is of a living process while its time is renewed
    fcntl = None  # type: ignore[assignment]

State = Literal["asking", "sent", "final", "forgot", "done"]
SUFFIX = ".jsonl"
# Until it is locked a new file has another suffix, so that nobody takes it for a dead process's.
NEW_SUFFIX = ".new"
NEW_S_MAX = 60.0
HEADER = b"tokvigil-journal 1 "
# Where locks do not tell, of another machine with the same folder or without `flock`: the owner renews the file's time
# at least so often, and a file that is older is a dead process's.
RENEW_EVERY_S = 20.0
STALE_S = 90.0
# A descriptor that the operating system refuses.
CLOSED = -1
_FLAGS = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
# Of no effect on a file. A FIFO in its place would block.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})


class Reports(NamedTuple):
    """What a file holds. `pending` are bodies by request id, oldest first; `under_way` of them are of calls that have
    not ended. `unreadable` are whole lines, and `size` is the number of bytes of all whole lines."""

    pending: dict[str, bytes]
    under_way: int
    unreadable: list[bytes]
    size: int


class JournalFile:
    """An open file with its lock. Not safe to share between threads."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor

    @classmethod
    def create(
        cls, directory: Path, destination: str, lines: bytes = b"", instead_of: JournalFile | None = None
    ) -> Self:
        """A new file with these lines: others see all of it or nothing. Takes the place of `instead_of`, which is
        closed. Raises `OSError`; `instead_of` is as it was then."""
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.mkdir(exist_ok=True, mode=0o700)
        path = directory / f"{_host()}-{uuid.uuid4().hex}{SUFFIX}"
        new = path.with_suffix(NEW_SUFFIX)
        if instead_of is not None:
            path = instead_of.path
        file = cls(path, os.open(new, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600), 0)
        try:
            _lock(file._descriptor)
            file.append(HEADER + json.dumps(destination).encode() + b"\n" + lines)
            if fcntl is None:
                file._rename_closed(new, instead_of)
            else:
                new.replace(path)
        except OSError:
            file.close()
            with suppress(OSError):
                new.unlink()
            raise
        if instead_of is not None:
            instead_of.close()
        return file

    def _rename_closed(self, new: Path, instead_of: JournalFile | None) -> None:
        """Windows renames no open file, and replaces none."""
        self.close()
        if instead_of is not None:
            instead_of.close()
        new.replace(self.path)
        self._descriptor = os.open(self.path, _FLAGS)

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """The file of a process that ended; None if its process lives, another has taken it, or it is no journal."""
        try:
            descriptor = open_file(path, _FLAGS)
        except OSError:
            return None
        try:
            locks_tell = _lock(descriptor) and path.name.startswith(_host())
            found = os.fstat(descriptor)
            is_left = locks_tell or time.time() - found.st_mtime > STALE_S
            if is_left and _is_same(path, found) and os.read(descriptor, len(HEADER)) == HEADER:
                return cls(path, descriptor, found.st_size)
        except OSError:
            pass
        os.close(descriptor)
        return None

    def append(self, lines: bytes) -> None:
        """All of it or nothing. Raises `OSError`."""
        written = os.write(self._descriptor, lines)
        if written < len(lines):
            # A full disk took a part.
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def read(self) -> Reports:
        """Raises `OSError`."""
        found = read_reports(self.path)
        if found.size < self.size:
            # Else the next line would continue the one that was cut.
            os.ftruncate(self._descriptor, found.size)
        return found

    def is_gone(self) -> bool:
        """Somebody has removed it."""
        try:
            return not _is_same(self.path, os.fstat(self._descriptor))
        except OSError:
            return True

    def renew(self) -> None:
        with suppress(OSError):
            os.utime(self.path)

    def close(self) -> None:
        """Let go of it; what is in it is for whoever takes it. In a forked child the parent keeps its lock."""
        descriptor, self._descriptor = self._descriptor, CLOSED
        if descriptor != CLOSED:
            with suppress(OSError):
                os.close(descriptor)

    def delete(self) -> None:
        if fcntl is None:
            self.close()  # Windows removes no open file
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.close()

    def __del__(self) -> None:
        self.close()


def open_file(path: str | os.PathLike[str], flags: int) -> int:
    """As `os.open`. Raises `OSError` also for what is no file, such as a FIFO or a device: reading it may never end."""
    descriptor = os.open(path, flags | _AT_ONCE, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no file", os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def line(state: State, request_id: str, body: bytes = b"") -> bytes:
    return b"%s %s %s\n" % (state.encode(), json.dumps(request_id).encode(), body)


def files_in(directory: Path) -> list[Path]:
    """Journals, oldest first; none if they cannot be listed. New ones that nobody went on with are removed."""
    found = []
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                changed_at = entry.stat().st_mtime
                if not entry.is_file():
                    continue
                if entry.name.endswith(SUFFIX):
                    found.append((changed_at, Path(entry.path)))
                elif entry.name.endswith(NEW_SUFFIX) and time.time() - changed_at > NEW_S_MAX:
                    os.unlink(entry.path)
    return [path for _, path in sorted(found)]


def is_in_use(path: Path) -> bool:
    """Whether the process that writes it lives."""
    taken = JournalFile.take(path)
    if taken is not None:
        taken.close()
    return taken is None


def destination_of(path: Path) -> str | None:
    """Where the reports of a journal go; None if it is no journal."""
    try:
        with open(path, "rb", opener=open_file) as file:
            first = file.readline()
        return str(json.loads(first.removeprefix(HEADER))) if first.startswith(HEADER) else None
    except (OSError, ValueError):
        return None


def read_reports(path: Path) -> Reports:
    """What a file would report if its process ended now. Raises `OSError`."""
    open_calls: dict[str, tuple[str, bytes]] = {}
    final: dict[str, bytes] = {}
    unreadable = []
    size = 0
    with open(path, "rb", opener=open_file) as file:
        for whole in file:
            if not whole.endswith(b"\n"):
                break  # it was cut, so it was not written
            size += len(whole)
            if whole.startswith(HEADER):
                continue
            parsed = _parsed(whole)
            if parsed is None:
                unreadable.append(whole)
                continue
            state, request_id, body = parsed
            if state == "final":
                open_calls.pop(request_id, None)
                final[request_id] = body
            elif state in ("forgot", "done"):
                open_calls.pop(request_id, None)
                if state == "done":
                    final.pop(request_id, None)
            elif request_id not in final:
                open_calls[request_id] = state, body or open_calls.get(request_id, ("", b""))[1]
    under_way = {
        request_id: body if state == "sent" else _cancelled(body)
        for request_id, (state, body) in open_calls.items()
        if body
    }
    return Reports(final | under_way, len(under_way), unreadable, size)


def _parsed(whole: bytes) -> tuple[str, str, bytes] | None:
    """A line's state, request id and body; None if it cannot be read, or its report could not be sent."""
    state, _, rest = whole[:-1].partition(b" ")
    try:
        text = rest.decode()
        request_id, end = _JSON.raw_decode(text)
        body = text[end:].strip()
        named = _JSON.decode(body).get("request_id") if body else request_id
    except (ValueError, AttributeError, RecursionError):
        return None
    known_states = (b"asking", b"sent", b"final") if body else (b"sent", b"forgot", b"done")
    if state not in known_states or not isinstance(request_id, str) or named != request_id:
        return None
    return state.decode(), request_id, body.encode()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)


def _cancelled(body: bytes) -> bytes:
    """The report of a call that was asked for and did not go out. Fields that are unknown here stay."""
    fields = json.loads(body)
    fields |= {name: 0 for name in fields if name.endswith("_tokens")}
    fields.pop("quantities", None)
    return json.dumps(fields | {"status": "cancelled"}).encode()


def _lock(descriptor: int) -> bool:
    """False: locks do not tell anything here. Raises `OSError` if another process has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _is_same(path: Path, found: os.stat_result) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


@cache
def _host() -> str:
    return sha256(platform.node().encode()).hexdigest()[:8]
