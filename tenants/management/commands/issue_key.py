from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from tenants.models import ApiKey, Environment
from tenants.scopes import PRESETS


class Command(BaseCommand):
    help = "Issue an API key; prints the key, and nothing else, on stdout. It cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="TENANT/ENV")
        parser.add_argument("--name", required=True)
        parser.add_argument("--preset", choices=PRESETS, default="server")
        parser.add_argument("--requests-per-minute", type=int)

    def handle(
        self,
        *_args: Any,
        environment: str,
        name: str,
        preset: str,
        requests_per_minute: int | None,
        **_options: Any,
    ) -> None:
        try:
            _, text = ApiKey.issue(
                Environment.named(environment), name, PRESETS[preset], requests_per_minute=requests_per_minute
            )
        except Environment.DoesNotExist as error:
            raise CommandError(
                f"There is no environment {environment!r}; make one with create_tenant."
            ) from error
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        self.stdout.write(text)
