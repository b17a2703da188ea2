import getpass
from typing import Any

from django.contrib.auth.management.commands import changepassword
from django.contrib.auth.models import User
from django.db import transaction

from audit.log import acting_as
from tenants import accounts

ACTOR = "cli:changepassword"


class Command(changepassword.Command):
    """Django's, with an audit entry in the same transaction."""

    def handle(self, *args: Any, **options: Any) -> str | None:
        with acting_as(ACTOR), transaction.atomic():
            said = super().handle(*args, **options)
            username = options["username"] or getpass.getuser()
            accounts.log_password_changed(User.objects.get(username=username))
        return said
