"""What an answer says, beside its usage, that is billed by piece: hosted tools, searches, pictures, films.

What is billed of each stands in `usage_forms.json`, with its sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokvigil.answered_model import model_of
from tokvigil.quantities import FORMS
from tokvigil.usage_counts import count, term
from tokvigil.usage_forms import mapping, path, paths, value, values

# Of a count in a text.
DIGITS_MAX = 9

_SAID_IN_ANSWER = {name: paths(ways) for name, ways in FORMS["said_in_answer"].items() if name != "source"}
_ITEMS = FORMS["items"]
_LIST = path(_ITEMS["list"] + "[]")
_GROUNDING = FORMS["grounding"]
_METADATA, _MAP_CHUNKS = paths(_GROUNDING["metadata"]), paths(_GROUNDING["map_chunks"])
_BILLED_BY_PROMPT = re.compile(_GROUNDING["billed_by_prompt"])
_PICTURES = FORMS["pictures"]
_VIDEOS = FORMS["videos"]


def hosted_tools(answer: Mapping[str, Any], doubts: list[str]) -> dict[str, int]:
    """How often tools of the provider's own ran, as it bills them. An amount that it says comes before its items."""
    said = {name: term(ways, answer, doubts) for name, ways in _SAID_IN_ANSWER.items()}
    found = {name: amount for name, amount in said.items() if amount is not None}
    items = [mapping(item) for item in values(answer, _LIST)]
    for name, kind in _ITEMS["counts"].items() if items else ():
        billed = [item for item in items if item.get("type") == kind["type"] and _is_billed(item, kind)]
        once = {str(item.get(kind.get("once_per"), number)) for number, item in enumerate(billed)}
        found.setdefault(name, len(once))
    return found | _grounding(answer)


def _is_billed(item: Mapping[str, Any], kind: Mapping[str, Any]) -> bool:
    said = {name: value(item, path(name)) for name in kind.get("only", ())}
    return all(found is None or found in kind["only"][name] for name, found in said.items())


def _grounding(answer: Mapping[str, Any]) -> dict[str, int]:
    queries: set[str] = set()
    maps = False
    for way in _METADATA:
        for metadata in map(mapping, values(answer, way)):
            queries.update(query for query in _texts(metadata, _GROUNDING["queries"]) if query.strip())
            maps = maps or any(value(metadata, chunks) is not None for chunks in _MAP_CHUNKS)
    searches = len(queries)
    if _BILLED_BY_PROMPT.search(model_of(answer).lower()):
        searches = min(searches, 1)
    return {"web_searches": searches, "map_searches": int(maps)} if searches or maps else {}


def _texts(fields: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    for name in names:
        said = fields.get(name)
        if isinstance(said, list | tuple):
            yield from (text for text in said if isinstance(text, str))


def has_pictures(answer: Mapping[str, Any]) -> bool:
    """Whether it was an image model that answered."""
    return bool(pictures(answer)) or any(answer.get(name) is not None for name in _PICTURES["alone"])


def pictures(answer: Mapping[str, Any]) -> dict[str, int]:
    """How many it has, for models that bill them by piece."""
    for name, marks in _PICTURES["lists"].items():
        if not isinstance(answer.get(name), list | tuple):
            continue
        items = map(mapping, answer[name])
        made = sum(any(item.get(mark) is not None for mark in marks) for item in items)
        if made:
            return {"images": made}
    return {}


def video(answer: Mapping[str, Any], doubts: list[str]) -> dict[str, int]:
    """The seconds of a film that a job renders: it is billed unless it fails, and nobody is there to see that."""
    is_one = all(answer.get(name) == said for name, said in _VIDEOS["known_by"].items())
    if not is_one or any(answer.get(name) == said for name, said in _VIDEOS["unless"].items()):
        return {}
    seconds = answer.get(_VIDEOS["seconds"])
    if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) <= DIGITS_MAX:
        seconds = int(seconds)
    found = count(seconds, path(_VIDEOS["seconds"]), doubts)
    return {"output_video_seconds": found} if found else {}
