"""What stands above the form of a price: its rates in words, its history, and what a call costs by it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from tenants.console import environments
from tenants.console.access import may
from tenants.models import Environment
from tenants.roles import May
from usage.admin.price_list import add_url, usd
from usage.amounts import TOKENS_MAX
from usage.money import TOKENS_PER_RATE, format_usd
from usage.prices import stored_book
from usage.prices.cost import UNDATED, Charge, TokenUse, charges, cost_nano
from usage.prices.models import ModelPrice
from usage.prices.tiers import RATE_FIELDS

HISTORY_MAX = 50


class CallForm(forms.Form):
    """A call whose cost is asked for. Its fields are those of TokenUse, and when it is made."""

    input_tokens = forms.IntegerField(min_value=0, max_value=TOKENS_MAX)
    output_tokens = forms.IntegerField(min_value=0, max_value=TOKENS_MAX)
    cached_input_tokens = forms.IntegerField(min_value=0, max_value=TOKENS_MAX, required=False)
    cache_write_tokens = forms.IntegerField(min_value=0, max_value=TOKENS_MAX, required=False)
    reasoning_tokens = forms.IntegerField(min_value=0, max_value=TOKENS_MAX, required=False)
    at = forms.DateTimeField(
        label="At", required=False, widget=forms.DateTimeInput({"type": "datetime-local"}, "%Y-%m-%dT%H:%M")
    )
    batch = forms.BooleanField(label="Batch call", required=False)

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        if not self.errors:
            try:
                self.use = TokenUse(**{name: found[name] or 0 for name in TokenUse.__struct_fields__})
            except ValueError as error:
                raise forms.ValidationError(str(error)) from error
        return found


def context(request: HttpRequest, row: ModelPrice) -> dict[str, Any]:
    form = CallForm(request.GET if "input_tokens" in request.GET else None)
    environment = environments.shown(request)
    rates = [(name, getattr(row, name)) for name in RATE_FIELDS]
    return {
        "price": row,
        "rates": [(_words(name), f"${rate.normalize():f}") for name, rate in rates if rate is not None],
        "tiers": row.tiers,
        "always": row.effective_from == UNDATED,
        "history": _history(row, environment),
        "call_form": form,
        "call": _call(row, environment, form) if form.is_valid() else None,
        "override_url": _override_url(request, row, environment),
    }


def _words(name: str) -> str:
    return name.removesuffix("_per_million").replace("_", " ").capitalize()


def _history(row: ModelPrice, environment: Environment | None) -> list[ModelPrice]:
    """Of the same model: rows for all, and those of the tenant that the console shows, or whose the price is."""
    tenants = {row.tenant_id, None if environment is None else environment.tenant_id}
    whose = Q(tenant=None) | Q(tenant_id__in=[each for each in tenants if each is not None])
    rows = ModelPrice.objects.filter(whose, provider=row.provider, model=row.model)
    return list(rows.order_by("-effective_from", "tenant_id")[:HISTORY_MAX])


def _call(row: ModelPrice, environment: Environment | None, form: CallForm) -> dict[str, Any]:
    """As a report of it would be charged. `found` is empty if the model had no price then."""
    at: datetime = form.cleaned_data["at"] or timezone.now()
    tenant_id = row.tenant_id or (None if environment is None else environment.tenant_id)
    match = stored_book.load(tenant_id).find(row.model, at, row.provider)
    if match is None:
        return {"at": at, "found": None}
    batch = form.cleaned_data["batch"]
    parts = [_part(charge) for charge in charges(match.price, form.use, batch=batch) if charge.tokens]
    cost = cost_nano(match.price, form.use, batch=batch)
    return {"at": at, "found": match.price, "kind": match.kind, "parts": parts, "sum": format_usd(cost)}


def _part(charge: Charge) -> dict[str, str]:
    whole, rest = divmod(charge.product, TOKENS_PER_RATE)
    costs = format_usd(whole) if not rest else f"{format_usd(whole)}…"
    return {"name": charge.part, "tokens": f"{charge.tokens:,}", "rate": usd(charge.rate), "costs": costs}


def _override_url(request: HttpRequest, row: ModelPrice, environment: Environment | None) -> str | None:
    """Where the shown tenant gets a price of its own from now on, filled in with this one."""
    if environment is None or not may(request, May.EDIT_PRICES, environment.tenant_id):
        return None
    given = {
        name: f"{rate.normalize():f}" for name in RATE_FIELDS if (rate := getattr(row, name)) is not None
    }
    return add_url(environment, provider=row.provider, model=row.model, source="override", **given)
