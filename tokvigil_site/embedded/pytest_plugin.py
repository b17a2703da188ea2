"""Gives each test session real servers of its own, before Django reads its settings.

Variables that are already set stay. A session takes the first home nobody uses, so sessions in one checkout
can run at the same time; what a killed session left running is taken over by the next one. Workers of xdist
share the servers: pytest-django makes a database per worker, this a Valkey database number.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tokvigil_site.embedded import placement, stack
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.stack import Stack

SESSIONS_MAX = 8
SECRETS = {
    "SECRET_KEY": "only-for-tests-" * 4,
    "API_KEY_PEPPER": "only-for-tests",
    "AUDIT_KEY": "only-for-tests",
}
# A busy machine is no slow PostgreSQL. Tests that are about the time box say so to their web processes.
PATIENCE = {"EVALUATE_WAIT_S": "10"}


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """A wrapper runs before pytest-django's hook of the same name, which imports the settings."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        os.environ["REDIS_URL"] = with_database_number(
            os.environ["REDIS_URL"], int(worker.removeprefix("gw"))
        )
    else:
        _set_defaults(SECRETS | PATIENCE)
        if not {"DATABASE_URL", "REDIS_URL"} <= os.environ.keys():
            servers = _started_for(early_config)
            if "DATABASE_URL" not in os.environ:
                # pytest-django makes the databases as the owner (audit/testing.py); the tests are the application.
                _set_defaults({"MIGRATION_DATABASE_URL": servers.owner_url})
            _set_defaults({"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url})
    yield


@pytest.fixture
def disposable_stack() -> Iterator[Stack]:
    """Servers for one test that takes them down; starting them takes a second."""
    home = placement.default_home() / "test" / f"disposable-{secrets.token_hex(4)}"
    try:
        yield stack.start(home, durable=False)
    finally:
        stack.delete(home)
        shutil.rmtree(home, ignore_errors=True)


def with_database_number(redis_url: str, number: int) -> str:
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{number}"))


def _set_defaults(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _started_for(config: pytest.Config) -> Stack:
    """Stopped when pytest ends, also if it ends before the first test."""
    ending = ExitStack()
    config.add_cleanup(ending.close)
    try:
        home = _claim_home(ending)
        ending.callback(stack.stop, home)
        return stack.start(home, durable=False)
    except StackError as error:
        raise pytest.UsageError(str(error)) from error


def _claim_home(ending: ExitStack) -> Path:
    """A home that no other session uses; it is given back at the end."""
    for number in range(1, SESSIONS_MAX + 1):
        home = placement.default_home() / "test" / str(number)
        try:
            ending.enter_context(stack.claimed(home))
        except BlockingIOError:
            continue
        return home
    raise StackError(
        f"{SESSIONS_MAX} test sessions are running in this checkout already: wait for one to end."
    )
