"""A TokVigil in this process: it decides by a script, and remembers what it was asked and told."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from tokvigil import prices
from tokvigil.errors import UnreachableError
from tokvigil.links import Answer, Request
from tokvigil.models import UsageEvent
from tokvigil.question import Question, new_request_id
from tokvigil.testing.bodies import first_error
from tokvigil.testing.script import HOLD_S, POLICY, Script, instant


class Refused(Exception):
    """A problem document instead of an answer."""

    def __init__(self, status: int, code: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors = [] if field is None else [{"field": field, "message": detail}]


class ControlPlane:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.script = Script()
            self.is_down = False
            # By request id: a question that is asked again is the same question.
            self.evaluated: dict[str, Question] = {}
            self.reported: dict[str, UsageEvent] = {}
            self.held: dict[str, Question] = {}
            self.charged_usd = Decimal(0)

    def send(self, request: Request) -> Answer:
        """Raises what the clients raise if they cannot connect."""
        if self.is_down:
            raise UnreachableError("the fake TokVigil is down")
        try:
            with self._lock:
                status, body = self._route(request)
        except Refused as refused:
            status, body = refused.status, _problem(refused)
        return Answer(status=status, body=b"" if body is None else json.dumps(body).encode())

    async def send_async(self, request: Request) -> Answer:
        return self.send(request)

    def close(self) -> None:
        """Nothing is open."""

    async def close_async(self) -> None:
        """Nothing is open."""

    def _route(self, request: Request) -> tuple[int, Any]:
        path, _, query = request.path.partition("?")
        match request.method, *path.strip("/").split("/"):
            case "POST", "v1", "evaluate":
                return 200, self._evaluate(json.loads(request.body or b""))
            case "POST", "v1", "usage":
                return self._usage(json.loads(request.body or b""))
            case "POST", "v1", "usage", "batch":
                events = json.loads(request.body or b"")["events"]
                return 200, {"results": [self._batched(index, event) for index, event in enumerate(events)]}
            case "GET", "v1", "limits":
                return 200, self._limits(dict(parse_qsl(query)))
            case "DELETE", "v1", "reservations", request_id:
                self._end(unquote(request_id))
                return 204, None
            case "POST", "v1", "reservations", request_id, "extend":
                return 200, self._extend(unquote(request_id))
        raise Refused(404, "NOT_FOUND", f"a fake TokVigil has no {request.method} {path}")

    def _evaluate(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        _check(body)
        question = Question(**body)
        decision = self.script.decide(question, datetime.now(UTC))
        self.evaluated[question.request_id] = question
        if decision["reserved"] is not None:
            self.held[question.request_id] = question
        return decision

    def _usage(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        event, duplicate, cost_usd = self._record(body)
        return 200 if duplicate else 201, {
            "request_id": event.request_id,
            "duplicate": duplicate,
            "cost_usd": _text(cost_usd),
            "priced": cost_usd is not None,
            "limit_state": [],
        }

    def _batched(self, index: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        said: dict[str, Any] = {"index": index, "request_id": body.get("request_id")}
        try:
            _, duplicate, cost_usd = self._record(body)
        except Refused as refused:
            status = "conflict" if refused.status == HTTPStatus.CONFLICT else "invalid"
            error = {"code": refused.code, "detail": refused.detail, "errors": refused.errors}
            return said | {"status": status, "error": error}
        return said | {"status": "duplicate" if duplicate else "recorded", "cost_usd": _text(cost_usd)}

    def _record(self, body: Mapping[str, Any]) -> tuple[UsageEvent, bool, Decimal | None]:
        """The event, whether it was known, and what it costs by list price."""
        _check(body)
        try:
            event = UsageEvent.from_wire(body)
            at = event.occurred_at or datetime.now(UTC)
            cost_usd = prices.cost(event.model, event.usage, at, provider=event.provider)
        except (UnreachableError, ValueError) as error:
            raise Refused(422, "VALIDATION_ERROR", str(error)) from None
        known = self.reported.setdefault(event.request_id, event)
        if known != event:
            raise Refused(409, "IDEMPOTENCY_CONFLICT", f"{event.request_id} was reported with other content")
        if known is event:
            self.held.pop(event.request_id, None)
            self.charged_usd += cost_usd or 0
        return event, known is not event, cost_usd

    def _limits(self, params: Mapping[str, str]) -> Mapping[str, Any]:
        user_id, plan = params.get("user_id"), params.get("plan")
        question = Question(
            user_id=user_id or "", model=params.get("model", ""), feature=params.get("feature"), plan=plan
        )
        block = self.script.block_of(question)
        return {
            "user_id": user_id,
            "plan": plan,
            "policies": [POLICY | {"kind": "override", "mode": "enforce"}],
            "limit_state": [] if block is None else block.limit_state(datetime.now(UTC)),
            "blocked": None
            if block is None or block.limit_state(datetime.now(UTC))
            else {
                "reason_code": block.reason_code,
                "reason_class": block.reason_class,
                "message": block.says(question.user_id),
            },
        }

    def _end(self, request_id: str) -> None:
        if self.held.pop(request_id, None) is None:
            raise Refused(404, "NOT_FOUND", f"nothing is held for {request_id}")

    def _extend(self, request_id: str) -> Mapping[str, Any]:
        if request_id not in self.held:
            raise Refused(404, "NOT_FOUND", f"nothing is held for {request_id}")
        return {
            "request_id": request_id,
            "expires_at": instant(datetime.now(UTC) + timedelta(seconds=HOLD_S)),
        }


def _check(body: Mapping[str, Any]) -> None:
    error = first_error(body)
    if error is not None:
        field, message = error
        raise Refused(422, "VALIDATION_ERROR", f"{field} {message}", field)


def _problem(refused: Refused) -> Mapping[str, Any]:
    return {
        "type": "about:blank",
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "code": refused.code,
        "detail": refused.detail,
        "errors": refused.errors,
        "request_id": new_request_id(),
    }


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"
