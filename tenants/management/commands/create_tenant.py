import shlex
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils.text import slugify

from audit.log import acting_as
from tenants.models import DEFAULT_ENVIRONMENTS, Tenant

ACTOR = "cli:create_tenant"


class Command(BaseCommand):
    help = "Create a tenant with the environments dev, staging and prod."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", help="what commands and addresses call it, such as acme")
        parser.add_argument(
            "--name", default="", help='as people call it, such as "Acme Inc"; the slug if left out'
        )
        parser.add_argument("--timezone", default="UTC", help="decides when days, weeks and months begin")

    def handle(self, *_args: Any, slug: str, name: str, timezone: str, **_options: Any) -> None:
        try:
            with acting_as(ACTOR):
                tenant = Tenant.create_with_environments(slug, name=name, timezone=timezone)
        except ValidationError as error:
            raise CommandError(_what_to_do(slug, error)) from error
        made = ", ".join(f"{tenant.slug}/{environment}" for environment in DEFAULT_ENVIRONMENTS)
        self.stdout.write(f"Created {made} in {tenant.timezone}.")


def _what_to_do(slug: str, error: ValidationError) -> str:
    """Django's messages are about form fields; these say what to type instead."""
    wrong = error.error_dict.get("slug", [])
    codes = {each.code for each in wrong}
    if "unique" in codes:
        return f"There is a tenant {slug!r} already: use it, or choose another slug."
    if "invalid" in codes:
        return (
            f"{slug!r} is no slug: write letters, digits, - and _ only, and the name people read with "
            f"--name: create_tenant {slugify(slug) or 'acme'} --name {shlex.quote(slug)}"
        )
    return "; ".join(error.messages)
