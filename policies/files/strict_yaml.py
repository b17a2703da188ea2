"""From YAML text to plain values, strictly.

Plain values are those of YAML 1.2: to YAML 1.1 `mode: off` is a boolean, as is `plans: [no]`, and 010 an 8.
Anchors, aliases and tags are refused: a policy file has no use for them, and small files could grow huge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from policies.files.file_errors import FileError, join_path, quoted, refused

# Room for 10,000 policies as they are exported.
FILE_BYTES_MAX = 8 * 1024 * 1024
NESTING_MAX = 8
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}\Z")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def compose(text: str, errors: list[FileError]) -> Any:
    """Dicts, lists and scalars. Raises PolicyFileError for what is no YAML, or more than a policy needs."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise refused("", "the file is not valid UTF-8; save it as UTF-8") from error
    if size > FILE_BYTES_MAX:
        raise refused("", f"the file has {size} bytes; at most {FILE_BYTES_MAX} are read")
    events = yaml.parse(text, Loader=yaml.CSafeLoader)
    try:
        next(events)  # the stream begins
        if isinstance(next(events), StreamEndEvent):
            return {}
        value = _value(next(events), events, "", 0, errors)
        next(events)  # the document ends
        if not isinstance(next(events), StreamEndEvent):
            raise refused("", "the file holds a second document; keep one and leave `---` out")
    except (yaml.YAMLError, ValueError) as error:
        raise refused("", f"the file is not valid YAML: {' '.join(str(error).split())}") from error
    return value


def _value(event: Event, events: Iterator[Event], path: str, nesting: int, errors: list[FileError]) -> Any:
    if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
        raise refused(path, "anchors (&name) and aliases (*name) are not read; write the value out")
    if getattr(event, "tag", None) is not None:
        raise refused(path, f"tags such as {quoted(event.tag)} are not read; leave it out")  # type: ignore[attr-defined]
    if nesting > NESTING_MAX:
        raise refused(path, f"nested more than {NESTING_MAX} levels deep; a policy file needs fewer")
    if isinstance(event, SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            items.append(_value(event, events, f"{path}[{len(items)}]", nesting + 1, errors))
        return items
    if isinstance(event, MappingStartEvent):
        return _mapping(events, path, nesting, errors)
    assert isinstance(event, ScalarEvent)
    return _scalar(event)


def _mapping(events: Iterator[Event], path: str, nesting: int, errors: list[FileError]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while not isinstance(event := next(events), MappingEndEvent):
        if not isinstance(event, ScalarEvent):
            raise refused(path, "a key must be a word, not a list, a mapping or an alias")
        key = event.value
        value = _value(next(events), events, join_path(path, key), nesting + 1, errors)
        if key in found:
            errors.append(FileError(join_path(path, key), "given twice; keep one"))
        found[key] = value
    return found


def _scalar(event: ScalarEvent) -> Any:
    text: str = event.value
    plain = event.implicit[0]
    if not plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    # Never an amount: only told apart from text, so that the message can say to quote it.
    return float(text) if FLOAT.match(text) else text
