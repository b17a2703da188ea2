"""OpenAI's usage and costs.

The API's answers: `GET /v1/organization/usage/completions` (embeddings and others likewise) and
`GET /v1/organization/costs` (platform.openai.com/docs/api-reference/usage; types/admin/organization of the openai
package, `UsageCompletionsResponse` and `UsageCostsResponse`). The files that the dashboard exports
(platform.openai.com/usage, "Export") are the same results as rows of CSV; numbers may end in `.0`, days without use
have empty cells, and a cost is `amount_value` with `amount_currency`.

A line of costs names the model before a comma: `gpt-4o-2024-08-06, input`. What it costs to have searched or stored
has a line of its own that names no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
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
    shown,
    usd_only,
)
from usage.analytics.provider_exports.pages import Bucket, whole

PROVIDER = "openai"
USAGE, COSTS = "OpenAI's usage", "OpenAI's costs"
# Theirs and ours.
COUNTED = {
    "num_model_requests": "requests",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "input_cached_tokens": "cached_input_tokens",
}
TIERS = {"default": "default", "auto": "default", "standard": "default", "scale": "default"}
# What else is known, and not compared.
NOT_COMPARED = {
    *("object", "project_id", "user_id", "api_key_id", "api_source", "quantity", "quantity_unit"),
    *("project_name", "user_name", "user_email", "api_key_name", "organization_id", "organization_name"),
    *("input_uncached_tokens", "input_text_tokens", "output_text_tokens", "input_cached_text_tokens"),
    *("input_audio_tokens", "input_cached_audio_tokens", "output_audio_tokens", "input_image_tokens"),
    *("input_cached_image_tokens", "output_image_tokens", "input_cache_write_tokens"),
    *("input_cache_write_30m_tokens", "input_cache_write_12h_tokens"),
    *("images", "source", "size", "characters", "seconds", "num_sessions", "num_requests", "context_level"),
}
_TIMES = {"start_time", "end_time", "start_time_iso", "end_time_iso"}
_USAGE = {*COUNTED, *NOT_COMPARED, "model", "batch", "service_tier"}
_COSTS = {*NOT_COMPARED, "amount", "amount_value", "amount_currency", "line_item"}


def is_bucket(bucket: Bucket) -> bool:
    return "start_time" in bucket.fields


def is_header(columns: Sequence[str]) -> bool:
    return bool({"start_time", "start_time_iso"} & {*columns}) and bool(
        {"amount_value", "num_model_requests"} & {*columns}
    )


def of_buckets(found: Sequence[Bucket], notes: Iterable[str]) -> Export:
    """Raises Refused."""
    results = [result for bucket in found for result in bucket.results]
    costs = [_is_cost(result) for result in results]
    if any(costs) and not all(costs):
        raise Refused("It has usage and costs in one: compare each by itself.")
    kind, known = (COSTS, _COSTS) if any(costs) else (USAGE, _USAGE)
    days = [_day(bucket.fields, bucket.where) for bucket in found]
    lines = [
        _line(result, day, f"{bucket.where}.results[{number}]", is_cost=any(costs))
        for bucket, day in zip(found, days, strict=True)
        for number, result in enumerate(bucket.results)
    ]
    unknown = {name for result in results for name in result} - known
    return export(kind, lines, days, providers={PROVIDER}, unknown=unknown, notes=notes)


def _is_cost(result: Mapping[str, Any]) -> bool:
    return "amount" in result or str(result.get("object", "")).startswith("organization.costs")


def of_rows(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> Export:
    """Raises Refused."""
    is_cost = "amount_value" in columns
    days: list[date] = []
    lines = list(_lines(rows, days, is_cost=is_cost))
    unknown = {*columns} - _TIMES - (_COSTS if is_cost else _USAGE)
    return export(COSTS if is_cost else USAGE, lines, days, providers={PROVIDER}, unknown=unknown)


def _lines(rows: Iterable[Mapping[str, str]], days: list[date], *, is_cost: bool) -> Iterator[Line]:
    for number, row in enumerate(rows, start=2):
        where = f"line {number}"
        day = _day(row, where)
        days.append(day)
        if is_cost and row.get("amount_value"):
            amount = {"value": row["amount_value"], "currency": row.get("amount_currency") or "usd"}
            yield _line({**row, "amount": amount}, day, where, is_cost=True)
        elif not is_cost and row.get("num_model_requests"):
            yield _line(row, day, where, is_cost=False)


def _day(fields: Mapping[str, Any], where: str) -> date:
    start = _time(fields, "start_time", where)
    if start is None:
        raise Refused(f"{where}, start_time: it is empty; expected a time.")
    return day_of(start, _time(fields, "end_time", where), where)


def _time(fields: Mapping[str, Any], name: str, where: str) -> datetime | None:
    value = fields.get(name) or fields.get(f"{name}_iso")
    return None if value in (None, "") else instant(value, f"{where}, {name}")


def _line(result: Mapping[str, Any], day: date, where: str, *, is_cost: bool) -> Line:
    if is_cost:
        amount = whole(result.get("amount"), f"{where}, amount")
        usd_only(amount.get("currency", "usd"), f"{where}, amount_currency")
        name = str(result.get("line_item") or "").partition(",")[0].strip()
        return Line(
            day=day,
            provider=PROVIDER,
            names=_names(name),
            cost=decimal(amount.get("value"), f"{where}, amount"),
        )
    return Line(
        day=day,
        provider=PROVIDER,
        names=_names(str(result.get("model") or "")),
        tier=_tier(result, where),
        used={
            ours: count(result[theirs], f"{where}, {theirs}")
            for theirs, ours in COUNTED.items()
            if theirs in result
        },
    )


def _names(name: str) -> tuple[str, ...]:
    return (name,) if name else ()


def _tier(result: Mapping[str, Any], where: str) -> str:
    given = result.get("batch")
    batch = "" if given is None else str(given).lower()
    if batch not in ("", "true", "false"):
        raise Refused(f"{where}, batch: {shown(result['batch'])} is neither true nor false.")
    tier = str(result.get("service_tier") or "").lower()
    if batch == "true":
        return "batch"
    return TIERS.get(tier, tier) or ("default" if batch else "")
