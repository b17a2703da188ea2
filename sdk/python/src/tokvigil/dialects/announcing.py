"""What a request will use at most beside text, as far as it can be seen through. Pure.

`usage_forms.json` has the fields and the tools of each format. None: nobody can tell, so that TokVigil holds for the
dearest kind that the model has a rate for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from tokvigil.json_values import either, mapping, mappings, positive
from tokvigil.quantities import FORMS
from tokvigil.usage_forms import word

_REQUESTS = FORMS["requests"]
_OTHER_MODELS = re.compile(_REQUESTS["other_models"], re.IGNORECASE)
_OTHER_PROVIDERS = frozenset(_REQUESTS["other_providers"])


class Asked(NamedTuple):
    """A request. `files` is how many there are in it; None: not known. So is an output without a cap."""

    format: str
    provider: str | None
    model: str
    fields: Mapping[str, Any]
    files: int | None
    input_tokens: int
    max_output_tokens: int | None


def announced(asked: Asked) -> dict[str, int] | None:
    known = _REQUESTS["formats"][asked.format]
    is_plain = asked.files == 0 or (known.get("files_are_text") and asked.files is not None)
    if not is_plain or asked.provider in _OTHER_PROVIDERS or _OTHER_MODELS.search(asked.model):
        return None
    if any(value is not None and name not in known["plain"] for name, value in asked.fields.items()):
        return None
    parts = (
        _of_tools(asked, known),
        _of_audio(asked, known),
        _of_cache(asked, known),
        _of_others(asked, known),
    )
    found: dict[str, int] = {}
    for part in parts:
        if part is None:
            return None
        found |= part
    return found


def _of_tools(asked: Asked, known: Mapping[str, Any]) -> dict[str, int] | None:
    tools = asked.fields.get("tools")
    if tools is not None and (not isinstance(tools, list) or len(mappings(tools)) != len(tools)):
        return None
    found: dict[str, int] = {}
    for kind, tool in _kinds(asked, mappings(tools)):
        if any(fnmatchcase(kind, free) for free in known["free_tools"]):
            continue
        billed = next((said for name, said in known["billed_tools"].items() if fnmatchcase(kind, name)), None)
        at_most = None if billed is None else _at_most(asked, tool, billed)
        if billed is None or at_most is None:
            return None
        found[billed["as"]] = max(at_most, found.get(billed["as"], 0))
    return found


def _kinds(asked: Asked, tools: list[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The type of each tool. Google writes it as the name of the tool's one field."""
    for tool in tools:
        if asked.format != "content":
            yield str(tool.get("type") or ""), tool
        else:
            yield from ((name, tool) for name, said in tool.items() if said is not None)


def _at_most(asked: Asked, tool: Mapping[str, Any], billed: Mapping[str, Any]) -> int | None:
    if "once_of" in billed:
        return 1 if re.search(billed["once_of"], asked.model.lower()) else None
    if "at_most_of_tool" in billed:
        return positive(tool.get(billed["at_most_of_tool"]))
    return positive(asked.fields.get(billed["at_most_of_request"]))


def _of_audio(asked: Asked, known: Mapping[str, Any]) -> dict[str, int] | None:
    """Spoken answers are as long as their cap lets them be."""
    said = known.get("audio_if")
    if said is None or said["has"] not in _words(asked.fields.get(said["field"])):
        return {}
    return None if asked.max_output_tokens is None else {"output_audio_tokens": asked.max_output_tokens}


def _of_cache(asked: Asked, known: Mapping[str, Any]) -> dict[str, int] | None:
    said = known.get("hour_if")
    if said is None:
        return {}
    kept = {mapping(mark).get("ttl") or "5m" for mark in _marks(asked.fields, said["field"])}
    if any(ttl not in said["ttl"] for ttl in kept):
        return None
    return {"cache_write_1h_tokens": asked.input_tokens} if any(said["ttl"][ttl] for ttl in kept) else {}


def _marks(value: Any, name: str) -> Iterator[Any]:
    """Wherever in a request they stand."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == name and inner is not None:
                yield inner
            yield from _marks(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _marks(inner, name)


def _of_others(asked: Asked, known: Mapping[str, Any]) -> dict[str, int] | None:
    said = known.get("text_only_if")
    if said is None:
        return {}
    modalities = either(mapping(either(asked.fields, *said["config"])), *said["field"])
    return {} if modalities is None or _words(modalities) == {said["is"]} else None


def _words(said: Any) -> set[str]:
    return {word(each) for each in said} if isinstance(said, list) else {word(said)} - {""}
