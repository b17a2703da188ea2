"""Usage reports until TokVigil has confirmed them, so that no crash loses one.

A call is written down before TokVigil is asked, before it goes out, and when it has ended. Each process writes a file
of its own for each client; see `journal_file`. What a process that ended has left is taken over, file by file.

What cannot be written (a full disk, no such folder, no home directory) is kept in memory, and is written once that is
possible. Without a folder there is memory only.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path

from tokvigil import forking
from tokvigil.journal_file import RENEW_EVERY_S, JournalFile, Reports, files_in, line
from tokvigil.quarantine import set_aside
from tokvigil.question import Report

logger = logging.getLogger("tokvigil")

# What TOKVIGIL_JOURNAL may say instead of a folder.
MEMORY_ONLY = frozenset({"false", "0", "off", "no"})
DEFAULT_FOLDER = frozenset({"true", "1", "on", "yes"})
# In memory. With a file that can be written the rest stays in it, for later.
PENDING_MAX = 10_000
# A file is written anew, without what is settled, once it is larger than this and four times as large as then.
COMPACT_BYTES = 512 * 1024
TRY_AGAIN_S = 1.0
SAY_EVERY_S = 60.0


def default_folder() -> Path | None:
    """TOKVIGIL_JOURNAL, else a folder in the user's state directory; None: memory only."""
    named = os.environ.get("TOKVIGIL_JOURNAL", "").strip()
    if named.lower() in MEMORY_ONLY:
        return None
    if named and named.lower() not in DEFAULT_FOLDER:
        return Path(named)
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        logger.warning(
            "there is no home directory, so usage is kept in memory only: name a folder in TOKVIGIL_JOURNAL"
        )
        return None
    return Path(state) / "tokvigil"


class Journal:
    """The reports to one destination. Safe to share between threads; a forked child begins with none."""

    def __init__(self, folder: str | os.PathLike[str] | None, destination: str) -> None:
        self.directory = None if folder is None else directory_in(Path(folder), destination)
        self._destination = destination
        self._said_at = -SAY_EVERY_S
        self._begin()
        forking.register_quiet(self)

    def hold_for_fork(self) -> None:
        self.lock.acquire()

    def go_on_in_parent(self) -> None:
        self.lock.release()

    def restart_in_child(self) -> None:
        """The parent sends its own."""
        for file in (self._file, self._taken):
            if file is not None:
                file.close()
        self._begin()

    def _begin(self) -> None:
        # Reentrant, because a signal handler may report while its thread is in here.
        self.lock = threading.RLock()
        self._file: JournalFile | None = None
        # Of a process that ended: it is being read, or its reports are being sent.
        self._taken: JournalFile | None = None
        # By request id: lines of calls under way, and reports to be sent: own ones, and those of the file taken.
        self._open: dict[str, bytes] = {}
        self._pending: dict[str, bytes] = {}
        self._taken_pending: dict[str, bytes] = {}
        # The file does not have all that counts.
        self._is_behind = True
        self._unwritten: list[bytes] = []
        self._is_writing = False
        # More than one: a signal handler reports in the middle of a report, which the file may not have yet.
        self._reports_begun = 0
        self._try_again_at = 0.0
        self._renew_at = 0.0
        self._compact_at = COMPACT_BYTES

    def asks(self, report: Report) -> None:
        """TokVigil is being asked about a call. If this process ends now, what may be held is given back."""
        written = line("asking", *report)
        with self.lock:
            self._open[report.request_id] = written
            self._write(written)

    def sent(self, request_id: str, report: Report | None) -> None:
        """The call goes out. If this process ends now, `report` is sent, or the one that `asks` was given."""
        written = line("sent", request_id, b"" if report is None else report.body)
        with self.lock:
            self._open[request_id] = self._open.get(request_id, b"") + written
            self._write(written)

    def forget(self, request_id: str) -> None:
        """The call does not go out, and nothing is held for it."""
        with self.lock:
            if self._open.pop(request_id, None) is not None:
                self._write(line("forgot", request_id))

    def report(self, report: Report) -> str | None:
        """Keep a report until it is settled; the first one of a call counts. Returns the request id of the oldest one
        if that had to make room in memory and is lost."""
        with self.lock:
            self._reports_begun += 1
            try:
                return self._report(report)
            finally:
                self._reports_begun -= 1

    def _report(self, report: Report) -> str | None:
        self._open.pop(report.request_id, None)
        if report.request_id in self._pending:
            return None
        self._pending[report.request_id] = report.body
        self._write(line("final", *report))
        if len(self._pending) <= PENDING_MAX or self._is_writing:
            return None
        oldest = next(iter(self._pending))
        del self._pending[oldest]
        return oldest

    def replace(self, report: Report) -> None:
        """Have a report as it is to be sent instead."""
        final = line("final", *report)
        with self.lock:
            if report.request_id in self._pending:
                self._pending[report.request_id] = report.body
                self._write(final)
            elif report.request_id in self._taken_pending:
                self._taken_pending[report.request_id] = report.body
                self._write_taken(final)

    def pending(self, count_max: int = PENDING_MAX) -> list[Report]:
        """The oldest reports that are to be sent: of this process, then of those that ended."""
        with self.lock:
            # Of a call that both have, the earlier report is the taken one.
            found = {**self._pending, **self._taken_pending}
        return [Report(request_id, body) for request_id, body in islice(found.items(), count_max)]

    def reported(self) -> tuple[str, ...]:
        """The request ids of what this process has to send."""
        with self.lock:
            return tuple(self._pending)

    def settle(self, outcomes: Mapping[str, str | None]) -> None:
        """Forget reports by request id: TokVigil has them (None), or has refused them for that reason."""
        with self.lock:
            for request_id, reason in outcomes.items():
                body = self._taken_pending.get(request_id) or self._pending.get(request_id)
                if reason is not None and body is not None:
                    self._set_aside(body, reason)
            own = _settled(self._pending, outcomes)
            if own:
                self._write(own)
            taken = _settled(self._taken_pending, outcomes)
            if taken:
                self._write_taken(taken)

    def has(self, request_ids: Iterable[str]) -> bool:
        """Whether any of these reports is still here."""
        return not self._pending.keys().isdisjoint(request_ids)

    def has_pending(self) -> bool:
        return bool(self._pending or self._taken_pending)

    def __len__(self) -> int:
        return len(self._pending) + len(self._taken_pending)

    def take_over(self) -> bool:
        """Make the reports of a process that ended pending, one file at a time. False: no file is being sent, and there
        is no other one."""
        return self.directory is not None and any(self._take(path) for path in files_in(self.directory))

    def _take(self, path: Path) -> bool:
        with self.lock:
            if self._taken is not None:
                return True
            is_mine = self._file is not None and self._file.path == path
            file = self._taken = None if is_mine or self.directory is None else JournalFile.take(path)
        if file is None:
            return False
        found: Reports | None = None
        try:
            file.renew()
            found = file.read()
            if found.unreadable:
                logger.error("%d lines of %s cannot be read, and are set aside", len(found.unreadable), path)
                for unreadable in found.unreadable:
                    self._set_aside(unreadable, "it cannot be read")
        except OSError as error:
            self._say(error)
        finally:
            self._took(file, found)
        return self._taken is not None

    def _took(self, file: JournalFile, found: Reports | None) -> None:
        with self.lock:
            if self._taken is not file:
                return  # closed meanwhile
            if found is not None and found.pending:
                self._taken_pending = found.pending
                return
            self._taken = None
            if found is None:
                file.close()
            else:
                file.delete()

    def tend(self) -> None:
        """Show that this process lives, and make its file again if somebody has removed it."""
        now = time.monotonic()
        if now < self._renew_at:
            return
        self._renew_at = now + RENEW_EVERY_S
        with self.lock:
            self._make_again_if_gone()
            for file in (self._file, self._taken):
                if file is not None:
                    file.renew()

    def close(self) -> int:
        """Let go of the file: what is pending in it is sent by the next process. Returns how many reports are lost with
        this one, because no disk took them."""
        with self.lock:
            self._try_again_at = 0.0
            # A signal handler's close, in the middle of a write: nobody goes on with that.
            self._is_writing = False
            self._make_again_if_gone()
            if self._is_behind and (self._pending or self._open):
                self._write(b"")
            lost = len(self._pending) if self._is_behind else 0
            if self._file is not None and not self._pending and not self._open:
                self._file.delete()
            elif self._file is not None:
                self._file.close()
            if self._taken is not None:
                self._taken.close()
            self.directory = self._file = self._taken = None
            return lost

    def _make_again_if_gone(self) -> None:
        if self._file is not None and self._file.is_gone():
            logger.error("the journal %s is gone, and is made again", self._file.path)
            self._is_behind = True
            self._write(b"")

    def _write(self, lines: bytes) -> None:
        """What memory already has. In the middle of another write, as a signal handler is, it is left to that one."""
        if self.directory is None:
            return
        self._unwritten.append(lines)
        while self._unwritten and not self._is_writing:
            self._is_writing = True
            try:
                self._write_now()
            finally:
                self._is_writing = False

    def _write_now(self) -> None:
        """Or later, if that fails."""
        unwritten, self._unwritten = self._unwritten, []
        # Should this be interrupted, nobody knows what was written.
        was_behind, self._is_behind = self._is_behind, True
        if was_behind and time.monotonic() < self._try_again_at:
            return
        try:
            if was_behind or self._file is None:
                self._write_anew()
            else:
                self._file.append(b"".join(unwritten))
                is_large = self._file.size > self._compact_at or len(self._pending) > PENDING_MAX
                if is_large and self._reports_begun <= 1:
                    self._keep_small(self._file)
            self._is_behind = False
        except OSError as error:
            self._try_again_at = time.monotonic() + TRY_AGAIN_S
            self._say(error)

    def _write_anew(self) -> None:
        """A file with all that counts, in the place of the one that there is. Raises `OSError`."""
        assert self.directory is not None
        finals = [line("final", *report) for report in self._pending.copy().items()]
        lines = b"".join((*self._open.values(), *finals))
        self._file = JournalFile.create(self.directory, self._destination, lines, self._file)
        self._compact_at = max(COMPACT_BYTES, 4 * self._file.size)

    def _keep_small(self, file: JournalFile) -> None:
        with suppress(OSError):  # then it stays as it is
            if len(self._pending) > PENDING_MAX:
                self._leave_pending_in(file)
            else:
                self._compact_at = 2 * file.size
                self._write_anew()

    def _leave_pending_in(self, full: JournalFile) -> None:
        """For later, as if a process had ended. Calls under way go on in a new file."""
        assert self.directory is not None
        pending, under_way = self._pending.copy(), self._open.copy()
        if self._unwritten:
            return  # a signal handler's, which the file does not have
        new = JournalFile.create(self.directory, self._destination, b"".join(under_way.values()))
        try:
            full.append(b"".join(line("forgot", request_id) for request_id in under_way))
        except BaseException:
            new.delete()
            raise
        self._file, self._compact_at = new, max(COMPACT_BYTES, 4 * new.size)
        for request_id in pending:
            self._pending.pop(request_id, None)
        full.close()

    def _write_taken(self, lines: bytes) -> None:
        taken = self._taken
        if taken is None:
            return
        if not self._taken_pending:
            self._taken = None
            taken.delete()
            return
        try:
            taken.append(lines)
        except OSError as error:
            self._say(error)

    def _set_aside(self, report: bytes, reason: str) -> None:
        directory = self.directory
        if directory is not None:
            try:
                set_aside(directory, self._destination, report, reason)
            except OSError as error:
                self._say(error)

    def _say(self, error: OSError) -> None:
        """Once a minute. What was closed in the middle of something needs nothing any more."""
        now = time.monotonic()
        if self.directory is not None and now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            logger.error("the journal in %s fails, so usage is kept in memory: %s", self.directory, error)


def _settled(pending: dict[str, bytes], outcomes: Collection[str]) -> bytes:
    return b"".join(
        line("done", request_id) for request_id in outcomes if pending.pop(request_id, None) is not None
    )


def directory_in(folder: Path, destination: str) -> Path:
    return folder / sha256(destination.encode()).hexdigest()[:16]
