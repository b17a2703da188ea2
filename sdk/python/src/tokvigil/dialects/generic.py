"""Calls in formats nobody described here: images, sound, reranking, an endpoint of tomorrow. Pure.

A call that passed unseen would be a hole in the limits. So whatever names a model is evaluated by the text in
it; its usage is read where the answer says some. Of some of these formats it is known where they keep their cap; any
other request is never changed. Of some it is known that no tokens come out.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from tokvigil.dialects.answers import Tally
from tokvigil.dialects.openai import OpenAICall
from tokvigil.json_values import is_true, mapping, positive
from tokvigil.usage_reading import read_usage

FORM = "multipart/form-data"
BOUNDARY_CHARS_MAX = 70  # RFC 2046
VALUE_BYTES_MAX = 1_000
PARTS_MAX = 1_000
READ_OF_FORMS = ("model", "stream")

# Models of pictures that bill tokens; a call that names none may run one of them.
_BILLS_PICTURES_BY_TOKEN = re.compile(r"gpt-|gemini|^unspecified$", re.IGNORECASE)
# Models that bill each character they read aloud.
_BILLS_CHARACTERS = re.compile(r"(?:^|/)tts-1", re.IGNORECASE)
# Models of sound that bill characters or minutes.
_BILLS_SOUND_BY_LENGTH = re.compile(r"(?:^|/)(?:tts-1|whisper)", re.IGNORECASE)


class GenericCall(OpenAICall):
    def _tally(self) -> Tally:
        return GenericTally(self)


class ConverseCall(GenericCall):
    """Bedrock's format for the models of all vendors."""

    cap_names = ("maxTokens",)
    config_names = ("inferenceConfig",)

    def _cap_min(self) -> int:
        thinking = mapping(mapping(self._fields.get("additionalModelRequestFields")).get("thinking"))
        return 1 + (positive(thinking.get("budget_tokens")) or 0)


class CohereChatCall(GenericCall):
    cap_names = ("max_tokens",)


class InteractionsCall(GenericCall):
    """Google's: with a model or with an agent, whose output has no cap."""

    cap_names = ("max_output_tokens", "maxOutputTokens")
    config_names = ("generation_config", "generationConfig")

    def _names_of_cap(self, without: Container[str]) -> list[str]:
        return super()._names_of_cap(without) if self._fields.get("agent") is None else []


class PieceCall(GenericCall):
    """Billed by piece, by page, by length, or by what is read: vectors, ranks, films, a cache."""

    def bills_output(self) -> bool:
        return False


class PictureCall(GenericCall):
    def bills_output(self) -> bool:
        return _BILLS_PICTURES_BY_TOKEN.search(self.model) is not None


class SoundCall(GenericCall):
    def pieces(self) -> Mapping[str, int]:
        """The answer is sound, and says nothing."""
        text = self._fields.get("input")
        if not isinstance(text, str) or not _BILLS_CHARACTERS.search(self.model):
            return {}
        long = self._request.body.long.get(text)
        return {"input_characters": len(text if long is None else long.whole())}

    def _count_input(self) -> int:
        return 0 if self.pieces() else super()._count_input()

    def bills_output(self) -> bool:
        return _BILLS_SOUND_BY_LENGTH.search(self.model) is None


class GenericTally(Tally):
    """Nothing is known of the answer but where usage stands by custom. Text in it is not counted: without usage nobody
    can tell what was used."""

    answers_in_text = False

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        for fields in (event, event.get("response"), event.get("delta"), event.get("metadata")):
            self.hear(read_usage(fields))
        return True


def read_form(content_type: str, body: bytes) -> dict[str, Any] | None:
    """The `model` and the `stream` of a multipart form; what it does not say is absent. What is in its files, a
    recording to write down or an image to change, costs what the answer says.

    None for anything that is no whole form, or says a thing twice: a server may read it otherwise.
    """
    boundary = _boundary(content_type)
    if boundary is None:
        return None
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, PARTS_MAX)
    if not parts or not parts.pop().startswith(b"--"):
        return None
    said: dict[str, str] = {}
    for part in parts:
        head, separator, value = part.partition(b"\r\n\r\n")
        name = _part_name(head)
        if not separator or name is None:
            return None
        if name in READ_OF_FORMS and not _is_file(head):
            text = value[:VALUE_BYTES_MAX].strip().decode("utf-8", "replace")
            if said.setdefault(name, text) != text:
                return None
    return said if "stream" not in said else {**said, "stream": is_true(said["stream"])}


def _boundary(content_type: str) -> bytes | None:
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    if kind.lower() != FORM:
        return None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        boundary = value.strip('"')
        if name.lower() == "boundary" and 0 < len(boundary) <= BOUNDARY_CHARS_MAX:
            return boundary.encode("utf-8", "replace")
    return None


def _part_name(head: bytes) -> str | None:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        if line.lower().startswith("content-disposition:"):
            names = (part.strip() for part in line.split(";")[1:])
            return next((part[5:].strip('"') for part in names if part.lower().startswith("name=")), None)
    return None


def _is_file(head: bytes) -> bool:
    return b"filename" in head.lower()
