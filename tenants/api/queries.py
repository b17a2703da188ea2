"""Query parameters to one typed value."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
from django.http import HttpRequest
from msgspec import inspect

from tenants.api.http import Name, field_error
from tenants.api.problems import FieldError, Problem, invalid, invalid_field

PAGE_MAX = 500
PAGE_DEFAULT = 100

T = TypeVar("T", bound=msgspec.Struct)

PageSize = Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX, description="How many to answer at most.")]
CursorText = Annotated[
    str,
    msgspec.Meta(
        max_length=100, description="`next_cursor` of the page before; leave it out for the first page."
    ),
]


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For addresses without query parameters."""


_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_BOOLEANS = {"true": True, "false": False}
_HINTS: tuple[tuple[type[inspect.Type], str], ...] = (
    (inspect.DateTimeType, "write an instant such as 2026-11-01T00:00:00Z, a + in it as %2B"),
    (inspect.BoolType, "write true or false"),
    (inspect.IntType, "write a whole number"),
)


def decode(request: HttpRequest, kind: type[T]) -> T:
    """The query as the type says, strictly. Raises Problem 422 naming the parameter and the fix."""
    types = _types(kind)
    values: dict[str, Any] = {}
    for name, texts in request.GET.lists():
        if len(texts) > 1:
            raise invalid_field(name, "given more than once; give it once")
        values[name] = _value(texts[0], types.get(name, ()))
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _invalid(error, types) from error


def path_name(field: str, text: str) -> str:
    """A name that stands in the path. Raises Problem 422 for one that no field of that kind may have."""
    try:
        return msgspec.convert(text, Name)
    except msgspec.ValidationError as error:
        raise invalid_field(field, field_error(error).message) from error


@cache
def _types(kind: type[msgspec.Struct]) -> dict[str, tuple[inspect.Type, ...]]:
    """What each parameter may be."""
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return {field.encode_name: _alternatives(field.type) for field in described.fields}


def _alternatives(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    if isinstance(kind, inspect.Metadata):
        return _alternatives(kind.type)
    if isinstance(kind, inspect.UnionType):
        return tuple(found for part in kind.types for found in _alternatives(part))
    return (kind,)


def _value(text: str, kinds: tuple[inspect.Type, ...]) -> Any:
    """A query string holds only text. Text that is no number or boolean stays text, and validation refuses it."""
    for kind in kinds:
        if isinstance(kind, inspect.IntType) and _INTEGER.fullmatch(text):
            return int(text)
        if isinstance(kind, inspect.BoolType):
            return _BOOLEANS.get(text, text)
    return text


def _invalid(error: msgspec.ValidationError, types: dict[str, tuple[inspect.Type, ...]]) -> Problem:
    found = field_error(error)
    if found.field not in types:
        known = ", ".join(sorted(types)) or "none"
        return invalid(FieldError(field=found.field, message=f"unknown parameter; known are {known}"))
    hint = _hint(types[found.field])
    return invalid(
        found if hint is None else FieldError(field=found.field, message=f"{found.message}; {hint}")
    )


def _hint(kinds: tuple[inspect.Type, ...]) -> str | None:
    for kind in kinds:
        if isinstance(kind, inspect.LiteralType):
            return f"give one of {', '.join(map(str, kind.values))}"
        for of, hint in _HINTS:
            if isinstance(kind, of):
                return hint
    return None
