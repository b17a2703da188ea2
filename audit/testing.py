"""For the root conftest: `pytest_plugins = ["audit.testing"]`."""

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

TRUNCATE_TRIGGERS = {
    "audit_entry": "audit_entry_no_truncate",
    "audit_chainhead": "audit_chainhead_no_truncate",
}


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """Lets Django empty the test database after a transactional test, which takes a TRUNCATE."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for table, trigger in TRUNCATE_TRIGGERS.items():
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
