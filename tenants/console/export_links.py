"""Where the tables of a page are had as files."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from tenants.console import environments
from tenants.exporting import Format
from tenants.models import Environment

FORMATS = (Format.CSV, Format.JSON)


def of_table(page: str, environment: Environment, table: str, **asked: Any) -> list[tuple[str, str]]:
    """The name of each format, and its address at this page with what is asked of it."""
    query = {environments.PARAMETER: str(environment), **asked, "table": table}
    return [
        (kind.upper(), f"{reverse(f'admin:{page}')}?{urlencode({**query, 'format': kind.value}, doseq=True)}")
        for kind in FORMATS
    ]
