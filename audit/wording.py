"""Entries in English: "mia published Free plan as version 7: requests a day 50 → 60".

Lists, pages of entries and the overview all take their sentences from `sentence`. The parts of one are plain text that
people wrote: templates escape them and set names apart.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.timezone import localtime

from audit.log import NOBODY, SYSTEM, action_label, action_sentence
from audit.models import Entry
from audit.telling import Told, phrase, place, why

DETAILS_MAX = 3
VALUE_LENGTH_MAX = 60
# What stands elsewhere in the sentence, or on the page of the entry alone.
# Actions that log what is new beside the defaults.
_NEW = {"policy.added"}
_TOLD_APART = {"environment", "changes", "diff", "version", "member", "role", "reason", "note"}
_NAME = "{name}"
# As the log keeps a moment.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?[+-]\d\d:\d\d")


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
    told = _told(entry)
    return Sentence(who(entry.actor), told.did, told.name, told.rest, told.details)


def _told(entry: Entry) -> Told:
    found = action_sentence(entry.action)
    if callable(found):
        try:
            return found(entry)
        except (AttributeError, KeyError, TypeError, ValueError):
            # The log outlives the code that wrote the entry.
            found = None
    return _of_template(found or _template(entry.action), entry)


def _of_template(template: str, entry: Entry) -> Told:
    did, _, rest = template.partition(_NAME)
    used = {name for name in entry.data if f"{{{name}}}" in template}
    return Told(
        did=_filled(did, entry.data),
        name=entry.target_name if _NAME in template else "",
        rest=phrase(_filled(rest, entry.data), place(entry)),
        details=tuple(details(entry, used)),
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
    "policies.alertendpoint": "alert endpoint",
    "policies.alertrule": "alert rule",
    "policies.enduser": "end user",
    "policies.monthlybudget": "budget",
    "policies.namedcaller": "caller of Try it",
    "policies.policyreplay": "replay",
    "usage.modelprice": "price",
    "usage.savedview": "saved view",
    "audit.entry": "audit log",
    "audit.chainhead": "audit log",
}


def difference(entry: Entry) -> tuple[Line, ...]:
    """What was before and is now, line by line; empty for entries that say what was done, and nothing that differs."""
    lines = _changed_lines(entry.data)
    if entry.action in _NEW:
        # What it is compared with are the defaults, which nobody ever had.
        return tuple(line for line in lines if line.sign == "+" and not line.text.endswith(": none"))
    return tuple(lines)


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
        case str() if _MOMENT.fullmatch(data):
            return _moment(data)
    return str(data)


def _moment(text: str) -> str:
    """In the zone of the page; as it is if there is no such day."""
    try:
        return f"{localtime(datetime.fromisoformat(text)):%Y-%m-%d %H:%M:%S %Z}"
    except (OverflowError, ValueError):
        return text


def _template(action: str) -> str:
    return f"{_verb(action)} the {noun(action)} {_NAME}"


def _verb(action: str) -> str:
    return label(action.rpartition(".")[2])


class _Data(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ""


def _filled(template: str, data: Mapping[str, object]) -> str:
    return template.format_map(_Data({name: value(item) for name, item in data.items()})).strip()


def details(entry: Entry, used: Collection[str] = ()) -> Iterator[str]:
    """What was changed, then what else the entry says that is not in `used`, and why at the end."""
    data = entry.data
    yield from changed(data)
    for name, item in data.items():
        if name not in _TOLD_APART and name not in used and value(item) not in {"none", "no"}:
            yield label(name) if item is True else f"{label(name)} {_short(item)}"
    yield from (_short(text) for text in why(data))


def changed(data: Mapping[str, Any], leave: Collection[str] = ()) -> Iterator[str]:
    """`plan free → pro`, of each value that differs but those to leave out."""
    for name, before, after in _changes(data):
        if name not in leave:
            yield f"{label(name)} {_short(before)} → {_short(after)}"


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
