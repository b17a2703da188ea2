"""Servers and web processes of a test module's own, which it takes down. The tests' Django uses them too."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import environ
import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings
from pytest_django import DjangoDbBlocker

from tenants.models import Environment, Tenant
from tokvigil_site.embedded import placement, stack
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.testing import Api
from tokvigil_site.tests.servers import WebApi, WebProcess, leave_servers, manage, web_processes


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """Servers of this module, which takes them down."""
    with disposable_stack(durable=False) as started:
        yield started


@contextmanager
def disposable_stack(*, durable: bool) -> Iterator[Stack]:
    home = placement.default_home() / "test" / f"disposable-{secrets.token_hex(4)}"
    try:
        yield stack.start(home, durable=durable)
    finally:
        stack.delete(home)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def variables(own_stack: Stack) -> dict[str, str]:
    named = {"DATABASE_URL": own_stack.database_url, "REDIS_URL": own_stack.redis_url}
    owner = {"MIGRATION_DATABASE_URL": own_stack.owner_url}
    manage("migrate", "--verbosity", "0", variables=named | owner)
    return named


@pytest.fixture(scope="module")
def processes(
    variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[WebProcess]]:
    with web_processes(2, tmp_path_factory.mktemp("web"), variables) as started:
        yield started


@pytest.fixture
def servers(
    own_stack: Stack, variables: dict[str, str], django_db_blocker: DjangoDbBlocker
) -> Iterator[Stack]:
    """This test's Django uses them too."""
    database = connections.settings["default"]
    before = dict(database)
    there = cast("dict[str, Any]", settings.CACHES["counters"]) | {"LOCATION": own_stack.redis_url}
    with django_db_blocker.unblock(), override_settings(CACHES={**settings.CACHES, "counters": there}):
        leave_servers()
        database.update(environ.Env.db_url_config(own_stack.database_url, engine=database["ENGINE"]))
        try:
            yield own_stack
        finally:
            leave_servers()
            database.clear()
            database.update(before)


@pytest.fixture
def environment_there(servers: Stack) -> Environment:
    return Tenant.create_with_environments(f"t-{secrets.token_hex(4)}").environments.get(slug="prod")


@pytest.fixture
def apis(environment_there: Environment, processes: list[WebProcess]) -> list[WebApi]:
    api = Api(environment_there)
    return [WebApi(api, process.port) for process in processes]
