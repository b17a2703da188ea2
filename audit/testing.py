"""For the root conftest: `pytest_plugins = ["audit.testing"]`."""

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.db import connection
from pytest_django import DjangoDbBlocker

from audit import roles

TRUNCATE_TRIGGERS = {
    "audit_entry": "audit_entry_no_truncate",
    "audit_chainhead": "audit_chainhead_no_truncate",
}


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> None:
    """Before the test database is made: that, as its migrations, is up to the owner."""
    roles.log_in(settings.DATABASE_OWNER)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Has the tests be the application, but for one thing: Django empties the tables after a transactional test."""
    role = connection.ops.quote_name(settings.DATABASE_APPLICATION["USER"])
    with django_db_blocker.unblock():
        roles.log_in(settings.DATABASE_OWNER)
        with connection.cursor() as cursor:
            cursor.execute(f"GRANT TRUNCATE ON ALL TABLES IN SCHEMA public TO {role}")
            for table, trigger in TRUNCATE_TRIGGERS.items():
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
        roles.log_in(settings.DATABASE_APPLICATION)
    yield
    with django_db_blocker.unblock():
        roles.log_in(settings.DATABASE_OWNER)
