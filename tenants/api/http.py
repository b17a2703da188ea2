"""Request bodies to typed values, and values to answers."""

from __future__ import annotations

import re
from typing import IO, Annotated, Any, TypeVar

import msgspec
from django.http import HttpRequest, HttpResponse
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer

from tenants.api import hints
from tenants.api.problems import FieldError, Problem, invalid
from tenants.lengths import NAME_LENGTH_MAX, REASON_LENGTH_MAX, REQUEST_ID_LENGTH_MAX

BODY_BYTES_MAX = 64 * 1024
LARGE_BODY_BYTES_MAX = 1024 * 1024
# Paths that take longer bodies than others.
LARGE_BODY_PATHS = frozenset({"/v1/usage/batch", "/v1/policy-file", "/v1/policies/simulate", "/v1/freeze"})
METADATA_KEYS_MAX = 16

T = TypeVar("T")

# PostgreSQL text holds no NUL.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LENGTH_MAX, pattern=r"^[^\x00]+\Z")]
RequestId = Annotated[
    str, msgspec.Meta(min_length=1, max_length=REQUEST_ID_LENGTH_MAX, pattern=r"^[^\x00]+\Z")
]
# Why something was changed, for colleagues.
Reason = Annotated[str, msgspec.Meta(max_length=REASON_LENGTH_MAX, pattern=r"^[^\x00]*\Z")]
MetadataKey = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[^\x00]+\Z")]
MetadataText = Annotated[str, msgspec.Meta(max_length=512, pattern=r"^[^\x00]*\Z")]
MetadataNumber = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
Metadata = Annotated[
    dict[MetadataKey, MetadataText | MetadataNumber | bool | None], msgspec.Meta(max_length=METADATA_KEYS_MAX)
]

_PATH = re.compile(r" - at (?:`key` in )?`(?P<path>[^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"Object missing required field `(?P<name>.*)`$")


def body_bytes_max(path: str) -> int:
    """The longest body that is taken at a path of the API."""
    return LARGE_BODY_BYTES_MAX if path in LARGE_BODY_PATHS else BODY_BYTES_MAX


def decode(request: HttpRequest, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as the decoder's type. Raises Problem: 415, 413, or 422 naming the field and the fix."""
    if request.content_type != "application/json":
        raise Problem(415, "UNSUPPORTED_MEDIA_TYPE", "Send the body as `Content-Type: application/json`.")
    if "CONTENT_LENGTH" not in request.META and "HTTP_TRANSFER_ENCODING" in request.META:
        raise Problem(411, "LENGTH_REQUIRED", "Send the body with a Content-Length, not in chunks.")
    bytes_max = body_bytes_max(request.path_info)
    if _announced_length(request) > bytes_max:
        raise Problem(413, "BODY_TOO_LARGE", f"The body is larger than {bytes_max} bytes; send less.")
    return parse(request.body, decoder)


def has_body(request: HttpRequest) -> bool:
    """Whether one was announced, or comes in chunks; none is read for it."""
    return _announced_length(request) > 0 or "HTTP_TRANSFER_ENCODING" in request.META


def parse(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(field_error(error, decoder.type)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise invalid(FieldError(field="", message=f"The body is not valid JSON: {error}")) from error


def field_error(error: msgspec.ValidationError, kind: Any) -> FieldError:
    """msgspec says `Expected int, got str - at `$.input_tokens``; the caller gets the field's name, and what to write.

    `kind` is what was to be read: the type of the body or the query.
    """
    text = str(error)
    found = _PATH.search(text)
    path = found["path"].removeprefix("$").removeprefix(".") if found else ""
    message = text[: found.start()] if found else text
    if named := _UNKNOWN_FIELD.match(message):
        known = "" if path else f"; known are {hints.known_fields(kind)}"
        return FieldError(field=_inside(path, named["name"]), message=f"unknown field{known}")
    if named := _MISSING_FIELD.match(message):
        return FieldError(field=_inside(path, named["name"]), message="required")
    if r"[^\x00]" in message:
        message = "must not contain NUL characters"
    elif (hint := hints.hint(kind, path)) is not None:
        message = f"{message}; {hint}"
    return FieldError(field=path, message=message)


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")


def json_response(body: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(body), content_type="application/json", status=status)


def _announced_length(request: HttpRequest) -> int:
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


class JSONRenderer(BaseRenderer):
    """Named for DRF's negotiation and for the schema; the views answer with `json_response`."""

    media_type = "application/json"
    format = "json"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> bytes:
        return msgspec.json.encode(data)


class JSONParser(BaseParser):
    """Named for the schema; the views read the body with `decode`."""

    media_type = "application/json"

    def parse(self, stream: IO[Any], media_type: Any = None, parser_context: Any = None) -> Any:
        return msgspec.json.decode(stream.read())
