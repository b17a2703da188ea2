"""Counts that add up: no part is larger than its total, so that TokVigil takes the report.

See `models.contradiction` for the rule. What had to be cut becomes one of the `doubts`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokvigil.checked import TOKENS_MAX
from tokvigil.quantities import CACHED_OF, OF_OUTPUT


def fitted(counts: Mapping[str, int], doubts: list[str]) -> dict[str, int]:
    """The counts with parts no larger than their totals; see `models.contradiction`."""
    parts = {name: min(amount, TOKENS_MAX) for name, amount in counts.items()}
    rest = parts["input_tokens"] = parts.get("input_tokens", 0)

    def cut(name: str, most: int, *, is_certain: bool = True) -> int:
        amount = parts.get(name, 0)
        if amount > most:
            parts[name] = most
            if is_certain:
                doubts.append(f"{name} is {amount}, and no more than {most} is left for it")
        return parts.get(name, 0)

    cached = cut("cached_input_tokens", rest)
    rest -= cached
    written = 0
    for name in ("cache_write_1h_tokens", "cache_write_tokens"):
        written += cut(name, rest - written)
    rest -= written
    for part, cached_part in CACHED_OF.items():
        amount = cut(part, parts["input_tokens"])
        of_cached = cut(cached_part, min(amount, cached))
        if amount - of_cached > rest:
            # No other room: so much of it must have been cached, or else written.
            of_cached = parts[cached_part] = min(amount, cached, amount - rest) if cached else 0
            amount = cut(part, rest + of_cached, is_certain=amount - of_cached > rest + written)
        cached -= of_cached
        rest -= amount - of_cached
    cut("input_video_tokens", rest, is_certain=parts.get("input_video_tokens", 0) > rest + written + cached)
    left = parts["output_tokens"] = parts.get("output_tokens", 0)
    for name in ("reasoning_tokens", *OF_OUTPUT):
        left -= cut(name, left)
    return parts
