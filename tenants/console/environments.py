"""Which environment a list shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.functional import cached_property

from tenants.console.access import is_superuser, roles_of
from tenants.models import Environment

FILTER_CHOICES_MAX = 500


class EnvironmentFilter(admin.SimpleListFilter):
    """Filters by environment; offers those the member may see."""

    title = "environment"
    parameter_name = "environment"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        environments = Environment.objects.select_related("tenant")
        if not is_superuser(request):
            environments = environments.filter(tenant__in=list(roles_of(request)))
        return [(str(environment.pk), str(environment)) for environment in environments[:FILTER_CHOICES_MAX]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        offered = {value for value, _ in self.lookup_choices}
        return queryset.filter(environment_id=self.value()) if self.value() in offered else queryset


class OneEnvironmentFilter(EnvironmentFilter):
    """Always exactly one: large tables are indexed by environment.

    At first it is the one whose row heads the list's order, so of a ledger the one that was used last; while there
    are no rows a prod, if there is one.
    """

    def __init__(self, request: HttpRequest, params: Any, model: type[Model], model_admin: Any) -> None:
        self._first = model_admin.ordering[0]
        self._rows = model._default_manager.order_by(*model_admin.ordering)
        super().__init__(request, params, model, model_admin)

    def value(self) -> str | None:
        value = super().value()
        return value if value in {str(offered) for offered, _ in self.lookup_choices} else self._default

    @cached_property
    def _default(self) -> str | None:
        """One query, which reads an entry of an index for each environment."""
        offered = [str(value) for value, _ in self.lookup_choices]
        key = self._first.removeprefix("-")
        first = Subquery(self._rows.filter(environment=OuterRef("pk")).values(key)[:1])
        found = Environment.objects.filter(pk__in=offered).annotate(first=first).exclude(first=None)
        environment = found.order_by("-first" if self._first.startswith("-") else "first").first()
        if environment is not None:
            return str(environment.pk)
        prod = (str(value) for value, name in self.lookup_choices if str(name).endswith("/prod"))
        return next(prod, next(iter(offered), None))

    def choices(self, changelist: Any) -> Iterator[Any]:
        _all, *one_each = super().choices(changelist)
        yield from one_each

    def queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        return queryset.none() if self.value() is None else super().queryset(request, queryset)
