"""What the audit log says of prices, exports, saved views and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from audit.models import Entry
from audit.telling import Told, listed, why
from tenants.audited import exported_as
from usage.wording import count, counted

_PER_MILLION = "_per_million"


def price_added(entry: Entry) -> Told:
    """`added the price openai/gpt-4o from 2026-01-01: $2.5 a million input tokens; …`"""
    rates = (f"${value} {_rate(name)}" for name, value in entry.data.items() if name.endswith(_PER_MILLION))
    return Told(
        "added the price", entry.target_name, details=(*rates, *_others(entry.data), *why(entry.data))
    )


def _rate(name: str) -> str:
    return f"a million {name.removesuffix(_PER_MILLION).replace('_', ' ')} tokens"


def _others(given: dict[str, Any]) -> Iterator[str]:
    if aliases := given.get("aliases"):
        yield f"also named {listed(aliases)}"
    if tiers := given.get("tiers"):
        yield counted(len(tiers), "tier")
    if given.get("active") is False:
        yield "switched off"


def price_changed(entry: Entry) -> Told:
    details = [_change(name, both) for name, both in entry.data["changes"].items()]
    return Told("changed the price", entry.target_name, details=(*details, *why(entry.data)))


def _change(name: str, both: dict[str, Any]) -> str:
    before, after = both["before"], both["after"]
    if name.endswith(_PER_MILLION):
        return f"{_rate(name)}: {_usd(before)} → {_usd(after)}"
    if name == "active":
        return "switched on" if after else "switched off"
    if name == "tiers":
        return f"{counted(len(before), 'tier')} → {counted(len(after), 'tier')}"
    return f"{name.replace('_', ' ')} {_text(before)} → {_text(after)}"


def _usd(rate: str | None) -> str:
    return "none" if rate is None else f"${rate}"


def _text(value: object) -> str:
    return (listed(value) if isinstance(value, list) else str(value or "")) or "none"


def prices_loaded(entry: Entry) -> Told:
    said = {"added": "added", "changed": "changed", "switched_off": "switched off"}
    done = [f"{count(number)} {verb}" for name, verb in said.items() if (number := entry.data[name])]
    return Told("loaded the shared prices of", entry.target_name, details=(listed(done) or "nothing new",))


def usage_exported(entry: Entry) -> Told:
    data = entry.data
    environments = f"environments {listed(data['environments'])}"
    return Told(f"exported {data['file']} of", entry.target_name, exported_as(entry), (environments,))


def view_saved(entry: Entry) -> Told:
    return Told("saved the view", entry.target_name, details=_shared(entry))


def view_changed(entry: Entry) -> Told:
    return Told("changed the view", entry.target_name, details=_shared(entry))


def _shared(entry: Entry) -> tuple[str, ...]:
    return ("for all members of the tenant" if entry.data["shared"] else "for themselves alone",)


def view_deleted(entry: Entry) -> Told:
    return Told("deleted the view", entry.target_name)


def month_detached(entry: Entry) -> Told:
    tables = entry.data["tables"]
    return Told("detached", entry.target_name, "from the ledger", (f"tables {listed(tables)}",))
