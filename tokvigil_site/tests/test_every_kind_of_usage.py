"""Calls that are billed for more than text, from the question to the page: one cost everywhere."""

from __future__ import annotations

import csv
import html
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, limits
from tokvigil_site.tests.callers import assert_problem
from usage.ledger import rollups
from usage.models import ModelPrice, UsageEvent
from usage.quantities import MAPPED
from usage.tests.rolling import roll_all

RATES = {
    "input_per_million": "4",
    "output_per_million": "16",
    "cached_input_per_million": "0.4",
    "cache_write_per_million": "5",
    "other_rates": {
        "cache_write_1h_tokens": "8",
        "input_audio_tokens": "32",
        "output_audio_tokens": "64",
        "web_searches": "10",
    },
    "service_tiers": {
        "priority": {
            "input_tokens": "8",
            "output_tokens": "32",
            "input_audio_tokens": "60",
            "cache_write_1h_tokens": "16",
        }
    },
    "regions": {"us": "1.1"},
}
SPOKEN: dict[str, Any] = {
    "input_tokens": 10_000,
    "output_tokens": 1_000,
    "quantities": {"input_audio_tokens": 900, "cache_write_1h_tokens": 2_000, "web_searches": 2},
    "service_tier": "priority",
}
# 7,100 x 8 + 900 x 60 + 2,000 x 16 + 1,000 x 32 millionths, and two searches at a cent.
SPOKEN_USD = "0.1948"


@pytest.fixture
def superuser() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture(autouse=True)
def _price(db: None) -> None:
    ModelPrice.objects.create(
        provider="openai",
        model="speaker",
        effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        source="test",
        **RATES,
    )


def report(api: Api, request_id: str = "r1", status: int = 201, **fields: Any) -> dict[str, Any]:
    answer = api.report(
        request_id, user="anna", model="speaker", **{"input_tokens": 10, "output_tokens": 5, **fields}
    )
    assert answer.status == status, answer
    receipt: dict[str, Any] = answer.json
    return receipt


def test_one_call_costs_the_same_in_its_receipt_its_event_and_the_summary(api: Api) -> None:
    receipt = report(api, **SPOKEN)
    assert (receipt["cost_usd"], receipt["priced"], receipt["unpriced"]) == (SPOKEN_USD, True, [])
    (event,) = api.get("/v1/usage").json["events"]
    assert event["cost_usd"] == SPOKEN_USD
    assert event["quantities"] == SPOKEN["quantities"]
    assert event["service_tier"] == "priority"
    assert api.get("/v1/usage/summary?group_by=model").json["total"]["cost_usd"] == SPOKEN_USD
    assert report(api, status=200, **SPOKEN)["cost_usd"] == SPOKEN_USD


@pytest.mark.parametrize("rolled_up", [False, True])
def test_a_call_with_audio_searches_and_an_hour_of_cache_costs_the_same_wherever_it_is_shown(
    api: Api, environment: Environment, superuser: Client, rolled_up: bool
) -> None:
    """From the question before it, as the priority tier serves it, to the files and pages."""
    assert SPOKEN["service_tier"] == "priority"
    asked = {"input_tokens": 10_000, "max_output_tokens": 1_000, "quantities": SPOKEN["quantities"]}
    decision = api.evaluate(
        user="anna", model="speaker", request_id="r1", feature="chat", service_tier="priority", **asked
    )
    # Of text it is not known beforehand what will be written to a cache: the dearest is held.
    assert Decimal(decision["estimated_cost_usd"]) >= Decimal(SPOKEN_USD)
    assert report(api, feature="chat", **SPOKEN)["cost_usd"] == SPOKEN_USD
    if rolled_up:
        roll_all(environment.pk)

    found = api.get("/v1/usage/summary?group_by=model,feature").json
    for row in (found["total"], *found["groups"]):
        assert (row["cost_usd"], row["quantities"]) == (SPOKEN_USD, SPOKEN["quantities"])

    month = f"{datetime.now(ZoneInfo(environment.tenant.timezone)):%Y-%m}"
    for row in (*calls_csv(api), *explorer_csv(superuser, environment)):
        assert Decimal(row["cost_usd"]) == Decimal(SPOKEN_USD)
    (event,), (explored,) = calls_csv(api), explorer_csv(superuser, environment)
    assert json.loads(event["quantities"]) == SPOKEN["quantities"]
    assert {name: int(explored[name]) for name in SPOKEN["quantities"]} == SPOKEN["quantities"]

    out = StringIO()
    call_command("export_focus", str(environment), "--month", month, stdout=out, stderr=StringIO())
    (focus,) = csv.DictReader(out.getvalue().splitlines())
    assert {Decimal(focus[name]) for name in ("BilledCost", "EffectiveCost")} == {Decimal(SPOKEN_USD)}
    columns = {"x_InputAudioTokens": "900", "x_CacheWrite1hTokens": "2000", "x_WebSearches": "2"}
    assert {name: focus[name] for name in columns} == columns
    assert (focus["ConsumedQuantity"], focus["ConsumedUnit"]) == ("11000.0", "Tokens")

    report_csv = StringIO()
    call_command("month_report", str(environment), "--month", month, stdout=report_csv, stderr=StringIO())
    # A minute after the first call that used any.
    assert ("quantity,web_searches,,,,,,,,,,2,0" in report_csv.getvalue()) is rolled_up

    here = {"environment": str(environment), "period": "today", "by": "feature"}
    spent = superuser.get("/admin/explorer/", here).context["total"]
    assert spent.in_full == f"${SPOKEN_USD}"
    for name, number in SPOKEN["quantities"].items():
        shown = superuser.get("/admin/explorer/", {**here, "show": name}).context
        assert (shown["total"].amount, shown["total"].spent) == (f"{number:,}", "$0.19")


def calls_csv(api: Api) -> list[dict[str, str]]:
    client = Client(headers={"authorization": f"Bearer {api.text}"})
    answer = client.get("/v1/usage?format=csv")
    lines = b"".join(answer.streaming_content).decode().splitlines()  # type: ignore[attr-defined]
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def explorer_csv(client: Client, environment: Environment) -> list[dict[str, str]]:
    asked = {"environment": str(environment), "period": "today", "by": "model", "step": "none"}
    answer = client.get("/admin/explorer/export/", {**asked, "format": "csv"})
    lines = b"".join(answer.streaming_content).decode().splitlines()  # type: ignore[attr-defined]
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_the_command_explains_it_line_by_line(api: Api) -> None:
    given = ["input_tokens=10000", "output_tokens=1000"]
    given += [f"{name}={number}" for name, number in SPOKEN["quantities"].items()]
    out = StringIO()
    call_command("price", "speaker", *given, "--service-tier=priority", stdout=out)
    assert "input: 7,100 x 8.00 / 1,000,000 = 0.0568" in out.getvalue()
    assert "input audio: 900 x 60.00 / 1,000,000 = 0.054" in out.getvalue()
    assert "web searches: 2 x 10.00 / 1,000 = 0.02" in out.getvalue()
    assert f"sum: {SPOKEN_USD} USD" in out.getvalue()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-model"], "no price"),
        (["speaker", "web_searches"], "is no quantity"),
        (["speaker", "searches=2"], "searches is not known"),
        (["speaker", "--at=yesterday"], "is no time"),
        (["speaker", "--tenant=nobody"], "no tenant nobody"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        call_command("price", *arguments, stdout=StringIO())


def test_what_has_no_rate_is_named_and_counted_as_unpriced(api: Api, environment: Environment) -> None:
    receipt = report(api, input_tokens=1_000, quantities={"input_image_tokens": 400, "file_searches": 3})
    assert receipt["cost_usd"] == "0.00248"
    assert not receipt["priced"]
    assert receipt["unpriced"] == ["input_image_tokens", "file_searches"]
    again = report(
        api, status=200, input_tokens=1_000, quantities={"file_searches": 3, "input_image_tokens": 400}
    )
    assert again["unpriced"] == receipt["unpriced"]
    rollups.roll(environment.pk)
    now = datetime.now(UTC)
    totals = api.get(f"/v1/usage/summary?from={(now - timedelta(days=1)):%Y-%m-%dT%H:%M:%SZ}").json["total"]
    assert totals["unpriced"] == 1


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"quantities": {"audio": 1}}, "quantities.audio", "unknown"),
        ({"quantities": {"web_searches": -1}}, "quantities.web_searches", "0"),
        ({"quantities": {"web_searches": 1.5}}, "quantities.web_searches", "int"),
        ({"quantities": {"input_audio_tokens": 11}}, "quantities.input_audio_tokens", "must not exceed"),
        ({"service_tier": "turbo"}, "service_tier", "turbo"),
        ({"service_tier": "flex", "batch": True}, "service_tier", "send one of them"),
    ],
)
def test_what_cannot_be_is_refused_by_name(api: Api, fields: dict[str, Any], field: str, said: str) -> None:
    body = {"request_id": "r", "user_id": "anna", "model": "speaker", "input_tokens": 10, "output_tokens": 5}
    answer = api.post("/v1/usage", body | fields)
    assert_problem(answer, 422, "VALIDATION_ERROR", field=field)
    assert said in str(answer.json["errors"]), answer


class TestHeld:
    def hold(self, api: Api, **fields: Any) -> Decimal:
        answer = api.evaluate(
            user="anna", model="speaker", input_tokens=1_000, max_output_tokens=100, **fields
        )
        assert answer["allowed"], answer
        return Decimal(answer["estimated_cost_usd"])

    def test_a_call_that_says_nothing_is_held_at_the_dearest_kind(self, api: Api) -> None:
        assert self.hold(api) == Decimal("0.0384")

    def test_a_call_of_text_alone_is_held_as_text(self, api: Api) -> None:
        assert self.hold(api, quantities={}) == Decimal("0.0066")

    def test_what_is_announced_is_held_at_its_own_rate(self, api: Api) -> None:
        held = self.hold(api, quantities={"input_audio_tokens": 500, "web_searches": 3})
        assert held == Decimal("0.0066") + Decimal("0.0135") + Decimal("0.03")

    def test_the_tier_and_the_region_that_are_asked_for_are_held(self, api: Api) -> None:
        assert self.hold(api, quantities={}, service_tier="priority", region="us") == Decimal("0.01232")

    def test_a_report_that_does_not_say_how_it_was_served_was_served_as_asked(self, api: Api) -> None:
        api.evaluate(user="anna", model="speaker", request_id="asked", quantities={}, service_tier="priority")
        assert report(api, "asked", input_tokens=1_000, output_tokens=0)["cost_usd"] == "0.008"

    def test_what_has_no_rate_is_blocked_before_the_call(self, api: Api, environment: Environment) -> None:
        row = "{metric: requests, window: day, amount: 5, per: user}"
        apply_policies(environment, limits(row).replace("unknown_price: allow", "unknown_price: block"))
        answer = api.evaluate(user="anna", model="speaker", quantities={"file_searches": 1})
        assert (answer["allowed"], answer["reason_code"]) == (False, "PRICE_UNKNOWN")
        assert "file searches" in answer["message"]


def test_a_partly_priced_model_stands_on_the_pages_of_prices_until_it_has_the_rate(
    api: Api, environment: Environment, superuser: Client
) -> None:
    report(api, quantities={"file_searches": 3})
    shown = superuser.get(f"/admin/usage/modelprice/?environment={environment}").content.decode()
    assert "Partly priced" in shown
    assert "partly priced" in superuser.get("/admin/usage/usageevent/").content.decode()
    assert "no rate for file searches" in shown
    assert "no rate for file searches" in superuser.get("/admin/health/").content.decode()
    price = ModelPrice.objects.get(model="speaker")
    price.other_rates = {**price.other_rates, "file_searches": "2.5"}
    price.save()
    assert "Partly priced" not in superuser.get("/admin/usage/modelprice/").content.decode()


def test_a_tier_of_service_without_rates_is_named_on_the_pages_of_prices_until_it_has_them(
    api: Api, environment: Environment, superuser: Client
) -> None:
    report(api, "r1", service_tier="priority")
    report(api, "r2", service_tier="flex")
    assert "Partly priced" not in superuser.get("/admin/usage/modelprice/").content.decode()
    report(api, "r3", service_tier="fast")
    shown = superuser.get(f"/admin/usage/modelprice/?environment={environment}").content.decode()
    assert "no rate for calls served as fast" in shown
    assert "no rate for calls served as fast" in superuser.get("/admin/health/").content.decode()
    file = superuser.get(f"/admin/health/export/?table=unpriced&format=csv&environment={environment}")
    assert b"".join(file.streaming_content).decode().splitlines()[-1].endswith(",fast")  # type: ignore[attr-defined]
    price = ModelPrice.objects.get(model="speaker")
    price.service_tiers = {**price.service_tiers, "fast": {"input_tokens": "9"}}
    price.save()
    assert "Partly priced" not in superuser.get("/admin/usage/modelprice/").content.decode()


def test_the_page_of_a_call_shows_all_that_it_used_and_leads_to_its_arithmetic(
    api: Api, environment: Environment, superuser: Client
) -> None:
    report(api, requested_model="loudspeaker", **SPOKEN)
    event = UsageEvent.objects.get(environment=environment)
    shown = superuser.get(f"/admin/usage/usageevent/{event.pk}/change/").content.decode()
    for said in (
        "Of them audio in the prompt",
        "900",
        "Web searches",
        "as priority, asked for as loudspeaker",
        "$0.1948",
    ):
        assert said in shown, said
    (address,) = re.findall(r'href="([^"]+)">Work it out part by part', shown)
    assert "<b>0.1948</b>" in superuser.get(html.unescape(address)).content.decode()


def test_half_an_emoji_in_one_event_of_a_batch_spoils_no_other(api: Api, environment: Environment) -> None:
    event = '{"request_id": "%s", "user_id": "anna", "model": "speaker", "input_tokens": 10, "output_tokens": 5%s}'
    bad = event % ("bad", ', "metadata": {"t": "\\ud83d"}')
    answer = api.post("/v1/usage/batch", '{"events": [' + event % ("good", "") + ", " + bad + "]}")
    assert answer.status == 200, answer
    good, refused = answer.json["results"]
    assert (good["status"], good["request_id"]) == ("recorded", "good")
    assert (refused["status"], refused["index"], refused["request_id"]) == ("invalid", 1, "bad")
    assert UsageEvent.objects.filter(environment=environment).count() == 1


def test_a_batch_of_another_kind_is_refused_unread(api: Api, environment: Environment) -> None:
    event = (
        '{"request_id": "r", "user_id": "anna", "model": "speaker", "input_tokens": 1, "output_tokens": 1}'
    )
    client = Client(headers={"authorization": f"Bearer {api.text}"})
    for body, kind, status in (
        (f'{{"events": [{event}]}}', "text/plain", 415),
        (f'{{"events": [{event}]}}' + " " * 2**20, "application/json", 413),
    ):
        answer = client.generic("POST", "/v1/usage/batch", body, content_type=kind)
        assert answer.status_code == status, answer.content
    assert not UsageEvent.objects.filter(environment=environment).exists()


def test_every_name_is_in_the_docs() -> None:
    docs = (Path(__file__).parents[2] / "docs/quantities.md").read_text()
    assert not [name for name in MAPPED if f"`{name}`" not in docs]
