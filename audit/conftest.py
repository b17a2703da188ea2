import pytest

from audit import log as audit_log
from audit.testing import django_db_setup

__all__ = ["django_db_setup"]


@pytest.fixture(autouse=True)
def registered_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actions these tests use; gone again after each."""
    monkeypatch.setattr(audit_log, "_labels", {})
    audit_log.register_action("user.renamed", "User renamed")
    audit_log.register_action("user.removed", "User removed")
