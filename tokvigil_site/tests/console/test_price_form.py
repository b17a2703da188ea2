"""The form of a price: rates of other quantities, tiers of service and regions in rows, as a browser sends them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import Entry
from tenants.models import Tenant
from tokvigil_site.tests.filled_forms import fields_of, submit
from usage.models import ModelPrice

pytestmark = pytest.mark.django_db(transaction=True)

ADD = reverse("admin:usage_modelprice_add")
STORED: dict[str, Any] = {
    "other_rates": {"input_audio_tokens": "32", "web_searches": "10"},
    "service_tiers": {"priority": {"input_tokens": "8"}},
    "regions": {"us": "1.1"},
}
TYPED = {
    "provider": "openai",
    "model": "speaker",
    "input_per_million": "4",
    "output_per_million": "16",
    "reason": "Our contract",
    "other_rates-0-quantity": "input_audio_tokens",
    "other_rates-0-rate": "32",
    "other_rates-2-quantity": "web_searches",
    "other_rates-2-rate": " 10 ",
    "service_tiers-0-tier": "priority",
    "service_tiers-0-quantity": "input_tokens",
    "service_tiers-0-rate": "8",
    "regions-0-region": "US",
    "regions-0-factor": "1.1",
}


@pytest.fixture
def own(acme: Tenant) -> ModelPrice:
    return ModelPrice.objects.create(
        tenant=acme,
        provider="openai",
        model="speaker",
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
        input_per_million="4",
        output_per_million="16",
        **STORED,
    )


def change(price: ModelPrice) -> str:
    return reverse("admin:usage_modelprice_change", args=[price.pk])


def stored(price: ModelPrice) -> dict[str, Any]:
    price.refresh_from_db()
    return {name: getattr(price, name) for name in STORED}


def test_a_price_is_given_in_rows(mia: Client, acme: Tenant) -> None:
    submit(mia, ADD, **TYPED, tenant=str(acme.pk))
    assert stored(ModelPrice.objects.get(tenant=acme)) == STORED


def test_saving_what_was_opened_changes_nothing(mia: Client, own: ModelPrice) -> None:
    submit(mia, change(own))
    assert stored(own) == STORED
    assert not Entry.objects.filter(action="price.changed").exists()


def test_one_rate_is_changed_and_the_log_says_which(mia: Client, own: ModelPrice) -> None:
    submit(mia, change(own), **{"other_rates-1-rate": "12"})
    assert stored(own) == STORED | {"other_rates": {"input_audio_tokens": "32", "web_searches": "12"}}
    assert set(Entry.objects.get(action="price.changed").data["changes"]) == {"other_rates"}


def test_a_row_that_is_emptied_goes(mia: Client, own: ModelPrice) -> None:
    submit(mia, change(own), **{"regions-0-region": "", "regions-0-factor": ""})
    assert stored(own)["regions"] == {}


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(mia: Client, own: ModelPrice) -> None:
    opened = {
        name: value
        for name, value in fields_of(mia.get(change(own)).content.decode()).items()
        if name[0] != "_"
    }
    ModelPrice.objects.filter(pk=own.pk).update(regions={"us": "1.3"})
    assert mia.post(change(own), opened | {"other_rates-1-rate": "12"}).status_code == 302
    assert stored(own)["regions"] == {"us": "1.3"}
    answer = mia.post(change(own), opened | {"regions-0-factor": "1.2"})
    assert "Somebody else changed this" in answer.content.decode()
    assert stored(own)["regions"] == {"us": "1.3"}


def test_an_error_keeps_all_that_was_typed_and_saves_nothing(mia: Client, own: ModelPrice) -> None:
    opened = {
        name: value
        for name, value in fields_of(mia.get(change(own)).content.decode()).items()
        if name[0] != "_"
    }
    typed = {"other_rates-1-rate": "cheap", "service_tiers-1-tier": "fast", "service_tiers-1-rate": "9"}
    answer = mia.post(change(own), opened | typed)
    text = answer.content.decode()
    assert answer.status_code == 200
    assert "must be a decimal string" in text
    assert "Choose the quantity that the rate is of." in text
    kept = fields_of(text)
    assert [kept[name] for name in typed] == [["cheap"], ["fast"], ["9"]]
    assert stored(own) == STORED


def test_a_price_of_ones_own_begins_with_all_rates_of_the_shared_one(
    mia: Client, own: ModelPrice, acme: Tenant
) -> None:
    shared = ModelPrice.objects.get(pk=own.pk)
    shared.tenant = None
    shared.save()
    page = mia.get(change(shared), {"environment": "acme/prod"}).context["override_url"]
    fields = {
        name: value for name, value in fields_of(mia.get(page).content.decode()).items() if name[0] != "_"
    }
    assert mia.post(ADD, fields | {"reason": "Ours"}).status_code == 302
    assert stored(ModelPrice.objects.get(tenant=acme)) == STORED
