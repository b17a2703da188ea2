"""What the model says: the same to everybody."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

# With characters of two, three and four bytes.
TEXT = "Bonjour Ada Lovelace – à vous la parole 😀. What shall we compute today?"
THOUGHT = "The user is Ada. A greeting will do."
PIECE_CHARS = 9
# A request that offers tools has one called if these words are in its last message.
TOOL_TRIGGER = "use the tool"
EMBEDDING = (0.25, -0.5, 0.125, 1.0)  # exact in 32 bits


def pieces(text: str) -> list[str]:
    """As a stream delivers it."""
    return [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]


def embedding(dimensions: int | None) -> list[float]:
    return [EMBEDDING[number % len(EMBEDDING)] for number in range(dimensions or len(EMBEDDING))]


def text_for(schema: Mapping[str, Any] | None) -> str:
    """What the model writes, JSON if it is held to a schema."""
    return TEXT if schema is None else json.dumps(example(schema))


def calls_tool(tools: Sequence[Any] | None, turns: Any) -> bool:
    """Whether the last of these messages, contents or inputs asks for a tool there is."""
    last = turns[-1] if isinstance(turns, list) and turns else turns
    return bool(tools) and TOOL_TRIGGER in json.dumps(last)


def example(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """A value that the JSON schema (or Gemini's dialect of it) accepts."""
    root = schema if root is None else root
    if "$ref" in schema:
        return example(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return example(schema["anyOf"][0], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    match (kind[0] if isinstance(kind, list) else kind).lower():
        case "object":
            return {name: example(value, root) for name, value in schema.get("properties", {}).items()}
        case "array":
            return [example(schema.get("items", {}), root)]
        case "string":
            return "Ada"
        case "integer" | "number":
            return 36
        case "boolean":
            return True
    return None
