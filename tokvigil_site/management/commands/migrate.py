from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import transaction

from audit import roles


class Command(migrate.Command):
    """Django's, run as the owner of the tables. Gives the application's role its rights anew afterwards."""

    def handle(self, *args: Any, **options: Any) -> None:
        with roles.as_owner():
            if not (options["plan"] or options["check_unapplied"] or roles.can_create()):
                raise CommandError(
                    "The role of DATABASE_URL may not create tables: name the one that owns them in "
                    "MIGRATION_DATABASE_URL (see docs/configuration.md)."
                )
            super().handle(*args, **options)
            with transaction.atomic():
                roles.grant()
