"""Anthropic's usage and cost reports.

`GET /v1/organizations/usage_report/messages` and `GET /v1/organizations/cost_report`
(platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages, .../cost_report), and the newer
`/v1/organizations/analytics/usage` and `.../cost`, whose results have the same fields (types/beta/organization of the
anthropic package, `BetaAnalyticsUsageBucketedResult` and `BetaAnalyticsCostBucketedResult`).

Costs are decimal strings of cents: "123.45" is 1.2345 USD. They lack what the Priority Tier costs. What searches cost
names no model. Input is told in disjoint parts; ours is their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from usage.analytics.provider_exports.lines import (
    Export,
    Line,
    Refused,
    count,
    day_of,
    decimal,
    export,
    instant,
    usd_only,
)
from usage.analytics.provider_exports.pages import Bucket, whole

PROVIDER = "anthropic"
USAGE, COSTS = "Anthropic's usage report", "Anthropic's cost report"
CENTS = Decimal(100)
TIERS = {"standard": "default", "priority_on_demand": "priority", "flex_discount": "flex"}
_TOLD_APART_BY = {
    *("model", "service_tier", "speed", "context_window", "inference_geo", "workspace_id", "api_key_id"),
    *("account_id", "service_account_id", "product", "rbac_group_id", "requests", "slack_channel_id"),
    *("claude_tag_category", "claude_tag_user_id"),
}
_USAGE = {
    *_TOLD_APART_BY,
    *(
        "uncached_input_tokens",
        "cache_read_input_tokens",
        "cache_creation",
        "output_tokens",
        "server_tool_use",
    ),
}
_COSTS = {*_TOLD_APART_BY, "amount", "list_amount", "currency", "cost_type", "description", "token_type"}


def is_bucket(bucket: Bucket) -> bool:
    return "starting_at" in bucket.fields


def of_buckets(found: Sequence[Bucket], notes: Iterable[str]) -> Export:
    """Raises Refused."""
    results = [result for bucket in found for result in bucket.results]
    is_cost = any("amount" in result for result in results)
    known = _COSTS if is_cost else _USAGE
    days = [_day(bucket) for bucket in found]
    lines = [
        _line(result, day, f"{bucket.where}.results[{number}]", is_cost=is_cost)
        for bucket, day in zip(found, days, strict=True)
        for number, result in enumerate(bucket.results)
    ]
    unknown = {name for result in results for name in result} - known
    said = [*notes, "It does not have what the Priority Tier costs."] if is_cost else notes
    kind = COSTS if is_cost else USAGE
    return export(kind, lines, days, providers={PROVIDER}, unknown=unknown, notes=said)


def _day(bucket: Bucket) -> date:
    start = instant(bucket.fields["starting_at"], f"{bucket.where}, starting_at")
    ending = bucket.fields.get("ending_at")
    end = None if ending is None else instant(ending, f"{bucket.where}, ending_at")
    return day_of(start, end, bucket.where)


def _line(result: Mapping[str, Any], day: date, where: str, *, is_cost: bool) -> Line:
    model = result.get("model")
    names = (str(model),) if model else ()
    if is_cost:
        return Line(day=day, provider=PROVIDER, names=names, tier=_tier(result), cost=_cost(result, where))
    return Line(day=day, provider=PROVIDER, names=names, tier=_tier(result), used=_used(result, where))


def _cost(result: Mapping[str, Any], where: str) -> Decimal:
    usd_only(result.get("currency", "USD"), f"{where}, currency")
    return decimal(result.get("amount"), f"{where}, amount") / CENTS


def _used(result: Mapping[str, Any], where: str) -> dict[str, int]:
    if "uncached_input_tokens" not in result or "output_tokens" not in result:
        raise Refused(f"{where}: neither an amount nor uncached_input_tokens and output_tokens.")
    writes = whole(result.get("cache_creation"), f"{where}, cache_creation")
    tools = whole(result.get("server_tool_use"), f"{where}, server_tool_use")
    read = count(result.get("cache_read_input_tokens"), f"{where}, cache_read_input_tokens")
    for_5m = count(writes.get("ephemeral_5m_input_tokens"), f"{where}, ephemeral_5m_input_tokens")
    for_1h = count(writes.get("ephemeral_1h_input_tokens"), f"{where}, ephemeral_1h_input_tokens")
    uncached = count(result["uncached_input_tokens"], f"{where}, uncached_input_tokens")
    return {
        "input_tokens": uncached + read + for_5m + for_1h,
        "output_tokens": count(result["output_tokens"], f"{where}, output_tokens"),
        "cached_input_tokens": read,
        "cache_write_tokens": for_5m,
        "cache_write_1h_tokens": for_1h,
        "web_searches": count(tools.get("web_search_requests"), f"{where}, web_search_requests"),
    }


def _tier(result: Mapping[str, Any]) -> str:
    if result.get("speed") == "fast":
        return "fast"
    tier = str(result.get("service_tier") or "")
    return TIERS.get(tier, tier)
