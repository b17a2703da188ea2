"""docs/audit.md on database roles, carried out on a real server with an owner that is no superuser."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from tokvigil_site.embedded import placement, stack
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.tests.database_roles import DENIED, FORBIDDEN
from tokvigil_site.tests.embedded.servers import query
from tokvigil_site.tests.servers import CHECKOUT, manage

MAKE_AN_OLD_MONTH = (
    "from datetime import UTC, datetime; from usage.ledger import partitions; "
    "partitions.ensure([datetime(2020, 1, 15, tzinfo=UTC)])"
)


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    home = placement.default_home() / "test" / f"disposable-{secrets.token_hex(4)}"
    try:
        yield stack.start(home, durable=False)
    finally:
        stack.delete(home)
        shutil.rmtree(home, ignore_errors=True)


def _documented_sql(number: int, **names: str) -> list[str]:
    """The statements of the nth SQL block of docs/audit.md, with other names."""
    text = (CHECKOUT / "docs" / "audit.md").read_text().split("```sql\n")[number].partition("```")[0]
    for name, other in names.items():
        text = re.sub(rf"\b{name}\b", other, text)
    return [statement for statement in text.strip().split(";\n") if statement]


def _as(servers: Stack, role: str, password: str, database: str) -> str:
    port = urlsplit(servers.owner_url).port
    return f"postgresql://{role}:{quote(password)}@127.0.0.1:{port}/{database}"


def test_the_roles_that_the_docs_make_in_a_new_database_work(servers: Stack) -> None:
    for statement in _documented_sql(1, tokvigil_owner="new_owner", tokvigil_app="new_app", tokvigil="new"):
        query(servers.owner_url, statement)
    variables = {"REDIS_URL": servers.redis_url} | {
        "DATABASE_URL": _as(servers, "new_app", "another secret", "new")
    }
    owner = {"MIGRATION_DATABASE_URL": _as(servers, "new_owner", "one secret", "new")}
    manage("migrate", "--verbosity", "0", variables=variables | owner)
    _assert_guarded(variables)
    # The application makes months; a month whose calls may not be reported any more is the owner's to detach.
    manage("shell", "-c", MAKE_AN_OLD_MONTH, variables=variables)
    manage("partition_usage", "--detach", "2020-01", variables=variables | owner)


def test_a_database_in_which_one_role_did_everything_is_brought_over_as_the_docs_say(servers: Stack) -> None:
    query(servers.owner_url, "CREATE ROLE one LOGIN SUPERUSER PASSWORD 'of one'")
    query(servers.owner_url, "CREATE DATABASE one OWNER one")
    alone = _as(servers, "one", "of one", "one")
    variables = {"REDIS_URL": servers.redis_url} | {"DATABASE_URL": alone, "MIGRATION_DATABASE_URL": ""}
    manage("migrate", "--verbosity", "0", variables=variables)
    assert "audit.W001" in _said("check", "--database", "default", variables=variables)
    for statement in _documented_sql(2, tokvigil_owner="one_owner", tokvigil_app="one"):
        query(alone.replace("one:of%20one", urlsplit(servers.owner_url).netloc.partition("@")[0]), statement)
    owner = {"MIGRATION_DATABASE_URL": _as(servers, "one_owner", "one secret", "one")}
    manage("migrate", "--verbosity", "0", variables=variables | owner)
    _assert_guarded(variables)


def _said(*arguments: str, variables: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def _assert_guarded(variables: dict[str, str]) -> None:
    for statement in FORBIDDEN:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=DENIED):
            query(variables["DATABASE_URL"], statement)
    manage("create_tenant", f"t-{secrets.token_hex(4)}", variables=variables)
    manage("partition_usage", "--months", "9", variables=variables)
    assert "audit.W001" not in _said("check", "--database", "default", variables=variables)
