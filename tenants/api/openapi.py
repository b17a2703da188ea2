"""The decorator with which every view describes itself for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from tenants.api.problems import CONTENT_TYPE, FieldError

SECURITY_SCHEME = "apiKey"
REF_TEMPLATE = "#/components/schemas/{name}"

F = TypeVar("F", bound=Callable[..., Any])


class ProblemAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457. `code` is part of the contract; `detail` says what to do; `errors` names the first wrong field."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: tuple[FieldError, ...]
    request_id: str


_PROBLEMS = {
    401: "`INVALID_API_KEY`: missing, malformed, unknown, revoked or expired.",
    403: "`INSUFFICIENT_SCOPE`: the key lacks the scope this needs.",
    404: "`NOT_FOUND`: there is no such thing in this environment.",
    408: "`REQUEST_TIMEOUT`: the body did not arrive in time; nothing was recorded. Retry.",
    409: "`IDEMPOTENCY_CONFLICT`: the id was used with other content. `ALREADY_SETTLED`: its hold has ended.",
    412: "`PRECONDITION_FAILED`: the environment has changed since; nothing was changed. Read again.",
    413: "`BODY_TOO_LARGE`: send less.",
    415: "`UNSUPPORTED_MEDIA_TYPE`: send application/json.",
    422: "`VALIDATION_ERROR`: `errors` names the first field that is wrong, and how to fix it.",
    429: "`RATE_LIMITED`: this key calls too often; wait `Retry-After` seconds.",
    503: "`UNAVAILABLE`: the ledger or the counter store is away. Retry with the same `request_id`.",
}
_OF_ANY_KEY = (401, 403, 429, 503)
_OF_A_BODY = (408, 413, 415, 422)
_OF_A_QUERY = (422,)


def operation(
    operation_id: str,
    summary: str,
    *,
    tag: str,
    answers: Mapping[Any, Any],
    description: str = "",
    body: Any = None,
    query: type[msgspec.Struct] | None = None,
    path: Mapping[str, str] | None = None,
    problems: Sequence[int] = (),
    examples: Sequence[OpenApiExample] = (),
) -> Callable[[F], F]:
    """Describes a method of a view. `answers`: a Struct (None: no body) by status, or by status and type of
    content; `path`: what its parts mean.

    The problems that every key, body or query can meet need not be named.
    """
    statuses = {*_OF_ANY_KEY, *problems, *(_OF_A_BODY if body else ()), *(_OF_A_QUERY if query else ())}
    responses: dict[Any, Any] = dict(answers)
    for status in sorted(statuses):
        responses[status, CONTENT_TYPE] = OpenApiResponse(ProblemAnswer, description=_PROBLEMS[status])
    return extend_schema(
        operation_id=operation_id,
        summary=summary,
        description=description or f"{summary}.",
        tags=[tag],
        request=body,
        responses=responses,
        parameters=[*_path_parameters(path or {}), *(_query_parameters(query) if query else ())],
        examples=list(examples),
        # Named here, because evaluate authenticates by itself.
        auth=[{SECURITY_SCHEME: []}],  # type: ignore[list-item]
    )


def _path_parameters(path: Mapping[str, str]) -> list[OpenApiParameter]:
    return [
        OpenApiParameter(name, str, OpenApiParameter.PATH, required=True, description=description)
        for name, description in path.items()
    ]


def _query_parameters(kind: type[msgspec.Struct]) -> list[OpenApiParameter]:
    _, components = msgspec.json.schema_components([kind], ref_template=REF_TEMPLATE)
    properties: dict[str, dict[str, Any]] = components[kind.__name__]["properties"]
    return [
        OpenApiParameter(name, _plain(schema), OpenApiParameter.QUERY, description=_description(schema))
        for name, schema in properties.items()
    ]


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without null, because an absent parameter is left out, and without what the parameter object already says."""
    kept = {**schema, **_first(schema)}
    said = {"anyOf", "description", *(name for name, value in kept.items() if value is None)}
    plain: dict[str, Any] = portable({name: value for name, value in kept.items() if name not in said})
    return plain


def _description(schema: dict[str, Any]) -> str:
    return str({**schema, **_first(schema)}.get("description", ""))


def _first(schema: dict[str, Any]) -> dict[str, Any]:
    """The alternative that is not null; parameters have at most one."""
    return next((part for part in schema.get("anyOf", ()) if part != {"type": "null"}), {})


def portable(schema: Any) -> Any:
    """Patterns as every language reads them: `\\Z` is Python's alone."""
    if isinstance(schema, dict):
        return {
            name: value.replace(r"\Z", "$")
            if name == "pattern" and isinstance(value, str)
            else portable(value)
            for name, value in schema.items()
        }
    return [portable(item) for item in schema] if isinstance(schema, list) else schema
