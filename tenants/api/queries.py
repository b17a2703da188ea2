"""Query parameters to one typed value."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from django.http import HttpRequest
from msgspec import inspect

from tenants.api import hints
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


def decode(request: HttpRequest, kind: type[T]) -> T:
    """The query as the type says, strictly. Raises Problem 422 naming the parameter and the fix."""
    types = hints.types_of(kind)
    values: dict[str, Any] = {}
    for name, texts in request.GET.lists():
        if len(texts) > 1:
            raise invalid_field(name, "given more than once; give it once")
        values[name] = _value(texts[0], types.get(name, ()))
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _invalid(error, kind) from error


def path_name(field: str, text: str) -> str:
    """A name that stands in the path. Raises Problem 422 for one that no field of that kind may have."""
    try:
        return msgspec.convert(text, Name)
    except msgspec.ValidationError as error:
        raise invalid_field(field, field_error(error, Name).message) from error


def _value(text: str, kinds: tuple[inspect.Type, ...]) -> Any:
    """A query string holds only text. Text that is no number or boolean stays text, and validation refuses it."""
    for kind in kinds:
        if isinstance(kind, inspect.IntType) and _INTEGER.fullmatch(text):
            return int(text)
        if isinstance(kind, inspect.BoolType):
            return _BOOLEANS.get(text, text)
    return text


def _invalid(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> Problem:
    found = field_error(error, kind)
    kinds = hints.types_of(kind).get(found.field)
    if kinds is None:
        known = hints.known_fields(kind)
        return invalid(FieldError(field=found.field, message=f"unknown parameter; known are {known}"))
    if any(isinstance(each, inspect.DateTimeType) for each in kinds):
        return invalid(FieldError(field=found.field, message=f"{found.message}, a + in it as %2B"))
    return invalid(found)
