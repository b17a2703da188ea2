"""Entries in English: "mia published Free plan as version 7: requests a day 50 → 60".

Lists, pages of entries and the overview all take their sentences from `sentence`. The parts of one are plain text that
people wrote: templates escape them and set names apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from audit.log import NOBODY, SYSTEM, action_label, action_sentence
from audit.models import Entry

DETAILS_MAX = 3
VALUE_LENGTH_MAX = 60
# What stands elsewhere in the sentence, or on the page of the entry alone.
_TOLD_APART = {"environment", "changes", "diff", "version", "member", "role"}
_NAME = "{name}"


@dataclass(frozen=True, slots=True)
class Sentence:
    """Who did what to which thing, and what was changed about it: `details`, each a few words."""

    who: str
    did: str
    name: str
    rest: str
    details: tuple[str, ...]

    @property
    def what(self) -> str:
        """All of it but who."""
        done = " ".join(part for part in (self.did, self.name, self.rest) if part)
        return f"{done}: {self.in_short}" if self.details else done

    @property
    def heading(self) -> str:
        """Without what was changed about it."""
        return " ".join(part for part in (self.who, self.did, self.name, self.rest) if part)

    @property
    def in_short(self) -> str:
        more = len(self.details) - DETAILS_MAX
        shown = "; ".join(self.details[:DETAILS_MAX])
        return f"{shown}; and {more} more" if more > 0 else shown

    def __str__(self) -> str:
        return f"{self.who} {self.what}"


@dataclass(frozen=True, slots=True)
class Line:
    """Of a difference. The sign is `+`, `−` or a blank."""

    sign: str
    text: str


def sentence(entry: Entry) -> Sentence:
    template = action_sentence(entry.action) or _template(entry.action)
    did, _, rest = template.partition(_NAME)
    used = {name for name in entry.data if f"{{{name}}}" in template}
    place = entry.data.get("environment")
    rests = [_filled(rest, entry.data), f"in {place}" if isinstance(place, str) else ""]
    return Sentence(
        who=who(entry.actor),
        did=_filled(did, entry.data),
        name=entry.target_name if _NAME in template else "",
        rest=" ".join(part for part in rests if part),
        details=tuple(_details(entry.data, used)),
    )


def who(actor: str) -> str:
    """`admin:mia` is mia, `cli:up` the command up, `key:ab12` API key ab12."""
    kind, _, name = actor.partition(":")
    if actor in _WHO:
        return _WHO[actor]
    said = {"admin": "{}", "cli": "the command {}", "key": "API key {}"}.get(kind)
    return said.format(name) if said and name else actor


_WHO = {SYSTEM: "the server", NOBODY: "somebody"}


def where(entry: Entry) -> str:
    """The client's address. Of what no client did: which part of the product did it."""
    if entry.address:
        return entry.address
    if entry.actor.startswith("cli:"):
        return "command line"
    return "server" if entry.actor == SYSTEM else "not known"


def noun(action: str) -> str:
    """What it is done to: `api_key.issued` is about an API key."""
    label, verb = action_label(action), _verb(action)
    thing = label.removesuffix(f" {verb}") if label.endswith(f" {verb}") else action.partition(".")[0]
    thing = thing.replace("_", " ")
    return thing if thing[:2].isupper() else thing[:1].lower() + thing[1:]


def kind(target_type: str) -> str:
    """`policies.policy` is a policy."""
    return _KINDS.get(target_type, target_type.partition(".")[2])


_KINDS = {
    "auth.user": "person",
    "tenants.apikey": "API key",
    "policies.enduser": "end user",
    "policies.policyreplay": "replay",
    "usage.modelprice": "price",
    "audit.entry": "audit log",
    "audit.chainhead": "audit log",
}


def difference(entry: Entry) -> tuple[Line, ...]:
    """What was before and is now, line by line; empty for entries that say what was done, and nothing that differs."""
    return tuple(_changed_lines(entry.data))


def file_difference(entry: Entry) -> tuple[Line, ...]:
    """The same as it is written in a file, for entries that have that."""
    return tuple(_diff_lines(entry.data))


def facts(entry: Entry) -> tuple[tuple[str, str], ...]:
    """What else the entry says."""
    told = {"changes", "diff"}
    return tuple((label(name), value(data)) for name, data in entry.data.items() if name not in told)


def label(name: str) -> str:
    return name.replace("_", " ")


def value(data: object) -> str:
    """In full, as a person would write it."""
    match data:
        case None | "" | [] | {}:
            return "none"
        case bool():
            return "yes" if data else "no"
        case list():
            return ", ".join(value(item) for item in data)
        case dict():
            return ", ".join(f"{label(name)} {value(item)}" for name, item in data.items())
    return str(data)


def _template(action: str) -> str:
    return f"{_verb(action)} the {noun(action)} {_NAME}"


def _verb(action: str) -> str:
    return label(action.rpartition(".")[2])


class _Data(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ""


def _filled(template: str, data: Mapping[str, object]) -> str:
    return template.format_map(_Data({name: value(item) for name, item in data.items()})).strip()


def _details(data: Mapping[str, object], used: set[str]) -> Iterator[str]:
    for name, before, after in _changes(data):
        yield f"{label(name)} {_short(before)} → {_short(after)}"
    for name, item in data.items():
        if name not in used | _TOLD_APART and value(item) not in {"none", "no"}:
            yield label(name) if item is True else f"{label(name)} {_short(item)}"


def _changes(data: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    changed = data.get("changes")
    for name, both in changed.items() if isinstance(changed, dict) else ():
        if isinstance(both, dict):
            yield name, both.get("before"), both.get("after")


def _changed_lines(data: Mapping[str, Any]) -> Iterator[Line]:
    for name, before, after in _changes(data):
        yield Line("−", f"{label(name)}: {value(before)}")
        yield Line("+", f"{label(name)}: {value(after)}")


def _diff_lines(data: Mapping[str, Any]) -> Iterator[Line]:
    """Of a unified diff."""
    text = data.get("diff")
    for line in text.splitlines() if isinstance(text, str) else ():
        if line.startswith("@@"):
            continue
        sign = {"+": "+", "-": "−"}.get(line[:1], "")
        yield Line(sign, line[1:])


def _short(data: object) -> str:
    text = value(data)
    return text if len(text) <= VALUE_LENGTH_MAX else f"{text[: VALUE_LENGTH_MAX - 1]}…"
