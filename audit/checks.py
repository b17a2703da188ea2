"""`manage.py check --database default`, and `migrate`: is the audit log out of the application's reach?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, Warning, register

from audit import roles


@register(Tags.database)
def the_application_is_no_owner(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **_options: Any
) -> list[CheckMessage]:
    weakness = roles.weakness() if databases else None
    if weakness is None:
        return []
    return [
        Warning(
            f"SQL through the application can alter the audit log: {weakness}.",
            hint="Give the application a role of its own and name the owner of the tables in "
            "MIGRATION_DATABASE_URL; docs/audit.md says how.",
            id="audit.W001",
        )
    ]
