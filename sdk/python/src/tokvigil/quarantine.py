"""Reports that TokVigil refused for good, or that cannot be read: kept beside the journals of their destination, until
somebody deletes them there or has them sent again."""

from __future__ import annotations

import json
import os
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tokvigil.journal_file import JournalFile, line, open_file

QUARANTINE = "quarantine"


class SetAside(NamedTuple):
    """Without a `request_id` it cannot be read, and so not be sent."""

    reason: str
    at: datetime | None = None
    destination: str = ""
    request_id: str | None = None
    report: str = ""


def set_aside(directory: Path, destination: str, report: bytes, reason: str) -> None:
    """Raises `OSError`."""
    text = report.decode("utf-8", "replace").strip()
    kept = {"reason": reason, "at": time.time(), "destination": destination, "report": text}
    _append(directory, json.dumps(kept).encode())


def read(directory: Path) -> list[SetAside]:
    """What was set aside in the folder of a destination. Raises `OSError`."""
    return [_parsed(text) for path in _files(directory) for text in _lines(path)]


def send_again(directory: Path) -> int:
    """Have what was set aside sent by the next client; returns how many reports. Raises `OSError`."""
    with suppress(FileNotFoundError):
        # What is set aside meanwhile goes to a new file.
        (directory / QUARANTINE).rename(directory / f"{QUARANTINE}-{uuid.uuid4().hex}")
    sent = 0
    for path in _files(directory, "-*"):
        texts = {text: _parsed(text) for text in _lines(path)}
        finals = {
            each.request_id: line("final", each.request_id, each.report.encode())
            for each in texts.values()
            if each.request_id is not None
        }
        if finals:
            destination = next(each.destination for each in texts.values() if each.request_id is not None)
            JournalFile.create(directory, destination, b"".join(finals.values())).close()
        for text, each in texts.items():
            if each.request_id is None:
                _append(directory, text)
        path.unlink()
        sent += len(finals)
    return sent


def _files(directory: Path, which: str = "*") -> list[Path]:
    return sorted(directory.glob(f"{QUARANTINE}{which}"))


def _lines(path: Path) -> list[bytes]:
    with open(path, "rb", opener=open_file) as file:
        return file.read().splitlines()


def _append(directory: Path, text: bytes) -> None:
    descriptor = open_file(directory / QUARANTINE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, text + b"\n")
    finally:
        os.close(descriptor)


def _parsed(text: bytes) -> SetAside:
    try:
        kept = json.loads(text)
        at = datetime.fromtimestamp(kept["at"], UTC)
        return SetAside(kept["reason"], at, kept["destination"], _request_id(kept["report"]), kept["report"])
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        return SetAside("it cannot be read", report=text.decode("utf-8", "replace"))


def _request_id(report: str) -> str | None:
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        request_id = json.loads(report)["request_id"]
        return request_id if isinstance(request_id, str) and "\n" not in report else None
    return None
