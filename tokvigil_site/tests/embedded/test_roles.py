"""The database roles of a home: the owner stays with the stack, the application gets one that owns nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from tokvigil_site.embedded import stack
from tokvigil_site.embedded.postgres import ROLES_FILE
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.tests.database_roles import DENIED, FORBIDDEN
from tokvigil_site.tests.embedded.servers import Actor, query
from tokvigil_site.tests.servers import manage

RIGHTS = """
    SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls FROM pg_roles
    WHERE rolname = current_user
"""


@pytest.fixture(scope="module")
def running(actor: Actor, home: Path) -> Stack:
    """With the tables of the product, and one entry in its audit log."""
    running = actor.do(stack.start, home, durable=False)
    _migrate(running)
    manage("create_tenant", "acme", variables=_variables(running))
    return running


@pytest.fixture
def old_home(actor: Actor, home: Path) -> Iterator[Path]:
    """As the version before left it: one role, a superuser, whose password is the one that Valkey has."""
    old = home.with_name("old")
    begun = actor.do(stack.start, old, durable=False)
    password = urlsplit(begun.redis_url).password
    query(begun.owner_url, "CREATE TABLE kept AS SELECT 1")
    query(begun.owner_url, "DROP ROLE tokvigil_app")
    query(begun.owner_url, f"ALTER ROLE tokvigil PASSWORD '{password}'")
    state = json.loads((old / "stack.json").read_text())
    del state["owner_password"]
    (old / "stack.json").write_text(json.dumps(state))
    (old / "postgres" / ROLES_FILE).unlink()
    yield old
    stack.delete(old)


def _variables(running: Stack) -> dict[str, str]:
    return {"DATABASE_URL": running.database_url, "REDIS_URL": running.redis_url}


def _migrate(running: Stack) -> None:
    owner = {"MIGRATION_DATABASE_URL": running.owner_url}
    manage("migrate", "--verbosity", "0", variables=_variables(running) | owner)


def test_the_applications_role_is_no_superuser(running: Stack) -> None:
    assert query(running.database_url, "SELECT current_user") == "tokvigil_app"
    assert query(running.database_url, RIGHTS) is False
    memberships = "SELECT count(*) FROM pg_auth_members"
    assert query(running.database_url, f"{memberships} WHERE member = current_user::regrole") == 0


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_application_cannot_reach_what_is_in_the_audit_log(running: Stack, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=DENIED):
        query(running.database_url, statement)


def test_the_application_cannot_drop_its_database(running: Stack) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=DENIED):
        query(f"{running.database_url.rpartition('/')[0]}/postgres", "DROP DATABASE tokvigil")


def test_a_head_cannot_be_turned_back(running: Stack) -> None:
    with pytest.raises(psycopg.Error, match="append-only"):
        query(running.database_url, "UPDATE audit_chainhead SET seq = 0")


def test_the_product_works_with_what_its_role_may_do(running: Stack) -> None:
    manage("create_tenant", "second", variables=_variables(running))
    manage("partition_usage", "--months", "7", variables=_variables(running))
    assert manage("verify_audit", variables=_variables(running)).startswith("ok: 2 entries, 2 chains")


def test_migrating_as_the_application_says_what_is_missing(running: Stack) -> None:
    variables = _variables(running) | {"MIGRATION_DATABASE_URL": ""}
    with pytest.raises(AssertionError, match="MIGRATION_DATABASE_URL"):
        manage("migrate", variables=variables)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_home_of_the_older_layout_is_brought_over(actor: Actor, old_home: Path, stopped: bool) -> None:
    password = json.loads((old_home / "stack.json").read_text())["password"]
    if stopped:
        actor.do(stack.stop, old_home)

    running = actor.do(stack.start, old_home, durable=False)

    assert query(running.owner_url, "SELECT * FROM kept") == 1
    assert query(running.database_url, RIGHTS) is False
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(
            running.owner_url.replace(urlsplit(running.owner_url).password or "", quote(password)), "SELECT 1"
        )
    _migrate(running)
    assert manage("verify_audit", variables=_variables(running)).startswith("ok: 0 entries")
    again = actor.do(stack.start, old_home, durable=False)
    assert again == running


def test_a_bringing_over_that_was_interrupted_is_done_again(actor: Actor, running: Stack) -> None:
    (running.home / "postgres" / ROLES_FILE).unlink()
    assert actor.do(stack.start, running.home, durable=False) == running
    assert query(running.database_url, "SELECT count(*) > 0 FROM audit_entry") is True
    assert query(running.owner_url, "SELECT 1") == 1
