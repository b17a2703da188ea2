"""The history of a row is the audit log, filtered to it. Django's own, of admin forms alone, is not written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse
from unfold.admin import ModelAdmin

from audit.models import Entry
from tenants.console import audit_entries
from tenants.console.pages import rendered

ENTRIES_MAX = 200


class HistoryIsTheAuditLog(ModelAdmin):
    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404("There is no such row, or it is not of your tenants.")
        if not self.has_view_or_change_permission(request, row):
            raise PermissionDenied
        others = self.governing(row)
        about = audit_entries.about([row, *others])
        entries = audit_entries.visible(request).filter(about)
        shown = list(entries[: ENTRIES_MAX + 1])
        # A shared price is changed by the installation's staff.
        hidden = Entry.objects.filter(about)
        return rendered(
            request,
            "console/audit/history.html",
            f"History of {row}",
            row=row,
            row_url=audit_entries.address_of(row),
            others=others,
            rows=audit_entries.rows(shown[:ENTRIES_MAX]),
            has_more=len(shown) > ENTRIES_MAX,
            has_hidden=hidden.exclude(pk__in=entries.values("pk")).exists(),
        )

    def governing(self, row: Any) -> Sequence[Model]:
        """What else says what the row means: its history has their changes too."""
        return ()

    def log_addition(self, *args: Any) -> None:  # type: ignore[override]
        """The audit log has it."""

    log_change = log_deletions = log_addition  # type: ignore[assignment]
