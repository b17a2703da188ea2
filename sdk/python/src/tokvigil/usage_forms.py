"""Where answers say what they used: `usage_forms.json`, compiled. The rules are in `usage_reading`.

The file says by itself how it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokvigil import message_reading
from tokvigil.quantities import FORMS

_STEP = re.compile(r"(?P<name>[^.\[\]]+)(?:\[(?:(?P<key>[^=\]]+)=(?P<value>[^\]]*))?\])?")
_CAPITAL = re.compile(r"(?<=[a-z])([A-Z])")


@dataclass(frozen=True, slots=True)
class Step:
    """From a field to the one in it; where it `is_list`, to each item, or to those whose `key` has a value."""

    names: tuple[str, ...]
    is_list: bool = False
    key: str | None = None
    value: str = ""


Path = tuple[Step, ...]
# The spellings of a term.
Term = tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to write a usage."""

    name: str
    known_by: tuple[Path, ...]
    reads: Mapping[str, tuple[Term, ...]]
    # The fields that the paths of each begin with: most of the many spellings lead nowhere, which is soon seen.
    begins: Mapping[str, frozenset[str]]
    needs: tuple[str, ...] = ()
    needs_one_of: tuple[str, ...] = ()
    may_stand_alone: bool = False
    total: Path | None = None
    read_beyond_total: Mapping[str, Path | None] = field(default_factory=dict)
    written_are_beside_input: bool = False
    beside_totals: Mapping[str, Any] = field(default_factory=dict)
    bills_searches_of: str | None = None
    output_of_pictures_is: str | None = None
    only_in: Mapping[str, str] = field(default_factory=dict)
    all_annotated_if: tuple[Path, ...] = ()


def path(text: str, *, also_in_snake_case: bool = False) -> Path:
    steps = []
    for found in _STEP.finditer(text):
        name = found["name"]
        snake = _CAPITAL.sub(r"_\1", name).lower()
        names = (name, snake) if also_in_snake_case and snake != name else (name,)
        steps.append(Step(names, "[" in found[0], found["key"], (found["value"] or "").lower()))
    return tuple(steps)


def paths(texts: list[str]) -> tuple[Path, ...]:
    return tuple(path(text) for text in texts)


def values(said: Any, way: Path) -> Iterator[Any]:
    """What stands at the end of a path; of a list, each."""
    if not way:
        yield said
        return
    step, rest = way[0], way[1:]
    fields = said if isinstance(said, dict) else mapping(said)
    for name in step.names:
        found = fields.get(name)
        if found is None:
            continue
        if not step.is_list:
            yield from values(found, rest)
        elif isinstance(found, list | tuple):
            for item in found:
                if step.key is None or word(mapping(item).get(step.key)) == step.value:
                    yield from values(item, rest)
        return


def value(said: Any, *ways: Path) -> Any:
    """The first that is said; None if none is."""
    for way in ways:
        for found in values(said, way):
            return found
    return None


def mapping(said: Any) -> Mapping[str, Any]:
    """What a mapping or an object says, also one that cannot be dumped; nothing, of anything else."""
    fields = message_reading.fields(said)
    return getattr(said, "__dict__", {}) if fields is None else fields


def word(said: Any) -> str:
    """A word in any case, also one that an SDK has made a name of."""
    said = getattr(said, "value", said)
    return said.strip().lower() if isinstance(said, str) else ""


def _form(said: Mapping[str, Any]) -> Form:
    in_both_cases = said.get("also_in_snake_case", False)

    def read(text: str) -> Path:
        return path(text, also_in_snake_case=in_both_cases)

    beyond = said.get("read_beyond_total", {})
    reads = {
        name: tuple(tuple(map(read, spellings)) for spellings in terms)
        for name, terms in said["reads"].items()
    }
    return Form(
        name=said["name"],
        known_by=tuple(map(read, said["known_by"])),
        reads=reads,
        begins={
            name: frozenset(first for spellings in terms for way in spellings for first in way[0].names)
            for name, terms in reads.items()
        },
        needs=tuple(said.get("needs", ())),
        needs_one_of=tuple(said.get("needs_one_of", ())),
        may_stand_alone=said.get("may_stand_alone", False),
        total=path(said["total"]) if "total" in said else None,
        read_beyond_total={mark: amount and path(amount) for mark, amount in beyond.items()},
        written_are_beside_input=said.get("written_are_beside_input", False),
        beside_totals=said.get("beside_totals", {}),
        bills_searches_of=said.get("bills_searches_of"),
        output_of_pictures_is=said.get("output_of_pictures_is"),
        only_in=said.get("only_in", {}),
        all_annotated_if=paths(said.get("all_annotated_if", [])),
    )


ALL = tuple(map(_form, FORMS["forms"]))
BLOCKS = paths(FORMS["blocks"])
