"""The triggers, which hold for everybody, the owner of the tables too; and what the application may not even try."""

from collections.abc import Callable, Iterator

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, ProgrammingError, connection, transaction

from audit import roles
from audit.log import log
from audit.models import ChainHead, Entry
from audit.testing import TRUNCATE_TRIGGERS


@pytest.fixture
def entry(transactional_db: None) -> Entry:
    with transaction.atomic():
        return log("user.renamed", User.objects.create(username="alice"), tenant_id=7, x=1)


@pytest.fixture
def owner(entry: Entry) -> Iterator[None]:
    with roles.as_owner():
        yield


FORBIDDEN = [
    "UPDATE audit_entry SET actor = 'somebody else'",
    "DELETE FROM audit_entry",
    "DELETE FROM audit_chainhead",
    "ALTER TABLE audit_entry DISABLE TRIGGER USER",
    "ALTER TABLE audit_entry DISABLE TRIGGER audit_entry_append_only",
    "ALTER TABLE audit_chainhead DISABLE TRIGGER ALL",
    "ALTER TABLE audit_entry DROP COLUMN actor",
    "ALTER TABLE audit_entry OWNER TO CURRENT_USER",
    "ALTER TABLE audit_entry RENAME TO gone",
    "CREATE TRIGGER mine BEFORE INSERT ON audit_entry FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "CREATE RULE mine AS ON INSERT TO audit_entry DO INSTEAD NOTHING",
    "DROP TRIGGER audit_entry_append_only ON audit_entry",
    "DROP TABLE audit_entry CASCADE",
    "DROP SCHEMA public CASCADE",
    "CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE TABLE planted (x int)",
    "CREATE FUNCTION planted() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA planted",
    "SET session_replication_role = replica",
    "SELECT set_config('session_replication_role', 'replica', false)",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER SET session_replication_role = replica",
    "SET ROLE tokvigil",
    "SET SESSION AUTHORIZATION tokvigil",
    "GRANT tokvigil TO CURRENT_USER",
    "UPDATE pg_trigger SET tgenabled = 'D'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('postgresql.conf')",
    "CREATE TRIGGER planted BEFORE INSERT ON usage_request FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "DELETE FROM django_migrations",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_sql_through_the_application_cannot_get_round_the_triggers(entry: Entry, statement: str) -> None:
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner|must be able"):
        connection.cursor().execute(statement)
    assert Entry.objects.get() == entry


def test_the_applications_role_is_weak_and_the_owners_is_named(entry: Entry) -> None:
    assert roles.weakness() is None
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication FROM pg_roles"
            " WHERE rolname = current_user"
        )
        assert cursor.fetchone() == (False, False, False, False, False)
    with roles.as_owner():
        assert roles.weakness() == "the role tokvigil is a superuser of PostgreSQL"


def test_rights_that_an_earlier_version_gave_away_are_taken_back(entry: Entry) -> None:
    with roles.as_owner(), transaction.atomic():
        role = settings.DATABASE_APPLICATION["USER"]
        with connection.cursor() as cursor:
            cursor.execute(f"GRANT ALL ON audit_entry TO {role}; GRANT CREATE ON SCHEMA public TO {role}")
            roles.grant()
            cursor.execute(
                "SELECT privilege_type FROM information_schema.role_table_grants"
                " WHERE table_name = 'audit_entry' AND grantee = %s ORDER BY 1",
                [role],
            )
            assert cursor.fetchall() == [("INSERT",), ("SELECT",)]
            cursor.execute("SELECT has_schema_privilege(%s, 'public', 'CREATE')", [role])
            assert cursor.fetchone() == (False,)
        transaction.set_rollback(True)


def refused(change: Callable[[], object]) -> bool:
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        change()
    return True


@pytest.mark.usefixtures("owner")
def test_an_entry_cannot_be_altered(entry: Entry) -> None:
    assert refused(lambda: Entry.objects.update(actor="somebody else"))
    assert refused(entry.save)
    assert Entry.objects.get().actor == "system"


@pytest.mark.usefixtures("owner")
def test_an_entry_cannot_be_deleted(entry: Entry) -> None:
    assert refused(Entry.objects.all().delete)
    assert Entry.objects.count() == 1


@pytest.mark.usefixtures("owner")
@pytest.mark.parametrize("table", TRUNCATE_TRIGGERS)
def test_the_tables_cannot_be_emptied(table: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER {TRUNCATE_TRIGGERS[table]}")
        assert refused(lambda: cursor.execute(f"TRUNCATE {table}"))
        transaction.set_rollback(True)


@pytest.mark.usefixtures("owner")
def test_a_head_only_moves_to_the_next_entry() -> None:
    heads = ChainHead.objects.all()
    assert refused(lambda: heads.update(seq=0))
    assert refused(lambda: heads.update(seq=3))
    assert refused(lambda: heads.update(hash="f" * 64))
    assert refused(lambda: heads.update(tenant_id=8, seq=2))
    assert refused(heads.delete)


@pytest.mark.parametrize("tenant_id", [7, None])
def test_a_place_in_a_chain_is_taken_once(entry: Entry, tenant_id: int | None) -> None:
    entry.tenant_id, entry.seq = tenant_id, 2
    entry.pk = entry.pk + 1
    entry.save(force_insert=True)
    entry.pk = entry.pk + 1
    with pytest.raises(IntegrityError, match="audit_entry_seq"), transaction.atomic():
        entry.save(force_insert=True)
