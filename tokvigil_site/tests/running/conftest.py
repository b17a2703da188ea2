from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tokvigil_site.embedded import stack
from tokvigil_site.tests.running.commands import Up, processes_of


@pytest.fixture(scope="module")
def new_home() -> Iterator[Callable[[], Path]]:
    """Makes homes that the embedded servers can enter, unlike pytest's tmp_path; cleared away with all they run."""
    folder = Path(tempfile.mkdtemp(prefix="tokvigil-up-")).resolve()
    folder.chmod(0o755)
    homes: list[Path] = []

    def make() -> Path:
        homes.append(folder / f"home-{len(homes)}")
        return homes[-1]

    yield make
    for home in homes:
        for pid in processes_of(home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        stack.delete(home)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def up(new_home: Callable[[], Path]) -> Up:
    return Up(new_home())
