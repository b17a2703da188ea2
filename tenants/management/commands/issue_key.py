from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from audit.log import acting_as
from tenants.management import environments
from tenants.models import ApiKey
from tenants.scopes import PRESETS

ACTOR = "cli:issue_key"


class Command(BaseCommand):
    help = "Issue an API key; prints the key, and nothing else, on stdout. It cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        environments.add_argument(parser)
        parser.add_argument(
            "--name", required=True, help="tells this key from others, in the admin and the log"
        )
        parser.add_argument(
            "--preset",
            choices=PRESETS,
            default="server",
            help="; ".join(f"{preset}: {', '.join(scopes)}" for preset, scopes in PRESETS.items()),
        )
        parser.add_argument("--requests-per-minute", type=int, help="as often as it likes if left out")

    def handle(
        self,
        *_args: Any,
        environment: str,
        name: str,
        preset: str,
        requests_per_minute: int | None,
        **_options: Any,
    ) -> None:
        target = environments.named(environment)
        try:
            with acting_as(ACTOR):
                _, text = ApiKey.issue(target, name, PRESETS[preset], requests_per_minute=requests_per_minute)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        self.stdout.write(text)
