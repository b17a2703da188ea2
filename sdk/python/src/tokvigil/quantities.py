"""What a call uses beside text tokens: the names that a report may have, and what each is a part of.

`usage_forms.json` has them, for all SDKs.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

FORMS: dict[str, Any] = json.loads(files("tokvigil").joinpath("usage_forms.json").read_bytes())
_QUANTITIES: dict[str, dict[str, Any]] = FORMS["quantities"]
NAMES = frozenset(_QUANTITIES)
# Billed instead of tokens: an answer that says one of these has said what it used.
BY_PIECE = frozenset(name for name, kind in _QUANTITIES.items() if kind.get("by_piece"))
SERVICE_TIERS = frozenset({"default", "batch", "flex", "priority", "fast"})
# That says nothing in a report.
DEFAULT_TIER = "default"
# Parts of the output, beside reasoning.
OF_OUTPUT = tuple(name for name, kind in _QUANTITIES.items() if "output_tokens" in kind.get("part_of", ()))
# Of a modality that may also be read from a cache: the part of the input, and what of it was cached.
CACHED_OF = {"input_audio_tokens": "cached_audio_tokens", "input_image_tokens": "cached_image_tokens"}
