from typing import Any

from django.contrib.auth.management.commands import createsuperuser

from audit.log import acting_as
from tenants.accounts import Account

ACTOR = "cli:createsuperuser"


class Command(createsuperuser.Command):
    """Django's, by way of the manager that audits it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.UserModel = Account

    def handle(self, *args: Any, **options: Any) -> None:
        with acting_as(ACTOR):
            super().handle(*args, **options)
