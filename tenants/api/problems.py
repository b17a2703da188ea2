"""Errors of the HTTP API: RFC 9457 `application/problem+json` with a stable `code`."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied, ValidationError
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from audit import origin

logger = logging.getLogger("tokvigil.api")

CONTENT_TYPE = "application/problem+json"
RETRY_UNAVAILABLE_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    field: str
    message: str


class Problem(Exception):
    """An error answer. `code` is part of the contract; `detail` says what to do about it."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s

    def response(self) -> HttpResponse:
        body = {
            "type": f"urn:tokvigil:problem:{self.code.lower().replace('_', '-')}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "errors": self.errors,
            "request_id": origin.current().request_id or uuid.uuid4().hex,
        }
        response = HttpResponse(msgspec.json.encode(body), content_type=CONTENT_TYPE, status=self.status)
        if self.retry_after_s is not None:
            response["Retry-After"] = str(self.retry_after_s)
        if self.status == HTTPStatus.UNAUTHORIZED:
            response["WWW-Authenticate"] = "Bearer"
        return response


def invalid(*errors: FieldError) -> Problem:
    named = "; ".join(f"{error.field}: {error.message}" if error.field else error.message for error in errors)
    return Problem(422, "VALIDATION_ERROR", named, errors=errors)


def invalid_field(field: str, message: str) -> Problem:
    return invalid(FieldError(field=field, message=message))


def refused(error: ValidationError) -> Problem:
    """What a rule of the product found wrong, by field."""
    by_field = error.message_dict if hasattr(error, "error_dict") else {NON_FIELD_ERRORS: error.messages}
    return invalid(
        *(
            FieldError(field="" if field == NON_FIELD_ERRORS else field, message=" ".join(messages))
            for field, messages in by_field.items()
        )
    )


def invalid_api_key() -> Problem:
    """One answer for a missing, malformed, unknown, revoked and expired key: a stranger learns nothing from it."""
    return Problem(
        401, "INVALID_API_KEY", "The API key is missing or not valid. Send `Authorization: Bearer tv_...`."
    )


def insufficient_scope(scope: str) -> Problem:
    return Problem(
        403, "INSUFFICIENT_SCOPE", f"This API key lacks the scope {scope!r}; issue a key that has it."
    )


def not_found(what: str) -> Problem:
    return Problem(404, "NOT_FOUND", f"There is no such {what} in this environment.")


def idempotency_conflict(used: str, field: str = "request_id") -> Problem:
    return Problem(
        409,
        "IDEMPOTENCY_CONFLICT",
        f"{field} {used!r} was used before with other content; nothing was changed. Use a new {field}.",
        errors=(FieldError(field=field, message="used before with other content"),),
    )


def already_settled(detail: str) -> Problem:
    """The hold of a request_id has ended with a charge."""
    return Problem(409, "ALREADY_SETTLED", detail)


def rate_limited(retry_after_s: int) -> Problem:
    return Problem(
        429,
        "RATE_LIMITED",
        f"This API key calls too often; retry after {retry_after_s} s.",
        retry_after_s=retry_after_s,
    )


def unavailable(what: str) -> Problem:
    return Problem(
        503,
        "UNAVAILABLE",
        f"{what} cannot be reached in time. Retry, with the same request_id: nothing is counted twice.",
        retry_after_s=RETRY_UNAVAILABLE_S,
    )


def of(error: Exception) -> Problem | None:
    """The problem that an exception means to the caller, or None if it is a defect of ours."""
    match error:
        case Problem():
            return error
        case Http404():
            return Problem(404, "NOT_FOUND", "There is nothing at this address.")
        case PermissionDenied():
            return Problem(403, "FORBIDDEN", "This is not allowed.")
        case OperationalError() | InterfaceError():
            logger.warning("the ledger cannot be reached: %s", error)
            return unavailable("The ledger")
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return invalid_api_key()
        case exceptions.APIException():
            code = {405: "METHOD_NOT_ALLOWED", 406: "NOT_ACCEPTABLE", 415: "UNSUPPORTED_MEDIA_TYPE"}
            return Problem(error.status_code, code.get(error.status_code, "REQUEST_ERROR"), str(error.detail))
    return None


def answer(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """DRF's EXCEPTION_HANDLER. None lets a defect of ours surface as a 500."""
    problem = of(error)
    return None if problem is None else problem.response()
