"""Commands of manage.py, the web server, the worker and beat where nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tokvigil_site.embedded import stack
from tokvigil_site.tests.running.commands import Command, wait_until


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
    "program",
    ["tokvigil_site.serving --port 0", "celery -A tokvigil_site worker", "celery -A tokvigil_site beat"],
    ids=["serving", "worker", "beat"],
)
def test_a_process_of_the_product_does_not_wait_for_a_database_that_nobody_named(
    new_home: Callable[[], Path], program: str
) -> None:
    command = Command(new_home(), program=["-m", *program.split()], DEBUG="true")
    assert command.finish() == 1
    assert "The product is not running here, and DATABASE_URL is not set: " in command.output


def test_beat_makes_the_folder_that_it_keeps_its_schedule_in(new_home: Callable[[], Path]) -> None:
    home = new_home()
    named = {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/nothing", "REDIS_URL": "redis://127.0.0.1:1/0"}
    beat = Command(home, program=["-m", *["celery", "-A", "tokvigil_site", "beat"]], DEBUG="true", **named)
    try:
        assert wait_until(lambda: any(home.glob("celerybeat-schedule*")), 60)
    finally:
        beat.end()


def test_so_it_is_where_everything_was_stopped(new_home: Callable[[], Path]) -> None:
    home = new_home()
    stack.start(home, durable=False)
    stack.stop(home)
    assert asked(home).output.startswith("The product is not running here, and DATABASE_URL is not set: ")


def test_a_server_that_is_down_beside_one_that_runs_is_named_with_the_way_out(
    new_home: Callable[[], Path],
) -> None:
    home = new_home()
    stack.start(home, durable=False).stop_postgres()
    command = asked(home)
    assert command.process.returncode == 1
    assert command.output.startswith("PostgreSQL cannot be reached at 127.0.0.1:")
    assert command.output.endswith(": start `make up` (or `manage.py up`), which starts it again.\n")


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
    assert command.output.endswith("): check DATABASE_URL and the server.\n")
    assert "secret" not in command.output
    assert command.output.count("\n") == 1
