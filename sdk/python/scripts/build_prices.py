"""Writes src/tokvigil/prices.json.gz from the shared price book that the server in this repository ships.

Run it after an update of genai-prices, with the repository's own interpreter; it needs no database and no
network. The same prices give the same text, on any day and machine.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usage.prices.cost import Price, Rates

REPOSITORY = Path(__file__).resolve().parents[3]
TARGET = REPOSITORY / "sdk/python/src/tokvigil/prices.json.gz"


def build() -> str:
    """The snapshot as JSON: the rules by which the server reads a name, and its prices. Needs Django set up.

    Rates are nano-USD per million tokens; what is absent costs what its total costs. A price without rates is of
    something else than tokens alone. Rates of tiers of service and of other quantities stay with the server.
    """
    from usage.prices import names, prefixes
    from usage.prices.genai import SOURCE, package_rows

    prices = [row.to_price() for row in package_rows()[0]]
    snapshot = {
        "version": f"{SOURCE} {version(SOURCE)}",
        "makers": names.MAKERS,
        "provider_aliases": names.PROVIDER_ALIASES,
        "resold": names.RESOLD,
        "gateways": sorted(names.GATEWAYS),
        "passed_on": sorted(names.PASSED_ON),
        "taken_off": [
            (pattern.pattern, sold_by, now_sold_by) for pattern, sold_by, now_sold_by in prefixes.TAKEN_OFF
        ],
        "taken_off_max": prefixes.TAKEN_OFF_MAX,
        "endings": [ending.pattern for ending in names.ENDINGS],
        "bedrock_id": names.BEDROCK_ID.pattern,
        "bedrock_id_versions": names.ID_VERSIONS,
        "prices": [
            _price(price)
            for price in sorted(prices, key=lambda price: (price.provider, price.model, price.effective_from))
        ],
    }
    return json.dumps(snapshot, sort_keys=True, separators=(",", ":"))


def _is_by_tokens_alone(price: Price) -> bool:
    """Not by seconds or characters, and without a fee for each request."""
    from usage.quantities import REQUESTS

    return price.rates.input is not None and price.rates.of(REQUESTS) is None


def _price(price: Price) -> dict[str, Any]:
    return _without_absent(
        {
            "provider": price.provider,
            "model": price.model,
            "aliases": price.aliases,
            "from": price.effective_from.isoformat(),
            **(_all_rates(price) if _is_by_tokens_alone(price) else {}),
        }
    )


def _all_rates(price: Price) -> dict[str, Any]:
    tiers = [{"above": tier.above_input_tokens, "rates": _rates(tier.rates)} for tier in price.tiers]
    return {"rates": _rates(price.rates), "tiers": tiers}


def _rates(rates: Rates) -> dict[str, int]:
    from usage.prices.cost import RATES_OF

    return _without_absent({name: getattr(rates, name) for name in RATES_OF.values()})


def _without_absent(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without None and empty lists; a rate of 0 stays: it is a price."""
    return {name: value for name, value in values.items() if value is not None and value not in ((), [])}


def main() -> None:
    import django

    django.setup()
    TARGET.write_bytes(gzip.compress(build().encode(), compresslevel=9, mtime=0))
    print(f"{TARGET.relative_to(REPOSITORY)}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")
    os.environ.setdefault("DEBUG", "true")  # the settings then ask for no secrets
    main()
