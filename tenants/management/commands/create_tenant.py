from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from tenants.models import DEFAULT_ENVIRONMENTS, Tenant


class Command(BaseCommand):
    help = "Create a tenant with the environments dev, staging and prod."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug")
        parser.add_argument("--name", default="")
        parser.add_argument("--timezone", default="UTC", help="decides when days, weeks and months begin")

    def handle(self, *_args: Any, slug: str, name: str, timezone: str, **_options: Any) -> None:
        try:
            tenant = Tenant.create_with_environments(slug, name=name, timezone=timezone)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        made = ", ".join(f"{tenant.slug}/{environment}" for environment in DEFAULT_ENVIRONMENTS)
        self.stdout.write(f"Created {made} in {tenant.timezone}.")
