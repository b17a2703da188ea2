"""Which models bill output that their answers do not show. Pure.

A cut stream of such a model says nothing of what was used: its reasoning may be thousands of tokens before the first
word. By the providers' documentation of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tokvigil.json_values import either, is_true, mapping

_REASONING_MODELS = re.compile(
    r"(?:^|[/:.])(?:o\d|gpt-[5-9]|codex|grok-3-mini|grok-[4-9]|gemini-(?:2\.5|[3-9])|gemini-.*thinking)"
    r"|deep-research|-reasoning|-thinking",
    re.IGNORECASE,
)
_ASKED_BY = ("reasoning", "reasoning_effort", "thinking")
_OFF = frozenset({"none", "off", "disabled"})


def is_reasoning_model(model: str) -> bool:
    """By its name, with or without the prefix of an aggregator or a fine-tuned model."""
    return _REASONING_MODELS.search(model) is not None


def is_asked_for(fields: Mapping[str, Any]) -> bool:
    """Whether a request asks its model to reason."""
    return any(_is_on(fields.get(name)) for name in _ASKED_BY) or is_true(fields.get("background"))


def _is_on(value: Any) -> bool:
    said = either(mapping(value), "effort", "type") or value
    return bool(said) and said not in _OFF
