"""Prices in the console: what a tenant pays now, what it uses without a price, and how a call's cost comes about."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from html import unescape
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from policies.admin import reprice_page
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies, ledger, set_price
from tokvigil_site.tests.console.conftest import SignIn
from tokvigil_site.tests.filled_forms import fields_of
from usage.models import ModelPrice
from usage.prices import overrides
from usage.settling import repricing

pytestmark = pytest.mark.django_db(transaction=True)

LIST = reverse("admin:usage_modelprice_changelist")
ADD = reverse("admin:usage_modelprice_add")
PRICED_ALONE = (
    "policies:\n  - name: Everyone\n    limits: [{metric: requests, window: day, amount: 5, per: user}]\n"
)


def own_price(tenant: Tenant, model: str, **fields: Any) -> ModelPrice:
    given = {"provider": "openai", "effective_from": datetime(2026, 1, 1, tzinfo=UTC)}
    rates = {"input_per_million": "1.25", "output_per_million": "4"}
    return ModelPrice.objects.create(tenant=tenant, model=model, **(given | rates | fields))


def shown(client: Client, url: str = LIST, **asked: str) -> str:
    answer = client.get(url, asked)
    assert answer.status_code == 200
    return unescape(answer.content.decode())


@pytest.fixture
def api(prod: Environment) -> Api:
    return Api(prod)


def test_the_list_has_the_price_in_force_and_marks_the_tenants_own(
    mia: Client, acme: Tenant, other: Tenant
) -> None:
    set_price("gpt-4o", input_usd="2.5", output_usd="10")
    set_price("gpt-mini", input_usd="0.0375", output_usd="0.15")
    own_price(acme, "gpt-4o")
    own_price(other, "gpt-theirs")

    page = shown(mia)

    assert "Own price" in page
    # One row a model, in steady places.
    for cell in (">1.2500<", ">4.0000<", ">0.0375<", ">0.1500<", "2 models"):
        assert cell in page, cell
    assert "10.0000" not in page
    assert "gpt-theirs" not in page
    assert "gpt-theirs" not in shown(mia, q="theirs")


def test_models_are_searched_also_among_what_is_not_in_force(mia: Client, acme: Tenant) -> None:
    set_price("gpt-4o")
    set_price("claude", input_usd="3")
    own_price(acme, "gpt-4o-off", active=False)
    page = shown(mia, q="GPT")
    assert "claude" not in page
    assert "own, switched off" in page
    assert "own, switched off" not in shown(mia)


def test_models_in_use_without_a_price_stand_first(mia: Client, prod: Environment, api: Api) -> None:
    set_price("gpt-4o")
    assert api.report("r-1", "ana", "house-model", feature="chat").status == 201
    assert api.report("r-2", "ana", "house-model", feature="chat").status == 201
    apply_policies(prod, PRICED_ALONE)
    api.evaluate("ana", feature="search", model="gpt-new")

    page = shown(mia)

    assert page.index("In use without a price") < page.index("gpt-4o")
    assert "<bdi>chat</bdi>: 2 calls not in any sum of costs" in page
    assert "<bdi>search</bdi>: 1 call blocked" in page
    filled = f"{ADD}?environment=acme%2Fprod&tenant={prod.tenant_id}&model=gpt-new"
    assert f'href="{filled}"' in page
    form = mia.get(filled).context["adminform"].form
    assert form["model"].value() == "gpt-new"
    assert form["tenant"].value() == str(prod.tenant_id)
    # With a price it is done.
    own_price(prod.tenant, "gpt-new")
    assert ": 1 call blocked" not in shown(mia)


def test_the_list_costs_as_much_with_many_prices_as_with_few(mia: Client) -> None:
    set_price("gpt-0")
    shown(mia)
    with CaptureQueriesContext(connection) as few:
        shown(mia)
    for number in range(1, 130):
        set_price(f"gpt-{number}")
    shown(mia)
    with CaptureQueriesContext(connection) as many:
        page = shown(mia)
    assert len(many) == len(few)
    assert "130 models" in page
    assert "page=2" in page
    assert page.count("<tr>") - 1 == 100
    assert shown(mia, page="2").count("<tr>") - 1 == 30


def test_whatever_is_searched_is_answered(mia: Client) -> None:
    for text in ("<script>alert(1)</script>", "a\0b", "x" * 300, "%", "\u202e"):
        answer = mia.get(LIST, {"q": text})
        assert answer.status_code == 200
        assert b"<script>alert" not in answer.content
    assert mia.get(LIST, {"page": "x"}).status_code == 200


def test_a_price_says_its_rates_and_its_history(mia: Client, acme: Tenant, other: Tenant) -> None:
    shared = set_price("gpt-4o", input_usd="2.5", output_usd="10")
    own = own_price(acme, "gpt-4o", aliases=["house"], active=False)
    theirs = own_price(other, "gpt-4o")

    page = shown(mia, reverse("admin:usage_modelprice_change", args=[shared.pk]))

    assert "$2.5<" in page
    assert "shared by all tenants" in page
    assert f'href="{reverse("admin:usage_modelprice_change", args=[own.pk])}"' in page
    assert reverse("admin:usage_modelprice_change", args=[theirs.pk]) not in page
    assert "house" in shown(mia, reverse("admin:usage_modelprice_change", args=[own.pk]))


def test_what_a_call_costs_is_worked_out_part_by_part(mia: Client, acme: Tenant) -> None:
    shared = set_price("gpt-4o", input_usd="2.5", output_usd="10")
    own_price(acme, "gpt-4o", cached_input_per_million="0.1")
    url = reverse("admin:usage_modelprice_change", args=[shared.pk])
    call = {"input_tokens": "1000", "cached_input_tokens": "400", "output_tokens": "50", "batch": ""}

    before = shown(mia, url, at="2025-06-01T00:00", **call)
    for cell in (">600<", ">400<", ">2.50<", ">0.0015<", ">0.001<", ">0.0005<", "<b>0.003</b>"):
        assert cell in before, cell
    since = shown(mia, url, at="2026-06-01T00:00", **call)
    for cell in (">0.00075<", ">0.00004<", ">0.0002<", "<b>0.00099</b>", "tenant’s own"):
        assert cell in since, cell
    assert "must not exceed input_tokens" in shown(mia, url, **(call | {"input_tokens": "1"}))
    assert "had no price" in shown(mia, url, at="1999-01-01T00:00", **call)
    for odd in ("x", "-1", "9" * 40, "a\0"):
        assert mia.get(url, call | {"input_tokens": odd, "at": odd}).status_code == 200


def test_an_override_begins_with_what_is_in_force(mia: Client, acme: Tenant) -> None:
    shared = set_price("gpt-4o", input_usd="2.5", output_usd="10")
    page = shown(mia, reverse("admin:usage_modelprice_change", args=[shared.pk]))
    link = page.split("Override for")[0].rsplit('href="', 1)[1].split('"')[0]
    form = mia.get(link).context["adminform"].form
    assert form["tenant"].value() == str(acme.pk)
    assert (form["model"].value(), str(form["input_per_million"].value())) == ("gpt-4o", "2.5")


def rare_rates(page: str) -> str:
    return page.split("Rare rates")[1].split("</fieldset>")[0]


def test_rare_rates_are_folded_away_until_one_of_them_is_wrong(mia: Client, acme: Tenant) -> None:
    page = shown(mia, ADD)
    assert "<details><summary>" in page
    for name in ("reasoning_per_million", "batch_input_per_million", "tiers"):
        assert f'name="{name}"' in rare_rates(page)
    assert 'name="input_per_million"' not in rare_rates(page)

    refused = mia.post(ADD, {"tenant": acme.pk, "reasoning_per_million": "-1", "reason": "x"})
    assert "<details><summary>" not in refused.content.decode().split("<main")[1].split("<fieldset")[2]


def label_of_reason(page: str) -> str:
    return page.split('for="id_reason"')[1].split("</label>")[0]


def test_a_new_price_is_marked_to_need_a_reason_and_a_changed_one_is_not(mia: Client, acme: Tenant) -> None:
    change = reverse("admin:usage_modelprice_change", args=[own_price(acme, "gpt-4o").pk])
    assert ["*" in label_of_reason(shown(mia, url)) for url in (ADD, change)] == [True, False]


class TestOfAModelThatWasCalledWithout:
    def test_the_form_has_what_the_book_has_of_it_and_begins_with_the_month(
        self, mia: Client, prod: Environment
    ) -> None:
        shared = set_price("gpt-test-9", input_usd="1.25", output_usd="10")
        shared.other_rates = {"output_audio_tokens": "64"}
        shared.tiers = [{"above_input_tokens": 200000, "input": "2.5", "output": "15"}]
        shared.save()
        url = f"{ADD}?environment={prod}&model=gpt-test-9&provider=openai&source=override"
        fields = {name: values[0] for name, values in fields_of(shown(mia, url)).items() if values}

        assert (fields["input_per_million"], fields["output_per_million"]) == ("1.25", "10")
        assert "200000" in unescape(shown(mia, url))
        here = datetime.now(ZoneInfo(prod.tenant.timezone))
        assert (fields["effective_from_0"], fields["effective_from_1"]) == (f"{here:%Y-%m}-01", "00:00:00")

    def test_a_price_of_ones_own_cannot_leave_out_what_the_shared_one_charges(
        self, mia: Client, prod: Environment
    ) -> None:
        set_price("gpt-test-9", input_usd="1.25", output_usd="10")
        url = f"{ADD}?environment={prod}&model=gpt-test-9&provider=openai&source=override"
        fields = {name: values for name, values in fields_of(shown(mia, url)).items() if name[0] != "_"}
        rates = {"input_per_million": "", "output_per_million": "", "other_rates": '{"images": "2"}'}
        answer = mia.post(ADD, {**fields, **rates, "reason": "ours"})
        assert "The shared price has 1.25 for it" in unescape(answer.content.decode())
        assert not ModelPrice.objects.filter(tenant=prod.tenant).exists()


class TestRepricing:
    URL = reverse("admin:reprice")

    @pytest.fixture
    def late(self, api: Api, prod: Environment) -> ModelPrice:
        """Of a model that was called before it had a price."""
        assert (
            api.report("r-1", "ann", model="late-model", input_tokens=1000, output_tokens=100).status == 201
        )
        assert api.report("r-2", "ann", model="nowhere", input_tokens=1000, output_tokens=100).status == 201
        return set_price("late-model", input_usd="2", output_usd="10")

    def test_the_list_of_prices_leads_to_it(self, mia: Client, late: ModelPrice) -> None:
        assert f'href="{self.URL}?environment=acme' in shown(mia)

    def test_it_says_what_would_change_and_why_the_rest_stays(
        self, mia: Client, prod: Environment, late: ModelPrice
    ) -> None:
        page = shown(mia, self.URL)
        for cell in ("late-model", "$0.003000", "no price in the book for this name", "Re-price 1 call<"):
            assert cell in page, cell
        assert len(ledger(prod)) == 2, "nothing is changed by looking"

    def test_the_button_does_it_and_the_calls_page_says_so(
        self, mia: Client, prod: Environment, late: ModelPrice
    ) -> None:
        answer = mia.post(
            self.URL, {"environment": prod.pk, "month": f"{datetime.now(UTC):%Y-%m}"}, follow=True
        )
        assert "1 call re-priced: $0.003 in all." in answer.content.decode()
        call, adjustment = ledger(prod, request_id="r-1")
        assert adjustment.cost_nano == 3_000_000
        page = shown(mia, reverse("admin:usage_usageevent_change", args=[adjustment.pk]))
        for said in ("The call was re-priced", "Re-priced by mia", "no price", "$0.003", "openai/late-model"):
            assert said in page, said
        assert "it costs $0.003 now" in shown(mia, reverse("admin:usage_usageevent_change", args=[call.pk]))
        listed = shown(mia, reverse("admin:usage_usageevent_changelist"))
        assert "Re-priced" in listed
        assert "difference" in listed
        assert (
            "Nothing was re-priced"
            in mia.post(self.URL, {"environment": prod.pk}, follow=True).content.decode()
        )

    def sent(self, environment: Environment, page: str) -> dict[str, Any]:
        """What the button sends."""
        fields = fields_of(page)
        return {
            "environment": environment.pk,
            **{name: fields[name][0] for name in ("month", "changed", "difference_nano")},
        }

    def test_what_was_not_looked_at_is_not_done(
        self, mia: Client, prod: Environment, late: ModelPrice
    ) -> None:
        seen = self.sent(prod, shown(mia, self.URL))
        assert (seen["changed"], seen["difference_nano"]) == ("1", "3000000")
        late.input_per_million = Decimal(200)
        overrides.save(late, actor="a colleague")

        again = mia.post(self.URL, seen, follow=True).content.decode()
        assert "have changed since this page was opened" in again
        assert len(ledger(prod)) == 2
        seen = self.sent(prod, again)
        assert "1 call re-priced: $0.201 in all." in mia.post(self.URL, seen, follow=True).content.decode()

    def test_only_those_who_may_change_prices(
        self, sign_in: SignIn, acme: Tenant, prod: Environment, late: ModelPrice
    ) -> None:
        for role in (Role.VIEWER, Role.AUDITOR):
            client = sign_in(f"{role}-1", acme, role=role)
            assert client.get(self.URL).status_code in (403, 404)
            assert client.post(self.URL, {"environment": prod.pk}).status_code in (403, 404)
            assert "Re-price this" not in client.get(LIST).content.decode()
        assert len(ledger(prod)) == 2

    def test_a_month_that_is_closed_cannot_be_chosen(
        self, mia: Client, prod: Environment, late: ModelPrice
    ) -> None:
        answer = mia.post(self.URL, {"environment": prod.pk, "month": "2026-01"})
        assert answer.status_code == 200
        assert "2026-01 is not one of the available choices" in unescape(answer.content.decode())
        assert len(ledger(prod)) == 2

    def test_a_month_of_too_many_calls_is_left_to_the_command(
        self, mia: Client, late: ModelPrice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(repricing, "BATCH", 1)
        monkeypatch.setattr(reprice_page, "CALLS_MAX", 1)
        page = shown(mia, self.URL)
        assert "python manage.py reprice acme/prod --month" in page
        assert "Re-price 1 call" not in page
