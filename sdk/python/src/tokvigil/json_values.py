"""JSON. What others wrote may hold anything: these functions give a value of the type asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from tokvigil.errors import ConfigurationError

TRUE_WORDS = frozenset({"1", "on", "t", "true", "y", "yes"})
FALSE_WORDS = frozenset({"0", "f", "false", "n", "no", "off"})
NUMBER_CHARS_MAX = 20
# Of a decimal's first digit: far outside of any amount, and few enough to write it out.
DECIMAL_PLACES_MAX = 60
# What may stand before JSON: white space, and a byte order mark.
BLANK = b" \t\r\n\xef\xbb\xbf"


def parse_object(text: str | bytes | bytearray) -> dict[str, Any] | None:
    """The JSON object that a text is; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def rewritten(text: str, said: Mapping[str, Any], says: Mapping[str, Any]) -> str:
    """The JSON object `text`, which said the one and is to say the other, no field less. What did not change stays as
    it was written: numbers that Python would round, escapes, spaces.

    Raises `ConfigurationError` for what is nested deeper than can be written.
    """
    try:
        return _rewritten(text, said, says)
    except RecursionError:
        raise ConfigurationError("the request is nested too deeply to write its output cap into it") from None


def _rewritten(text: str, said: Mapping[str, Any], says: Mapping[str, Any]) -> str:
    members = list(_members(text))
    if [name for name, _, _ in members] != list(said):  # a name stands twice
        return _compact(says)
    pieces: list[str] = []
    kept_until = 0
    for name, begin, end in members:
        before, now = said[name], says[name]
        if now is not before:
            are_objects = isinstance(before, dict) and isinstance(now, dict)
            written = _rewritten(text[begin:end], before, now) if are_objects else _compact(now)
            pieces += (text[kept_until:begin], written)
            kept_until = end
    end = text.rindex("}")
    added = _compact({name: says[name] for name in says if name not in said})[1:-1]
    comma = "," if members and added else ""
    return "".join((*pieces, text[kept_until:end], comma, added, text[end:]))


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """The names in a JSON object, and where their values begin and end."""
    value_at = json.JSONDecoder().raw_decode
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = value_at(text, at)
        begin = _skip(text, at)
        _, end = value_at(text, begin)
        yield name, begin, end
        at = _skip(text, end)


def _skip(text: str, at: int) -> int:
    """Past what stands between names and values."""
    while text[at] in " \t\r\n,:":
        at += 1
    return at


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something: not None."""
    return {name: value for name, value in fields.items() if value is not None}


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; of anything else, none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def either(fields: Mapping[str, Any], *names: str) -> Any:
    """The value under the first of these names that is said; None if none is."""
    for name in names:
        value = fields.get(name)
        if value is not None:
            return value
    return None


def is_true(value: Any) -> bool:
    """What lenient servers take for true: also a number, and the words for it."""
    return value == 1 if isinstance(value, int | float) else string(value).strip().lower() in TRUE_WORDS


def is_false(value: Any) -> bool:
    """False, 0, and the words for it."""
    return (
        value == 0
        if isinstance(value, int | float | Decimal)
        else string(value).strip().lower() in FALSE_WORDS
    )


def decimal(value: Any) -> Decimal | None:
    """The number that this is, or is the text of. None also for one like 1e300000000, which would fill the memory."""
    try:
        number = Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= DECIMAL_PLACES_MAX else None


def positive(value: Any) -> int | None:
    """A whole number above zero. Some servers take -1 for "no cap", which is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def count(value: Any) -> int | None:
    """As `positive`, of a number that may be written as lenient servers take it: "4", 4.0."""
    if isinstance(value, str) and len(value) <= NUMBER_CHARS_MAX:
        try:
            value = float(value)
        except ValueError:
            return None
    return positive(int(value) if isinstance(value, float) and value.is_integer() else value)
