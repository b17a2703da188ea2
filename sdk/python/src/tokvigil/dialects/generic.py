"""Calls in formats nobody described here: images, sound, reranking, an endpoint of tomorrow. Pure.

A call that passed unseen would be a hole in the limits. So whatever names a model is evaluated by the text in
it; its usage is read where the answer says some. The request is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokvigil.dialects.answers import Tally
from tokvigil.dialects.openai import OpenAICall
from tokvigil.dialects.prompt import Prompt
from tokvigil.json_values import mapping
from tokvigil.usage_reading import read_usage

FORM = "multipart/form-data"
BOUNDARY_CHARS_MAX = 70  # RFC 2046
VALUE_BYTES_MAX = 1_000
PARTS_MAX = 1_000
READ_OF_FORMS = ("model", "stream")


class GenericCall(OpenAICall):
    def _tally(self) -> Tally:
        return GenericTally(self)

    def _count_input(self) -> int:
        prompt = Prompt()
        prompt.add_strings({name: value for name, value in self._fields.items() if name != "model"})
        return prompt.count(self.model)


class FormCall(GenericCall):
    """A form with files: a recording to write down, an image to change. What they cost, the answer says."""

    def _count_input(self) -> int:
        return 0


class GenericTally(Tally):
    """Nothing is known of the answer but where usage stands by custom; text in it is not counted."""

    expects_json = False

    def read_answer(self, answer: Mapping[str, Any]) -> None:
        self.said = read_usage(answer)

    def read_event(self, name: str, event: Mapping[str, Any]) -> bool:
        usages = (read_usage(fields) for fields in (event, mapping(event.get("response"))))
        self.said = next((usage for usage in usages if usage is not None), self.said)
        return True

    def _count_unread(self, unread: str) -> int:
        """As a rule bytes of a picture or a sound."""
        return 0


def read_form(content_type: str, body: bytes) -> Mapping[str, Any] | None:
    """The `model` and the `stream` of a multipart form, as it writes them; what it does not say is absent.

    None for anything that is no whole form, or says a thing twice: a server may read it otherwise.
    """
    boundary = _boundary(content_type)
    if boundary is None:
        return None
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, PARTS_MAX)
    if not parts or not parts.pop().startswith(b"--"):
        return None
    fields: dict[str, str] = {}
    for part in parts:
        head, separator, value = part.partition(b"\r\n\r\n")
        name = _part_name(head)
        if not separator or name is None:
            return None
        if name in READ_OF_FORMS and not _is_file(head):
            text = value[:VALUE_BYTES_MAX].strip().decode("utf-8", "replace")
            if fields.setdefault(name, text) != text:
                return None
    return fields


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
