"""The TENANT/ENV that commands take."""

from __future__ import annotations

from argparse import ArgumentParser

from django.core.management.base import CommandError

from tenants.models import Environment, Tenant

METAVAR = "TENANT/ENV"


def add_argument(parser: ArgumentParser) -> None:
    parser.add_argument("environment", metavar=METAVAR, help="such as acme/prod")


def add_optional_argument(parser: ArgumentParser) -> None:
    parser.add_argument("environment", nargs="?", metavar=METAVAR, help="all environments if left out")


def named(path: str) -> Environment:
    """Raises CommandError, which says what there is instead."""
    try:
        return Environment.named(path)
    except Environment.DoesNotExist as error:
        raise CommandError(_instead_of(path)) from error


def named_or_all(path: str | None) -> list[Environment]:
    if path is None:
        return list(Environment.objects.select_related("tenant").order_by("tenant__slug", "slug"))
    return [named(path)]


def of_tenant_or_named(path: str) -> list[Environment]:
    """Of `acme` all its environments, of `acme/prod` the one. Raises CommandError."""
    if "/" in path:
        return [named(path)]
    found = list(Environment.objects.select_related("tenant").filter(tenant__slug=path).order_by("pk"))
    if not found:
        raise CommandError(f"There is no tenant {path!r}: make it with `create_tenant {path}`.")
    return found


def _instead_of(path: str) -> str:
    slug, slash, _ = path.partition("/")
    tenant = Tenant.objects.filter(slug=slug).first()
    # As they were made: dev, staging, prod.
    slugs = [] if tenant is None else tenant.environments.order_by("pk").values_list("slug", flat=True)
    has = f"; {slug} has {', '.join(slugs)}" if slugs else ""
    if not slash:
        return f"{path!r} names no environment: write {METAVAR}{has or ', such as acme/prod'}."
    return f"There is no environment {path!r}{has or f': make its tenant with `create_tenant {slug}`'}."
