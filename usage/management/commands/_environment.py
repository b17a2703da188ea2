"""Commands that work on one environment, or on all."""

from argparse import ArgumentParser

from django.core.management.base import CommandError

from tenants.models import Environment


def add_argument(parser: ArgumentParser) -> None:
    parser.add_argument("environment", nargs="?", metavar="TENANT/ENV", help="all environments if left out")


def chosen(path: str | None) -> list[Environment]:
    if path is None:
        return list(Environment.objects.select_related("tenant").order_by("tenant__slug", "slug"))
    try:
        return [Environment.named(path)]
    except Environment.DoesNotExist as error:
        raise CommandError(f"There is no environment {path!r}; make one with create_tenant.") from error
