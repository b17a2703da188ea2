"""How to mend a field: said beside what msgspec says is wrong with it."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import inspect

_HINTS: tuple[tuple[type[inspect.Type], str], ...] = (
    (inspect.DateTimeType, "write an instant such as 2026-11-01T00:00:00Z"),
    (inspect.BoolType, "write true or false"),
    (inspect.IntType, "write a whole number"),
)


@cache
def types_of(kind: Any) -> dict[str, tuple[inspect.Type, ...]]:
    """What each field of a struct may be; none for what is no struct."""
    described = inspect.type_info(kind)
    if not isinstance(described, inspect.StructType):
        return {}
    return {field.encode_name: _alternatives(field.type) for field in described.fields}


def known_fields(kind: Any) -> str:
    return ", ".join(sorted(types_of(kind))) or "none"


def hint(kind: Any, field: str) -> str | None:
    """What to write in this field; None where nothing can be said shortly."""
    for known in types_of(kind).get(field, ()):
        if isinstance(known, inspect.LiteralType):
            return f"give one of {', '.join(map(str, known.values))}"
        if isinstance(known, inspect.EnumType):
            return f"give one of {', '.join(str(member.value) for member in known.cls)}"
        for of, text in _HINTS:
            if isinstance(known, of):
                return text
    return None


def _alternatives(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    if isinstance(kind, inspect.Metadata):
        return _alternatives(kind.type)
    if isinstance(kind, inspect.UnionType):
        return tuple(found for part in kind.types for found in _alternatives(part))
    return (kind,)
