"""What of a request the model reads: all strings anywhere in it, but for those under names that are known to be
settings, ids or marks. So a kind of part that nobody described here counts too. Pure; nothing is counted here.

Values are JSON, or a provider SDK's own objects, whose fields `model_dump` gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from tokvigil.bodies import LongString
from tokvigil.errors import ConfigurationError


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


# In this form so many names are kept, the latest.
NAMES_KEPT = 500
# Names are compared without their case and underscores: Google takes `mimeType` and `mime_type`.
# Settings of a request, beside what the model reads.
SETTINGS = _names("""
    anthropicversion audio betas cachedcontent container conversation encodingformat include inferencegeo inputtype
    language logitbias metadata modalities model outputformat previousresponseid promptcachekey promptcacheretention
    quality reasoningeffort safetyidentifier safetysettings servicetier size speed stop stopsequences store style task
    tasktype toolchoice truncation user verbosity voice
""")
# Ids and marks in messages and parts. A tool's arguments are read whole, whatever their names are.
MARKS = _names("""
    cachecontrol callid detail effort encoding encryptedcontent filename format functioncallingconfig id index mediatype
    mimetype mode object phase responsemimetype responsemodalities role serverlabel signature speechconfig status
    stopsequences thinkingconfig thoughtsignature toolcallid tooluseid ttl type
""")
# Where a string is text, however much it looks like a file.
TEXTS = _names("""
    arguments code content contents input instructions message name output prompt query refusal suffix summary system
    text texts thinking title transcript
""")
# What the model gets to see as JSON.
JSON = _names("functions jsonschema responsejsonschema responseschema schema tools")
# These too, if they are objects: a call's arguments, and its result.
JSON_OBJECTS = _names("args arguments input json output response")
FILES = _names(
    "audio audiourl bytes file filedata fileid fileuri fileurl imageurl inlinedata inputaudio videourl"
)
FILE_TYPES = _names("audio document file image video")
# Of a message in plain text, which can be counted exactly.
PLAIN = _names("role content name type text")

# Longer ASCII of base64's alphabet is a file, not something a model reads as text.
FILE_CHARS_MIN = 1_000
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+[;,]|data:;base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\-\s]*")

NO_LONG_STRINGS: Mapping[str, LongString] = {}
NOT_MESSAGES = "messages are dicts, as OpenAI takes them"


class Reading:
    """What was found: texts, ids of tokens, messages and their names, and files, which their provider counts by size.

    `is_plain`: there is nothing in it but messages in plain text. `long` has the strings that others stand in for.
    """

    def __init__(self, long: Mapping[str, LongString] = NO_LONG_STRINGS) -> None:
        self._long = long
        self.texts: list[str] = []
        self.tokens = 0
        self.messages = 0
        self.names = 0
        self.files = 0
        self.is_plain = True

    def add(self, value: Any, name: str = "") -> None:
        """Whatever stands under a name."""
        if isinstance(value, str):
            self._add_string(value, name)
        elif isinstance(value, list | tuple):
            if value and all(type(item) is int for item in value):
                self.tokens += len(value)
            else:
                for item in value:
                    self.add(item, name)
        elif (said := fields(value)) is not None:
            self._add_fields(said)

    def add_json(self, value: Any) -> None:
        """What the model reads as JSON: tools, a schema, arguments."""
        value = self._without_files(value)
        if value not in (None, "", [], {}):
            self.is_plain = False
            self.texts.append(compact(value))

    def _add_fields(self, said: Mapping[str, Any]) -> None:
        if "role" in said:
            self.messages += 1
            self.names += "name" in said
        if _is_file_part(said):
            self.files += 1
        for key, value in said.items():
            name = _squashed(key)
            if name not in PLAIN and value != []:
                self.is_plain = False
            if name == "source" and isinstance(value, Mapping):
                self._add_source(value)
            elif name in JSON or (name in JSON_OBJECTS and isinstance(value, Mapping)):
                self.add_json(value)
            elif name not in MARKS and name not in FILES and not (name == "data" and isinstance(value, str)):
                self.add(value, name)

    def _add_source(self, source: Mapping[str, Any]) -> None:
        """Of a document: its text, or where its file is, which was counted with the part."""
        if _is_text_source(source):
            self.add(source.get("data"), "text")
            self.add(source.get("content"), "content")

    def _add_string(self, text: str, name: str) -> None:
        if name not in TEXTS and self._is_file(text):
            self.files += 1
        elif text:
            self.texts.append(self._whole(text))

    def _without_files(self, value: Any) -> Any:
        if isinstance(value, str):
            if not self._is_file(value):
                return self._whole(value)
            self.files += 1
            return ""
        if isinstance(value, list | tuple):
            return [self._without_files(item) for item in value]
        said = fields(value)
        if said is None:
            return value
        return {self._whole(name): self._without_files(item) for name, item in said.items()}

    def _is_file(self, text: str) -> bool:
        long = self._long.get(text)
        return is_file(text if long is None else long.sample())

    def _whole(self, text: str) -> str:
        long = self._long.get(text)
        return text if long is None else long.whole()


def read_messages(messages: Iterable[Any]) -> Reading:
    """Raises `ConfigurationError` for what are no messages."""
    if not isinstance(messages, Iterable) or isinstance(messages, str | bytes | Mapping):
        raise ConfigurationError(NOT_MESSAGES)
    reading = Reading()
    for message in messages:
        if fields(message) is None:
            raise ConfigurationError(NOT_MESSAGES)
        try:
            reading.add(message)
        except RecursionError:
            raise ConfigurationError("messages are nested too deeply to be counted") from None
    return reading


def read_request(request: Mapping[str, Any], long: Mapping[str, LongString] = NO_LONG_STRINGS) -> Reading:
    """Of the body of a provider's request, in any format."""
    reading = Reading(long)
    reading._add_fields(
        {
            name: value
            for name, value in request.items()
            if value is not None and _squashed(name) not in SETTINGS
        }
    )
    return reading


def fields(value: Any) -> Mapping[str, Any] | None:
    """What a dict or a provider SDK's object says, without the fields that are None; None for anything else."""
    if not isinstance(value, dict):
        if hasattr(value, "model_dump") and not isinstance(value, type):
            value = value.model_dump()
        if not isinstance(value, Mapping):
            return None
    return {name: said for name, said in value.items() if said is not None}


@lru_cache(maxsize=NAMES_KEPT)
def _squashed(name: Any) -> str:
    return str(name).replace("_", "").lower()


def compact(value: Any) -> str:
    """JSON as models get to see it: of a tool, or of its call."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def is_file(text: str) -> bool:
    """A data URL, or base64."""
    if _DATA_URL.match(text):
        return True
    if len(text) < FILE_CHARS_MIN or not text.isascii() or " " in text:
        return False
    return all(_BASE64.fullmatch(part) for part in (text[:FILE_CHARS_MIN], text[-FILE_CHARS_MIN:]))


def _is_file_part(part: Mapping[str, Any]) -> bool:
    names = frozenset(map(_squashed, part))
    if not FILES.isdisjoint(names):
        return True
    source = part.get("source")
    if isinstance(source, Mapping):
        return not _is_text_source(source)
    return str(part.get("type")) in FILE_TYPES and TEXTS.isdisjoint(names)


def _is_text_source(source: Mapping[str, Any]) -> bool:
    return source.get("type") in ("text", "content")
