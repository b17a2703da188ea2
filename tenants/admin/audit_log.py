"""The audit log, read only: who changed what, from where, and whether the chain is whole."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.urls import path
from django.utils import timezone
from django.utils.text import slugify

from audit import chain, wording
from audit.log import action_label
from audit.models import ChainHead, Entry, chain_name
from tenants import audit_export
from tenants.console import audit_entries, audit_filters, environments
from tenants.console.access import is_superuser, may, tenants_where
from tenants.console.audit_filters import AuditFilters
from tenants.console.pages import refuse_unknown, rendered
from tenants.console.rows import ReadOnlyAdmin
from tenants.exporting import Format, download
from tenants.models import Tenant
from tenants.roles import May

ENTRIES_OF_A_PAGE = 50
# A longer chain takes longer than a page may: `verify_audit` walks it.
ENTRIES_CHECKED_MAX = 20_000
CHAINS_CHECKED_MAX = 100
_OLDER_THAN = "before"
_OTHERS = {_OLDER_THAN, environments.PARAMETER}


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    to_see = May.SEE_AUDIT
    tenant_lookup = "tenant_id"

    def tenant_id_of(self, obj: Any) -> int | None:
        tenant_id: int | None = obj.tenant_id
        return tenant_id

    def get_queryset(self, request: HttpRequest) -> QuerySet[Entry]:
        return audit_entries.visible(request)

    def get_urls(self) -> list[Any]:
        wrap = self.admin_site.admin_view
        return [
            path("check/", wrap(self.check_view), name="audit_entry_check"),
            path("export/", wrap(self.export_view), name="audit_entry_export"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self._refuse_strangers(request)
        visible = self.get_queryset(request)
        filters = _filters(request, visible)
        entries = filters.applied_to(visible)
        before = request.GET.get(_OLDER_THAN, "")
        if before.isascii() and before.isdecimal() and len(before) < 19:
            entries = entries.filter(pk__lt=int(before))
        found = list(entries[: ENTRIES_OF_A_PAGE + 1])
        shown = found[:ENTRIES_OF_A_PAGE]
        return rendered(
            request,
            "console/audit/list.html",
            "Audit log",
            filters=filters,
            only_shown=_only_shown(request, filters),
            rows=audit_entries.rows(shown),
            older=shown[-1].pk if len(found) > ENTRIES_OF_A_PAGE else None,
            is_later_page=bool(before),
            altered=[entry for entry in shown if chain.is_altered(entry)],
        )

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        entry = self.get_object(request, object_id)
        if entry is None:
            raise Http404("There is no such entry, or it is not of your tenants.")
        (row,) = audit_entries.rows([entry])
        return rendered(
            request,
            "console/audit/entry.html",
            f"Entry {entry.seq}",
            row=row,
            entry=entry,
            action=action_label(entry.action),
            kind=wording.kind(entry.target_type),
            differences=[
                ("Before and after", wording.difference(entry)),
                ("As in a policy file", wording.file_difference(entry)),
            ],
            facts=wording.facts(entry),
            whose=_whose(entry.tenant_id),
            flaw=chain.flaw_of(entry),
            is_first=entry.seq == 1,
        )

    def check_view(self, request: HttpRequest) -> HttpResponse:
        """Walks the chains that the person may see."""
        self._refuse_strangers(request)
        heads = ChainHead.objects.order_by("tenant_id")
        if not is_superuser(request):
            heads = heads.filter(tenant_id__in=tenants_where(request, May.SEE_AUDIT))
        lengths = dict(heads.values_list("tenant_id", "seq")[:CHAINS_CHECKED_MAX])
        short = [tenant_id for tenant_id, length in lengths.items() if length <= ENTRIES_CHECKED_MAX]
        return rendered(
            request,
            "console/audit/check.html",
            "Is the audit log whole?",
            verdicts=[(_whose(each.tenant_id), each) for each in chain.verify_chains(short)],
            too_long=[(_whose(each), lengths[each]) for each in lengths if each not in short],
        )

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """What the filters find, of one chain, so that its own entry stands where those do that it is about."""
        self._refuse_strangers(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        visible = self.get_queryset(request)
        filters = _filters(request, visible)
        of_chain = visible.filter(audit_filters.of_chain(filters.one_chain or ""))
        first = of_chain.first()
        form = request.POST.get("format", "")
        if first is None or form not in list(Format) or not filters.is_valid():
            raise BadRequest("Choose a tenant, a format and filters that can be read.")
        whose, zone = _whose(first.tenant_id), timezone.get_current_timezone()
        assert isinstance(zone, ZoneInfo)
        lines = audit_export.export(
            filters.applied_to(of_chain),
            Format(form),
            tenant_id=first.tenant_id,
            whose=whose,
            filters=filters.active,
            zone=zone,
        )
        return download(Format(form), f"audit-{slugify(whose)}-{timezone.localdate()}", lines)

    def _refuse_strangers(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied


def _whose(tenant_id: int | None) -> str:
    """Deleted tenants are named by their id."""
    tenant = None if tenant_id is None else Tenant.objects.filter(pk=tenant_id).first()
    return chain_name(tenant_id) if tenant is None else tenant.slug


def _only_shown(request: HttpRequest, filters: AuditFilters) -> str:
    """The query of the same entries of the shown environment alone; "" if the person may not see them."""
    shown = environments.shown(request)
    if shown is None or not may(request, May.SEE_AUDIT, shown.tenant_id):
        return ""
    return filters.query_of_place(str(shown))


def _filters(request: HttpRequest, entries: QuerySet[Entry]) -> AuditFilters:
    """Raises BadRequest for parameters of an address that this page does not have."""
    refuse_unknown(request.GET, {*AuditFilters.base_fields, *_OTHERS}, page="The audit log")
    return AuditFilters(request, entries)
