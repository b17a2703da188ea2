"""Which model answered, and whether it is the one that was asked for under another name. Pure.

Providers answer by the name of a snapshot, and hosts ask by names of their own. These are the same model:
`gpt-4o` and `gpt-4o-2024-08-06`, `us.anthropic.claude-haiku-4-5-20251001-v1:0` and `claude-haiku-4-5-20251001`,
`models/gemini-2.5-flash` and `gemini-2.5-flash-001`. It is another if its name is, or if the price book has another
price for the snapshot.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from tokvigil import prices
from tokvigil.checked import is_name
from tokvigil.quantities import FORMS
from tokvigil.usage_forms import mapping, path, paths, value, values

PAIRS_KEPT = 500
_SAID = FORMS["model"]
_PATHS = paths(_SAID["paths"])
_INSTEAD = path("usage." + _SAID["instead"]), path(_SAID["instead"])

# Bedrock's: a region, and the maker.
_HOSTED = re.compile(
    r"^(?:[a-z]{2,6}\.)?(?:ai21|amazon|anthropic|cohere|deepseek|meta|mistral|openai|qwen)\.(?=[a-z])"
)
# A version, a snapshot, or a word for the latest one.
_SNAPSHOT = re.compile(
    r"(?:-v\d+(?::\d+)?|[@:][\w.-]*|[-@](?:20\d{2}-\d{2}-\d{2}|20\d{6}|\d{3,4}|\d{2}-\d{4}|latest|default))$"
)


def model_of(answer: Any) -> str:
    """The model that an answer says it is of; "" if it says none."""
    fields = mapping(answer)
    found = [*(each for way in _INSTEAD for each in values(fields, way)), value(fields, *_PATHS)]
    return next(filter(is_name, found), "")


@lru_cache(maxsize=PAIRS_KEPT)
def named(asked: str, answered: str, provider: str | None) -> tuple[str, str | None]:
    """The model to report, and the one that was asked for if that is another."""
    if not answered or answered == asked:
        return asked, None
    if _bare(asked) == _bare(answered) and not _costs_otherwise(asked, answered, provider):
        return asked, None
    return answered, asked


def _bare(name: str) -> str:
    """Without what tells hosts and snapshots of one model apart."""
    name = name.strip().lower()
    if not name.startswith("ft:"):
        name = _HOSTED.sub("", name.rpartition("/")[2])
        while (shorter := _SNAPSHOT.sub("", name)) != name:
            name = shorter
    return name


def _costs_otherwise(asked: str, answered: str, provider: str | None) -> bool:
    if _HOSTED.search(asked.strip().lower().rpartition("/")[2]):
        # The host has a price and a name of its own for it; the maker's name in the answer is no other model.
        return False
    now = datetime.now(UTC)
    prices_of = [prices.find(name, now, provider) for name in (asked, answered)]
    return None not in prices_of and prices_of[0].tiers != prices_of[1].tiers  # type: ignore[union-attr]
