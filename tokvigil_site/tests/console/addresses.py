"""Every address of the console, filled with the ids of one tenant's rows.

A new page is found by itself. If it takes something that is not known here, `filled` says what to add: a row in
rows_of_a_tenant.py, or a value in VALUES.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.urls import URLPattern, URLResolver, reverse
from django.urls.resolvers import RegexPattern
from django.utils.http import urlencode

Rows = Mapping[type[Model], Model]

ROOT = "/admin/"
# The id of the row of the model whose page it is.
OF_ITS_MODEL = {"object_id", "id", "pk"}
# What is no id of a row: of any address, or of the one that is named before it.
VALUES = {
    "app_label": "tenants",
    "content_type_id": "1",
    "view_on_site.object_id": "1",
    "uidb64": "MQ",
    "token": "t",
    "number": "1",
    "limit_subjects.metric": "requests",
    "limit_subjects.window": "day",
    "limit_subjects.per": "user",
}
# What an address needs in its query to answer.
QUERIES = {
    "autocomplete": {
        "term": "",
        "app_label": "policies",
        "model_name": "policy",
        "field_name": "environment",
    },
    "search": {"q": "a"},
}  # fmt: skip
_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


@dataclass(frozen=True)
class Address:
    """`url` is filled with a tenant's ids if it `takes_ids`."""

    name: str
    url: str
    takes_ids: bool


def filled(rows: Rows) -> list[Address]:
    """Raises AssertionError for one that nobody said how to fill."""
    return [_filled(name, route, parameters, rows) for name, route, parameters in _patterns()]


def _patterns() -> Iterator[tuple[str, str, list[str]]]:
    """The name, the route, and what it takes. The last one of the site catches what there is no page for."""
    yield from _inside(admin.site.get_urls()[:-1], "")


def _inside(patterns: list[Any], before: str) -> Iterator[tuple[str, str, list[str]]]:
    for each in patterns:
        if isinstance(each, URLResolver):
            yield from _inside(each.url_patterns, before + str(each.pattern))
            continue
        assert isinstance(each, URLPattern)
        route = before + str(each.pattern)
        if isinstance(each.pattern, RegexPattern):
            assert each.name, f"{route}: an address without a name must be a path()"
        yield each.name or f"to {route}", route, list(each.pattern.regex.groupindex)


def _filled(name: str, route: str, parameters: list[str], rows: Rows) -> Address:
    values = {parameter: _value(parameter, name, route, rows) for parameter in parameters}
    if route.startswith("^"):
        url = reverse(f"admin:{name}", kwargs=values)
    else:
        url = ROOT + _PARAMETER.sub(lambda found: values[found[1]], route)
    query = QUERIES.get(name)
    takes_ids = any(_known(parameter, name) is None for parameter in parameters)
    return Address(name, f"{url}?{urlencode(query)}" if query else url, takes_ids)


def _value(parameter: str, name: str, route: str, rows: Rows) -> str:
    if known := _known(parameter, name):
        return known
    models = {model._meta.label_lower: model for model in rows}
    if parameter in OF_ITS_MODEL:
        model = models.get(".".join(route.split("/")[:2]))
    else:
        # Such as `policy_id` or `end_user`.
        noun = parameter.removesuffix("_id").replace("_", "")
        model = next((each for each in rows if each._meta.model_name == noun), None)
    assert model is not None, f"{name} ({route}): what is {parameter}? Say it in {__name__}.VALUES."
    return str(rows[model].pk)


def _known(parameter: str, name: str) -> str | None:
    return VALUES.get(f"{name}.{parameter}") or VALUES.get(parameter)
