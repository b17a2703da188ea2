"""What a limit can count. The one table that Python, SQL and Lua are written from.

Counters keep a field for each letter, the ledger a column for each name in `columns`, `Amounts` a field of that name,
and a reason code ends in `code`. The Lua scripts, the ledger's rows and rollups, and the answers that list amounts
follow from a row here. docs/counting.md says what else a new metric needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Metric(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    COST_USD = "cost_usd"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    metric: Metric
    # In the counter store.
    letter: str
    # Columns of the ledger, and fields of `Amounts`, whose sum it is.
    columns: tuple[str, ...]
    # For people: "Daily <noun> of 50<unit>".
    noun: str
    unit: str = ""
    # Of one that stands in COUNTS: what is held of it, as the API describes it.
    held: str = ""
    # Of reason codes: DAILY_<code>_EXCEEDED. None: it counts calls in flight, which have no window.
    code: str | None


# In the order in which they speak when several limits of one window are exceeded. New counted ones come last: versions
# that serve side by side share amounts by position (usage/counting/prelude.lua).
METRICS: dict[Metric, MetricRow] = {
    row.metric: row
    for row in (
        MetricRow(
            metric=Metric.REQUESTS,
            letter="r",
            columns=("requests",),
            noun="request limit",
            held="Calls; always 1.",
            code="REQUEST_LIMIT",
        ),
        MetricRow(
            metric=Metric.TOKENS,
            letter="t",
            columns=("input_tokens", "output_tokens"),
            noun="token limit",
            code="TOKEN_LIMIT",
        ),
        MetricRow(
            metric=Metric.INPUT_TOKENS,
            letter="i",
            columns=("input_tokens",),
            noun="input token limit",
            held="Tokens of the prompt.",
            code="TOKEN_LIMIT",
        ),
        MetricRow(
            metric=Metric.OUTPUT_TOKENS,
            letter="o",
            columns=("output_tokens",),
            noun="output token limit",
            held="Tokens the answer may need.",
            code="TOKEN_LIMIT",
        ),
        MetricRow(
            metric=Metric.COST_USD,
            letter="c",
            columns=("cost_nano",),
            noun="budget",
            unit=" USD",
            code="BUDGET",
        ),
        MetricRow(
            metric=Metric.CONCURRENCY,
            letter="k",
            columns=("requests",),
            noun="concurrency limit",
            code=None,
        ),
    )
}
ORDER = {metric: place for place, metric in enumerate(METRICS)}
WINDOWED = tuple(row for row in METRICS.values() if row.code is not None)
# The metrics that counters and the ledger keep an amount of; the other windowed ones are sums of these.
COUNTED = tuple(row for row in WINDOWED if len(row.columns) == 1)
COLUMNS = tuple(row.columns[0] for row in COUNTED)
LETTERS = tuple(row.letter for row in COUNTED)
# All but the cost, which the ledger does not know of each call, and which answers say in USD.
COUNTS = {row.columns[0]: row for row in COUNTED if row.metric is not Metric.COST_USD}
# Parts of the tokens, with rates of their own. The ledger has a column for each too; no limit counts them.
TOKEN_PARTS = ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens")


def sql_sums(prefix: str = "") -> str:
    """The sums of all counted columns, in their order, each 0 where there is no row. `prefix`: `event.`"""
    return ", ".join(f"coalesce(sum({prefix}{column}), 0)::bigint" for column in COLUMNS)


def lua_tables() -> str:
    """What `counting/prelude.lua` says of them. Written out, for a script makes its tables anew at each call."""
    letter_of = {row.columns[0]: row.letter for row in COUNTED}
    used, held = [f"u{letter}" for letter in LETTERS], [f"h{letter}" for letter in LETTERS]
    fields = ["born", "cold", *used, *held]
    places = {field: place for place, field in enumerate(fields, start=1)}
    tables = {
        "COUNTED": _lua_list(LETTERS),
        "PARTS": _lua_map(
            {row.letter: _lua_list([letter_of[column] for column in row.columns]) for row in WINDOWED}
        ),
        "FIELDS": _lua_list(fields),
        "BORN": places["born"],
        "COLD": places["cold"],
        "USED": _lua_map(dict(zip(LETTERS, map(repr, used), strict=True))),
        "HELD": _lua_map(dict(zip(LETTERS, map(repr, held), strict=True))),
        "USED_PLACE": _lua_map({letter: places[f"u{letter}"] for letter in LETTERS}),
        "HELD_PLACE": _lua_map({letter: places[f"h{letter}"] for letter in LETTERS}),
    }
    return "".join(f"local {name} = {value}\n" for name, value in tables.items())


def _lua_list(texts: Sequence[str]) -> str:
    return f"{{ {', '.join(map(repr, texts))} }}"


def _lua_map(values: Mapping[str, object]) -> str:
    return f"{{ {', '.join(f'{name} = {value}' for name, value in values.items())} }}"
