from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from policies.files.policy_file import dump
from policies.policy_rows import policy_set
from tenants.management import environments


class Command(BaseCommand):
    help = "Print the policies in force in an environment as a policy file, which apply_policies takes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_argument(parser)

    def handle(self, *_args: Any, environment: str, **_options: Any) -> None:
        self.stdout.write(dump(policy_set(environments.named(environment))), ending="")
