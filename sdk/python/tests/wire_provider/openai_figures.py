"""What OpenAI's answers say was used."""

from __future__ import annotations

from tokvigil import Usage

USAGE = Usage(input_tokens=1_200, output_tokens=90, cached_input_tokens=1_024, reasoning_tokens=64)
LEGACY_USAGE = Usage(input_tokens=1_200, output_tokens=90)
EMBEDDING_USAGE = Usage(input_tokens=12, output_tokens=0)
IMAGE_USAGE = Usage(input_tokens=50, output_tokens=1_056, quantities={"output_image_tokens": 1_056})
CREATED = 1_764_547_200


def snapshot(model: str) -> str:
    """The model that answers for an alias."""
    return model if model[-1].isdigit() else f"{model}-2024-07-18"
