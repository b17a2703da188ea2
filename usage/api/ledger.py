"""`GET /v1/usage` and `GET /v1/usage/summary`: the ledger, to read."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.utils import timezone
from rest_framework.request import Request

from tenants import scopes
from tenants.api import http, queries
from tenants.api.openapi import operation
from usage.api.key_view import KeyView
from usage.api.usage import UsageView
from usage.ledger import listing, totals
from usage.ledger.listing import EventPage, EventQuery
from usage.ledger.totals import Summary, SummaryQuery


class LedgerView(UsageView):
    """One address, two scopes: a POST writes to the ledger, a GET reads it."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.scope = scopes.USAGE_WRITE if request.method == "POST" else scopes.USAGE_READ
        super().initial(request, *args, **kwargs)

    @operation(
        "listUsage",
        "The rows of the ledger, newest first",
        tag="usage",
        description="The next page is at `cursor=` the `next_cursor` of this one; null: there is none.",
        query=EventQuery,
        answers={200: EventPage},
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, EventQuery)
        return http.json_response(listing.page(self.environment_id, query))


class UsageSummaryView(KeyView):
    scope = scopes.USAGE_READ

    @operation(
        "summarizeUsage",
        "Totals by user, feature, model, plan and day",
        tag="usage",
        description="By default of this calendar month; days and months are those of the tenant's time zone.",
        query=SummaryQuery,
        answers={200: Summary},
    )
    def get(self, request: Request) -> HttpResponse:
        query = queries.decode(request._request, SummaryQuery)
        zone = self.counting.tracked.zone
        return http.json_response(totals.summarize(self.environment_id, query, timezone.now(), zone))
