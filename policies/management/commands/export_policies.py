from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from policies.policy_file import dump
from policies.stored import policy_set
from tenants.models import Environment


class Command(BaseCommand):
    help = "Print the policies in force in an environment as a policy file, which apply_policies takes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="TENANT/ENV")

    def handle(self, *_args: Any, environment: str, **_options: Any) -> None:
        try:
            found = Environment.named(environment)
        except Environment.DoesNotExist as error:
            raise CommandError(
                f"There is no environment {environment!r}; make one with create_tenant."
            ) from error
        self.stdout.write(dump(policy_set(found)), ending="")
