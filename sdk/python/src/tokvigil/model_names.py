"""How a model's name is read, as the server reads it; the rules come with the snapshot of its prices. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

# A name and who sells it; None: not said.
Reading = tuple[str, "str | None"]
# A listed name, and the date of the snapshot that was asked for.
Spelling = tuple[str, "date | None"]

_DATED_NAME = re.compile(r"(?P<base>.+)[-@](?:(\d{4})-(\d{2})-(\d{2})|(20\d{2})(\d{2})(\d{2}))", re.ASCII)


def cut_seller(name: str, sellers: frozenset[str]) -> tuple[str, str] | None:
    """Who stands before a slash or a colon, and the rest."""
    for mark in "/:":
        prefix, found, rest = name.partition(mark)
        if found and rest and prefix in sellers:
            return prefix, rest
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOff:
    """What is taken off before a name: of whose names (None: of anybody's), and who then sells it (None: as before)."""

    pattern: re.Pattern[str]
    sold_by: str | None
    now_sold_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRules:
    """Read from the snapshot; `providers` are all that it knows."""

    providers: frozenset[str]
    provider_aliases: Mapping[str, str]
    gateways: frozenset[str]
    passed_on: frozenset[str]
    taken_off: tuple[TakenOff, ...]
    taken_off_max: int
    endings: tuple[re.Pattern[str], ...]
    bedrock_id: re.Pattern[str]
    bedrock_id_versions: tuple[str, ...]

    @classmethod
    def of(cls, data: Mapping[str, Any], listed_providers: Iterable[str]) -> NameRules:
        return cls(
            providers=frozenset({*listed_providers, *data["resold"], *data["provider_aliases"]}),
            provider_aliases=data["provider_aliases"],
            gateways=frozenset(data["gateways"]),
            passed_on=frozenset(data["passed_on"]),
            taken_off=tuple(
                TakenOff(pattern=re.compile(pattern), sold_by=sold_by, now_sold_by=now_sold_by)
                for pattern, sold_by, now_sold_by in data["taken_off"]
            ),
            taken_off_max=data["taken_off_max"],
            endings=tuple(map(re.compile, data["endings"])),
            bedrock_id=re.compile(data["bedrock_id"]),
            bedrock_id_versions=tuple(data["bedrock_id_versions"]),
        )

    def canonical_provider(self, provider: str) -> str:
        name = provider.strip().lower()
        return self.provider_aliases.get(name, name)

    def readings(self, name: str, provider: str | None) -> list[Reading]:
        """The names and sellers to look for, best first: before a slash is a provider or part of the name."""
        seller = None if provider is None else self.canonical_provider(provider)
        found: list[Reading] = [(name, seller)]
        cut = cut_seller(name, self.providers)
        if cut is not None:
            prefix, rest = cut
            if seller is None:
                found.insert(0, (rest, self.canonical_provider(prefix)))
            else:
                found.append((rest, seller))
        return list(dict.fromkeys(each for reading in found for each in self._without_prefixes(reading)))

    def _without_prefixes(self, reading: Reading) -> Iterator[Reading]:
        for _ in range(self.taken_off_max):
            yield reading
            shorter = self._through_gateway(*reading) or self._without_prefix(*reading)
            if shorter is None:
                return
            reading = shorter
        yield reading

    def _without_prefix(self, name: str, seller: str | None) -> Reading | None:
        for rule in self.taken_off:
            match = rule.pattern.fullmatch(name) if rule.sold_by in (None, seller) else None
            if match is not None:
                # Another provider's price is not that of the one who was named.
                if rule.now_sold_by is not None and seller not in (None, rule.now_sold_by):
                    return None
                return match[1], rule.now_sold_by or seller
        return None

    def _through_gateway(self, name: str, seller: str | None) -> Reading | None:
        """The maker's model, whose price the gateway passes on."""
        cut = cut_seller(name, self.gateways)
        if cut is not None:
            name = cut[1]
        elif seller not in self.gateways:
            return None
        maker, _, model = name.partition("/")
        maker = self.canonical_provider(maker)
        is_asked = seller is None or seller in self.gateways or seller == maker
        return (model, maker) if model and is_asked and maker in self.passed_on else None

    def spellings(self, name: str) -> Iterator[Spelling]:
        """The listed names that a name may stand for, the most certain first."""
        yield name, None
        for ending in self.endings:
            match = ending.fullmatch(name)
            if match is not None:
                name = match[1]
                yield name, None
        tuned = _fine_tuned(name)
        if tuned is not None:
            name = tuned
            yield name, None
        dated = _without_date(name)
        if dated is not None:
            yield dated
        yield from self._bedrock_spellings(name)

    def _bedrock_spellings(self, name: str) -> Iterator[Spelling]:
        match = self.bedrock_id.fullmatch(name)
        if match is None:
            return
        scope = match["scope"]
        listed_as = (f"{scope}.",) if scope in ("global", "regional") else ("regional.", "")
        bases: list[Spelling] = [(match["model"], None)]
        dated = _without_date(match["model"])
        if dated is not None:
            bases.append(dated)
        for base, snapshot in bases:
            for prefix in listed_as:
                for version in self.bedrock_id_versions:
                    yield f"{prefix}{base}{version}", snapshot


def _fine_tuned(name: str) -> str | None:
    """`ft:BASE:ORGANISATION:NAME:ID` is listed as `ft:BASE`, Azure's `BASE.ft-ID` as `BASE.ft-`."""
    if name.startswith("ft:") and name.count(":") > 1:
        return ":".join(name.split(":", 2)[:2])
    base, mark, _ = name.partition(".ft-")
    return f"{base}{mark}" if mark and base else None


def _without_date(name: str) -> tuple[str, date] | None:
    """A name without the date it ends in, and that date; None if it ends in none, or in two."""
    dated = _split_date(name)
    return dated if dated is not None and _split_date(dated[0]) is None else None


def _split_date(name: str) -> tuple[str, date] | None:
    match = _DATED_NAME.fullmatch(name)
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups()[1:] if part is not None)
    try:
        return match["base"], date(year, month, day)
    except ValueError:
        return None
