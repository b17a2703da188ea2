"""The database roles: the owner of the tables, and the application's, which owns nothing.

Whoever owns a table can switch its triggers off, alter it and drop it. So migrations run as the owner, who is named by
MIGRATION_DATABASE_URL, and all else as the role of DATABASE_URL, which then has no more rights than `grant` gives it.
Where no owner is named the application owns its tables, as in any Django project; `weakness` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import connection

_GRANTS = """
    REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {role};
    GRANT USAGE ON SCHEMA {schema} TO {role};
    REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {role};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
    -- For the months of the ledger that are made between migrations.
    ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {role};
"""
# What the application does with the tables; with all others it does anything but TRUNCATE.
_RIGHTS = {
    "audit_entry": "SELECT, INSERT",
    "audit_chainhead": "SELECT, INSERT, UPDATE",
    "django_migrations": "SELECT",
}


@contextmanager
def as_owner() -> Iterator[None]:
    """Has this thread's connection log in as the owner, if one is named. Not inside a transaction."""
    log_in(settings.DATABASE_OWNER)
    try:
        yield
    finally:
        log_in(settings.DATABASE_APPLICATION)


def log_in(login: dict[str, str] | None) -> None:
    """To the same database with these settings (USER, PASSWORD, HOST, PORT) from now on; None changes nothing."""
    if login is not None and any(connection.settings_dict[name] != login[name] for name in login):
        connection.close()
        connection.settings_dict.update(login)


def grant() -> None:
    """As the owner: lets the application do what it needs with the tables there are, and nothing else."""
    if settings.DATABASE_OWNER is None:
        return
    role = connection.ops.quote_name(settings.DATABASE_APPLICATION["USER"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(pg_catalog.current_schema())")
        schema = cursor.fetchone()[0]
        cursor.execute(_GRANTS.format(schema=schema, role=role))
        for table, rights in _RIGHTS.items():
            cursor.execute(f"REVOKE ALL ON {schema}.{table} FROM {role}")
            cursor.execute(f"GRANT {rights} ON {schema}.{table} TO {role}")


def can_create() -> bool:
    """Whether the connection's role may make tables, as migrations do."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT has_schema_privilege(pg_catalog.current_schema(), 'CREATE')")
        return bool(cursor.fetchone()[0])


def weakness() -> str | None:
    """As the application: why SQL of this role could alter the audit log; None if it could not."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolsuper, pg_has_role(current_user, relowner, 'MEMBER'),"
            " pg_has_role(current_user, nspowner, 'MEMBER'), current_user"
            " FROM pg_roles, pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE rolname = current_user AND pg_class.oid = to_regclass('audit_entry')"
        )
        row = cursor.fetchone()
    if row is None:
        return None
    superuser, owns_table, owns_schema, role = row
    if superuser:
        return f"the role {role} is a superuser of PostgreSQL"
    if owns_table or owns_schema:
        return f"the role {role} owns the tables"
    return None
