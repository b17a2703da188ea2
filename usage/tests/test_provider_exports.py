"""The exports of providers, in the form in which they publish them; what is malformed is refused by its name."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from usage.analytics.provider_exports.lines import Export, Line, Refused
from usage.analytics.provider_exports.reading import read

FIRST, SECOND = date(2026, 11, 1), date(2026, 11, 2)
# 2026-11-01 and the days after it, in seconds.
START, DAY_S = 1793491200, 86400


def page(*buckets: dict[str, Any], **more: Any) -> bytes:
    return json.dumps(
        {"object": "page", "data": buckets, "has_more": False, "next_page": None, **more}
    ).encode()


def openai_bucket(*results: dict[str, Any], day: int = 0, **more: Any) -> dict[str, Any]:
    start = START + day * DAY_S
    return {"object": "bucket", "start_time": start, "end_time": start + DAY_S, "results": results, **more}


def completions(**fields: Any) -> dict[str, Any]:
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": 1000,
        "output_tokens": 500,
        "input_cached_tokens": 800,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "num_model_requests": 5,
        "project_id": None,
        "user_id": None,
        "api_key_id": None,
        "model": "gpt-4o-2024-08-06",
        "batch": None,
        "service_tier": None,
        **fields,
    }


def cost(value: Any, line_item: str | None, currency: str = "usd") -> dict[str, Any]:
    return {
        "object": "organization.costs.result",
        "amount": {"value": value, "currency": currency},
        "line_item": line_item,
        "project_id": None,
    }


def anthropic_bucket(*results: dict[str, Any], day: int = 1) -> dict[str, Any]:
    return {
        "starting_at": f"2026-11-{day:02}T00:00:00Z",
        "ending_at": f"2026-11-{day + 1:02}T00:00:00Z",
        "results": results,
    }


def messages(**fields: Any) -> dict[str, Any]:
    return {
        "uncached_input_tokens": 1500,
        "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
        "cache_read_input_tokens": 200,
        "output_tokens": 700,
        "server_tool_use": {"web_search_requests": 10},
        "api_key_id": None,
        "workspace_id": None,
        "model": "claude-sonnet-4-5-20250929",
        "service_tier": "standard",
        "context_window": "0-200k",
        **fields,
    }


def spent(amount: Any, **fields: Any) -> dict[str, Any]:
    return {
        "currency": "USD",
        "amount": amount,
        "workspace_id": None,
        "description": "Claude Sonnet 4.5 Usage - Input Tokens",
        "cost_type": "tokens",
        "context_window": "0-200k",
        "model": "claude-sonnet-4-5-20250929",
        "service_tier": "standard",
        "token_type": "uncached_input_tokens",
        **fields,
    }


def table(*rows: str) -> bytes:
    return "\r\n".join([*rows, ""]).encode("utf-8-sig")


def only(found: Export) -> Line:
    (line,) = found.lines
    return line


class TestOpenAI:
    def test_usage_of_the_api(self) -> None:
        found = read(page(openai_bucket(completions(batch=True)), openai_bucket(day=1)))
        line = only(found)
        assert (found.kind, {*found.days}, [*found.unknown]) == ("OpenAI's usage", {FIRST, SECOND}, [])
        assert (line.day, line.provider, line.names, line.tier) == (
            FIRST,
            "openai",
            ("gpt-4o-2024-08-06",),
            "batch",
        )
        assert line.cost is None
        assert line.used == {
            "requests": 5,
            "input_tokens": 1000,
            "output_tokens": 500,
            "cached_input_tokens": 800,
        }

    @pytest.mark.parametrize(
        ("fields", "tier"),
        [
            ({}, ""),
            ({"batch": False}, "default"),
            ({"batch": False, "service_tier": "priority"}, "priority"),
            ({"service_tier": "flex"}, "flex"),
        ],
    )
    def test_a_tier_is_only_what_the_file_says(self, fields: dict[str, Any], tier: str) -> None:
        assert only(read(page(openai_bucket(completions(**fields))))).tier == tier

    def test_costs_of_the_api_to_the_last_digit(self) -> None:
        content = page(
            openai_bucket(cost(0.1234567890123456, "gpt-4o-2024-08-06, input"), cost("0E-6176", None))
        ).replace(b"0.1234567890123456", b"0.12345678901234567890")
        named, unnamed = read(content).lines
        assert (named.names, named.cost) == (("gpt-4o-2024-08-06",), Decimal("0.12345678901234567890"))
        assert (unnamed.names, unnamed.cost) == ((), Decimal(0))

    def test_pages_in_a_list_and_a_page_that_is_not_the_last(self) -> None:
        pages = [json.loads(page(openai_bucket(completions(), day=day), has_more=day == 1)) for day in (0, 1)]
        found = read(json.dumps(pages).encode())
        assert [line.day for line in found.lines] == [FIRST, SECOND]
        assert "has_more" in found.notes[0]

    def test_usage_of_the_dashboard(self) -> None:
        found = read(
            table(
                "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,model,batch,"
                "service_tier,input_tokens,output_tokens,input_cached_tokens",
                f"{START},{START + DAY_S},2026-11-01T00:00:00+00:00,2026-11-02T00:00:00+00:00,proj_a,10.0,"
                "gpt-5-mini-2025-08-07,FALSE,default,59200.0,10646.0,5760.0",
                f"{START + DAY_S},{START + 2 * DAY_S},2026-11-02T00:00:00+00:00,2026-11-03T00:00:00+00:00,,,,,,,,",
            )
        )
        line = only(found)
        assert (line.names, line.tier, {*found.days}) == (
            ("gpt-5-mini-2025-08-07",),
            "default",
            {FIRST, SECOND},
        )
        assert line.used["input_tokens"] == 59200

    def test_costs_of_the_dashboard(self) -> None:
        found = read(
            table(
                "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,"
                "organization_id,organization_name,weather",
                f'{START},{START + DAY_S},,,0.8958740000000000,usd,"gpt-4o, output",,org-1,Personal,fair',
                f"{START + DAY_S},{START + 2 * DAY_S},,,,,,,,,",
            )
        )
        line = only(found)
        assert (line.names, line.cost) == (("gpt-4o",), Decimal("0.895874"))
        assert found.unknown == ("weather",)

    @pytest.mark.parametrize(
        ("bucket", "said"),
        [
            (
                openai_bucket(completions(input_tokens="many")),
                "data[0].results[0], input_tokens: 'many' is no count",
            ),
            (
                openai_bucket(completions(output_tokens=-1)),
                "data[0].results[0], output_tokens: '-1' is no count",
            ),
            (openai_bucket(completions(batch="maybe")), "data[0].results[0], batch"),
            (openai_bucket(cost("much", None)), "data[0].results[0], amount: 'much' is no amount"),
            (openai_bucket(cost(1, None, "eur")), "amount_currency: 'eur' cannot be compared"),
            (openai_bucket(cost(1, None), completions()), "usage and costs in one"),
            (openai_bucket(start_time="soon"), "data[0], start_time: 'soon' is no time"),
            (openai_bucket(end_time=START + 7 * DAY_S), "data[0]: the period from 2026-11-01T00:00Z"),
            ({**openai_bucket(), "results": 7}, "data[0]: `results`"),
        ],
    )
    def test_what_is_malformed_is_named(self, bucket: dict[str, Any], said: str) -> None:
        with pytest.raises(Refused) as refused:
            read(page(bucket))
        assert said in str(refused.value)


class TestAnthropic:
    def test_a_usage_report(self) -> None:
        found = read(page(anthropic_bucket(messages(mood="good")), anthropic_bucket(day=2)))
        line = only(found)
        assert (found.kind, {*found.days}, [*found.unknown]) == (
            "Anthropic's usage report",
            {FIRST, SECOND},
            ["mood"],
        )
        assert (line.provider, line.names, line.tier) == (
            "anthropic",
            ("claude-sonnet-4-5-20250929",),
            "default",
        )
        assert line.used == {
            "input_tokens": 3200,
            "output_tokens": 700,
            "cached_input_tokens": 200,
            "cache_write_tokens": 500,
            "cache_write_1h_tokens": 1000,
            "web_searches": 10,
        }

    @pytest.mark.parametrize(
        ("fields", "tier"),
        [
            ({"service_tier": "batch"}, "batch"),
            ({"service_tier": "priority_on_demand"}, "priority"),
            ({"speed": "fast"}, "fast"),
            ({"service_tier": None}, ""),
        ],
    )
    def test_tiers_have_our_names(self, fields: dict[str, Any], tier: str) -> None:
        assert only(read(page(anthropic_bucket(messages(**fields))))).tier == tier

    def test_a_cost_report_is_in_cents(self) -> None:
        search = spent("500", model=None, cost_type="web_search", token_type=None, service_tier=None)
        found = read(page(anthropic_bucket(spent("123.78912"), search)))
        tokens, searches = found.lines
        assert (found.kind, tokens.cost) == ("Anthropic's cost report", Decimal("1.2378912"))
        assert (searches.names, searches.cost) == ((), Decimal(5))
        assert "Priority Tier" in found.notes[0]

    @pytest.mark.parametrize(
        ("result", "said"),
        [
            (spent("1,5"), "data[0].results[0], amount: '1,5' is no amount"),
            (spent("1", currency="EUR"), "data[0].results[0], currency"),
            (messages(cache_creation=5), "data[0].results[0], cache_creation is no object"),
            (messages(output_tokens=0.5), "data[0].results[0], output_tokens: '0.5' is no count"),
            ({"model": "claude-sonnet-4-5"}, "neither an amount nor uncached_input_tokens"),
        ],
    )
    def test_what_is_malformed_is_named(self, result: dict[str, Any], said: str) -> None:
        with pytest.raises(Refused) as refused:
            read(page(anthropic_bucket(result)))
        assert said in str(refused.value)


FOCUS = (
    "BilledCost,BillingCurrency,ChargeCategory,ChargePeriodStart,ChargePeriodEnd,ConsumedQuantity,ConsumedUnit,"
    "EffectiveCost,ProviderName,ResourceId,ResourceName,ServiceCategory,ServiceName,SkuId"
)
HOUR = "2026-11-01T13:00:00Z,2026-11-01T14:00:00Z"


class TestFocus:
    def test_bedrock_of_aws(self) -> None:
        found = read(
            table(
                f"{FOCUS},x_UsageType,x_Operation",
                f"1.25,USD,Usage,{HOUR},250,1K tokens,1.2,AWS,"
                "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0,,"
                "AI and Machine Learning,Amazon Bedrock,ABC,USE1-Claude4.5Sonnet-output-tokens-batch,Invoke",
                f"9,USD,Usage,{HOUR},24,Hours,9,AWS,i-1,,Compute,Amazon Elastic Compute Cloud,DEF,BoxUsage,Run",
                f"2,USD,Tax,{HOUR},,,2,AWS,,,AI and Machine Learning,Amazon Bedrock,,,",
            )
        )
        line = only(found)
        assert (found.kind, line.provider, line.tier) == ("a FOCUS file", "aws", "batch")
        assert line.names[0] == "use1-claude4.5sonnet"
        assert (
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0"
            in line.names
        )
        assert (line.cost, line.used) == (Decimal("1.25"), {"output_tokens": 250_000})
        assert found.unknown == ("x_Operation",)
        assert found.notes == (
            "Not compared: 9 USD of other services.",
            "Not compared: 2 USD of the category Tax.",
        )

    def test_openai_on_azure_whose_meter_names_the_model(self) -> None:
        found = read(
            table(
                f"{FOCUS},x_SkuMeterName,x_BilledCostInUsd",
                f"0.9,EUR,Usage,{HOUR},4,1M tokens,0.9,Microsoft,/subscriptions/1/accounts/mine,mine,"
                "AI and Machine Learning,Azure OpenAI,DZH,gpt 4o 0806 Inp glbl Tokens,1.05",
            )
        )
        line = only(found)
        assert (line.provider, line.cost) == ("azure", Decimal("1.05"))
        assert {"gpt-4o-0806", "gpt-4o"} <= {*line.names}
        assert line.used == {"input_tokens": 4_000_000}

    @pytest.mark.parametrize(
        ("columns", "cells", "name"),
        [
            ("x_SkuMeterName", "gpt-4o-mini-0718-Outp-regnl Tokens", "gpt-4o-mini"),
            ("x_SkuMeterName", "gpt-4.1 cached Inp Data Zone Tokens", "gpt-4.1"),
            ("x_UsageType", "USE1-NovaPro-cache-read-input-token-count", "use1-novapro"),
        ],
    )
    def test_a_meter_without_the_words_of_metering_is_the_model(
        self, columns: str, cells: str, name: str
    ) -> None:
        header = f"ChargePeriodStart,BilledCost,ProviderName,ServiceName,{columns}"
        line = only(read(table(header, f"2026-11-01,1,Microsoft,Azure OpenAI,{cells}")))
        assert name in line.names[:2]

    def test_a_service_of_which_each_model_is_one(self) -> None:
        header = "ChargePeriodStart,BilledCost,ProviderName,ServiceName,x_UsageType"
        row = "2026-11-01,1,AWS,Claude Sonnet 4.5 (Amazon Bedrock Edition),USE1-MP:USE1_InputTokenCount-Units"
        assert only(read(table(header, row))).names[0] == "claude-sonnet-4.5"

    def test_without_what_is_billed_the_effective_cost_counts(self) -> None:
        (header, row) = (
            "ChargePeriodStart,EffectiveCost,ProviderName,ServiceName",
            "2026-11-01,3.5,AWS,Amazon Bedrock",
        )
        assert only(read(table(header, row))).cost == Decimal("3.5")

    @pytest.mark.parametrize(
        ("header", "row", "said"),
        [
            (FOCUS, f"x,USD,Usage,{HOUR},,,1,AWS,,,,Amazon Bedrock,", "line 2, BilledCost: 'x' is no amount"),
            (FOCUS, f"1,EUR,Usage,{HOUR},,,1,AWS,,,,Amazon Bedrock,", "line 2, BillingCurrency: 'EUR'"),
            (
                FOCUS,
                "1,USD,Usage,now,,,,1,AWS,,,,Amazon Bedrock,",
                "line 2, ChargePeriodStart: 'now' is no time",
            ),
            (
                FOCUS,
                "1,USD,Usage,2026-11-01T00:00:00Z,2026-12-01T00:00:00Z,,,1,AWS,,,,Amazon Bedrock,",
                "line 2: the period from 2026-11-01T00:00Z to 2026-12-01T00:00Z is not inside one UTC day",
            ),
            (
                "ChargePeriodStart,ProviderName",
                "2026-11-01,AWS",
                "without the column BilledCost or EffectiveCost",
            ),
            (
                "ChargePeriodStart,BilledCost",
                "2026-11-01,1",
                "without the column ProviderName or ServiceName",
            ),
        ],
    )
    def test_what_is_malformed_is_named(self, header: str, row: str, said: str) -> None:
        with pytest.raises(Refused) as refused:
            read(table(header, row))
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08\x00", "no text in UTF-8"),
        (b"", "no columns"),
        (b"day,cost\n2026-11-01,1\n", "no provider that is known (day, cost)"),
        (b'{"data": 7}', "no `data` with a list of buckets"),
        (b'{"data": []}', "no buckets"),
        (b'{"data": [{"when": 1, "results": []}]}', "of no provider that is known (when)"),
        (b"{nonsense", "no JSON"),
        (table(FOCUS), "without a single day"),
    ],
)
def test_what_is_none_of_these_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Refused) as refused:
        read(content)
    assert said in str(refused.value)


def test_too_long_a_time_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        read(page(openai_bucket(), openai_bucket(day=100)))
    assert "covers 101 days; at most 100" in str(refused.value)
