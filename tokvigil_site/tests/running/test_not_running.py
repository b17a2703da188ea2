"""Commands of manage.py where nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tokvigil_site.tests.running.commands import Command


def asked(home: Path, **variables: str) -> Command:
    command = Command(home, "export_policies", "demo/prod", DEBUG="true", **variables)
    command.finish()
    return command


def test_that_nothing_runs_is_said_in_one_line(new_home: Callable[[], Path]) -> None:
    command = asked(new_home())
    assert command.process.returncode == 1
    assert command.output == (
        "The product is not running here, and DATABASE_URL is not set: "
        "start `make up` (or `manage.py up`), or set DATABASE_URL.\n"
    )


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1", "Connection refused"), ("nohost.invalid:5433", "resolve host")]
)
def test_a_server_that_is_not_there_is_named_with_the_reason(
    new_home: Callable[[], Path], address: str, reason: str
) -> None:
    command = asked(new_home(), DATABASE_URL=f"postgres://nobody:secret@{address}/nothing")
    assert command.process.returncode == 1
    assert command.output.startswith(f"PostgreSQL cannot be reached at {address} (")
    assert reason in command.output
    assert "secret" not in command.output
    assert command.output.count("\n") == 1
