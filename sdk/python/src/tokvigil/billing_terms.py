"""On which terms an answer was billed: its service tier and region, as served, and the cost that the provider says."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any

from tokvigil.checked import COST_CHARS_MAX, COST_USD_MAX, is_name
from tokvigil.json_values import decimal, is_true
from tokvigil.quantities import FORMS
from tokvigil.usage_forms import path, paths, value, values, word

# Not the caller's, which may raise.
_EXACT = Context(prec=60, traps=[])
_TIERS = FORMS["service_tiers"]
_TIERS_IN_ANSWER = paths(_TIERS["in_answer"])
_REGIONS = FORMS["regions"]
_COSTS = [{**cost, "path": path(cost["path"])} for cost in FORMS["reported_costs"]]


def service_tier(block: Mapping[str, Any], answer: Mapping[str, Any], doubts: list[str]) -> str | None:
    """As served: the first that has a price of its own."""
    said = [(name, block.get(name)) for name in _TIERS["in_block"]]
    said += [("service_tier", found) for way in _TIERS_IN_ANSWER for found in values(answer, way)]
    for name, tier in said:
        spoken = word(tier)
        called = _TIERS["called"].get(spoken)
        if isinstance(called, dict):
            called = called.get(name)
        if called is not None:
            return str(called)
        if spoken and spoken not in _TIERS["called"]:
            doubts.append(f"{name} is {spoken[:20]!r}, which is not known")
    return None


def region(block: Mapping[str, Any]) -> str | None:
    said = [word(block.get(name)) for name in _REGIONS["in_block"]]
    return next((name for name in said if name not in _REGIONS["say_nothing"] and is_name(name)), None)


def reported_cost(block: Mapping[str, Any]) -> Decimal | None:
    for cost in _COSTS:
        if "only_if" in cost and not is_true(block.get(cost["only_if"])):
            continue
        if "unless" in cost and is_true(block.get(cost["unless"])):
            continue
        usd = _usd(value(block, cost["path"]), cost.get("per_usd", 1))
        if usd is not None:
            return usd
    return None


def _usd(said: Any, per_usd: int) -> Decimal | None:
    amount = decimal(repr(said) if isinstance(said, float) else said)
    if amount is None or isinstance(said, bool | Mapping) or amount.is_signed():
        return None
    usd = _EXACT.divide(amount, Decimal(per_usd))
    return usd if usd <= COST_USD_MAX and len(f"{usd:f}") <= COST_CHARS_MAX else None
