"""The audit log, read only. Members see the entries of their tenants."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from audit.log import action_label
from audit.models import ChainHead, Entry, chain_name
from tenants.console.access import is_superuser
from tenants.console.rows import ReadOnlyAdmin
from tenants.models import Tenant

FILTER_CHOICES_MAX = 100


class ActionFilter(admin.SimpleListFilter):
    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The entries that this page shows to the person who asks."""
        entries = model_admin.get_queryset(request)
        actions = entries.order_by("action").values_list("action", flat=True).distinct()
        return [(action, action_label(action)) for action in actions[:FILTER_CHOICES_MAX]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        return queryset.filter(action=self.value()) if self.value() else queryset


class ChainFilter(admin.SimpleListFilter):
    """Names all tenants: for superusers. Deleted tenants are named by their id."""

    title = "tenant"
    parameter_name = "chain"
    installation = "installation"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        ids = ChainHead.objects.order_by("tenant_id").values_list("tenant_id", flat=True)[:FILTER_CHOICES_MAX]
        slugs = dict(Tenant.objects.filter(pk__in=list(ids)).values_list("pk", "slug"))
        return [
            (self.installation, chain_name(None)) if id is None else (str(id), slugs.get(id, chain_name(id)))
            for id in ids
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Entry]) -> QuerySet[Entry]:
        value = self.value()
        if value == self.installation:
            return queryset.filter(tenant_id=None)
        if value and value.isdecimal() and len(value) < 19:
            return queryset.filter(tenant_id=int(value))
        return queryset


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    tenant_lookup = "tenant_id"
    list_display = ["at", "chain_name", "actor", "label", "target_type", "target_name"]
    list_filter = [ActionFilter, ChainFilter, "at"]
    search_fields = ["actor", "target_name", "=target_id"]
    search_help_text = "Who, the name of what was changed, or its exact id"
    show_full_result_count = False
    list_per_page = 50
    fieldsets = [
        (None, {"fields": ["at", "chain_name", "actor", "label", "target_type", "target_name", "target_id"]}),
        ("What changed", {"fields": ["details"]}),
        ("Its place in the chain", {"fields": ["seq", "prev_hash", "hash", "key_id"]}),
    ]
    readonly_fields = ["chain_name", "label", "details"]

    def tenant_id_of(self, obj: Any) -> int | None:
        tenant_id: int | None = obj.tenant_id
        return tenant_id

    def get_queryset(self, request: HttpRequest) -> QuerySet[Entry]:
        slug = Tenant.objects.filter(pk=OuterRef("tenant_id")).values("slug")
        entries: QuerySet[Entry] = super().get_queryset(request)
        return entries.annotate(tenant_slug=Subquery(slug))

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        return [each for each in self.list_filter if each is not ChainFilter or is_superuser(request)]

    @admin.display(description="action", ordering="action")
    def label(self, entry: Entry) -> str:
        return action_label(entry.action)

    @admin.display(description="tenant", ordering="tenant_id")
    def chain_name(self, entry: Any) -> str:
        return str(entry.tenant_slug or entry.chain_name)

    @admin.display(description="details")
    def details(self, entry: Entry) -> SafeString:
        """Line by line: diffs keep their lines, the rest is as in JSON."""
        return format_html_join(
            "",
            "<p>{}</p><pre>{}</pre>",
            ((name.replace("_", " "), _text(value)) for name, value in entry.data.items()),
        )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
