"""What stands above the form of a price: its rates in words, its history, and what a call costs by it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django import forms
from django.db.models import Q
from django.http import HttpRequest, QueryDict
from django.utils import timezone

from tenants.console import environments
from tenants.console.access import may
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from tenants.roles import May
from usage.admin.price_list import add_url
from usage.prices import additions, arithmetic, genai, stored_book
from usage.prices.cost import UNDATED, Served, Use
from usage.prices.models import ModelPrice
from usage.prices.tiers import RATE_FIELDS
from usage.quantities import INPUT, MAPPED, OUTPUT, OWN_COLUMNS, QUANTITIES, ServiceTier, noun, per_words

HISTORY_MAX = 50

_TABLES = ("other_rates", "service_tiers", "regions", "tiers")


class CallForm(forms.Form):
    """A call whose cost is asked for: what it used, how it was served, and when. `quantities`: those to ask for."""

    at = forms.DateTimeField(
        label="At", required=False, widget=forms.DateTimeInput({"type": "datetime-local"}, "%Y-%m-%dT%H:%M")
    )
    service_tier = forms.ChoiceField(
        label="Service tier", required=False, choices=[(tier.value, tier.value) for tier in ServiceTier]
    )
    region = forms.CharField(label="Region", required=False, max_length=NAME_LENGTH_MAX)

    def __init__(self, data: QueryDict | None, quantities: Iterable[str]) -> None:
        super().__init__(data)
        self._mapped = tuple(quantities)
        for name in (*OWN_COLUMNS, *self._mapped):
            self.fields[name] = forms.IntegerField(
                label=noun(name).capitalize(),
                min_value=0,
                max_value=QUANTITIES[name].most,
                required=name in (INPUT, OUTPUT),
            )
        self.order_fields([*OWN_COLUMNS, *self._mapped])

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        if not self.errors:
            own = {name: found[name] or 0 for name in OWN_COLUMNS}
            mapped = {name: found[name] for name in self._mapped if found[name]}
            try:
                self.use = Use(**own, quantities=mapped)
            except ValueError as error:
                raise forms.ValidationError(str(error)) from error
            self.served = Served.of(found["service_tier"], found["region"])
        return found


def context(request: HttpRequest, row: ModelPrice) -> dict[str, Any]:
    form = CallForm(request.GET if INPUT in request.GET else None, _asked_for(request, row))
    environment = environments.shown(request)
    rates = [(name, getattr(row, name)) for name in RATE_FIELDS]
    return {
        "price": row,
        "rates": [(_words(name), f"${rate.normalize():f}") for name, rate in rates if rate is not None],
        "other_rates": [
            (noun(name).capitalize(), f"${rate} for {per_words(name)}")
            for name, rate in row.other_rates.items()
        ],
        "service_tiers": [
            (tier.capitalize(), ", ".join(f"{noun(name)} ${rate}" for name, rate in rates.items()))
            for tier, rates in row.service_tiers.items()
        ],
        "regions": row.regions.items(),
        "added_from": additions.sources(row.provider, row.model) if row.source in genai.SOURCES else [],
        "tiers": row.tiers,
        "always": row.effective_from == UNDATED,
        "history": _history(row, environment),
        "call_form": form,
        "call": _call(row, environment, form) if form.is_valid() else None,
        "override_url": _override_url(request, row, environment),
    }


def _asked_for(request: HttpRequest, row: ModelPrice) -> list[str]:
    """The quantities that it has a rate for, and those of the call that the address describes."""
    return [name for name in MAPPED if name in row.other_rates or name in request.GET]


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
    worked_out = arithmetic.of_call(match.price, form.use, form.served)
    return {
        "at": at,
        "found": match.price,
        "kind": match.kind,
        "worked_out": worked_out,
        "unpriced": ", ".join(map(noun, worked_out.unpriced)),
    }


def _override_url(request: HttpRequest, row: ModelPrice, environment: Environment | None) -> str | None:
    """Where the shown tenant gets a price of its own from now on, filled in with this one."""
    if environment is None or not may(request, May.EDIT_PRICES, environment.tenant_id):
        return None
    return add_url(environment, **filled_in(row))


def filled_in(row: ModelPrice) -> dict[str, str]:
    """The fields of a price of one's own that says the same, as an address has them."""
    given = {
        name: f"{rate.normalize():f}" for name in RATE_FIELDS if (rate := getattr(row, name)) is not None
    }
    tables = {name: json.dumps(stored) for name in _TABLES if (stored := getattr(row, name))}
    return {"provider": row.provider, "model": row.model, "source": "override", **given, **tables}
