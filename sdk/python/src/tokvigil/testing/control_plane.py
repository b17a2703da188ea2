"""A TokVigil in this process: it decides by a script, and remembers what it was asked and told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from tokvigil import checked, prices
from tokvigil.errors import ConfigurationError, UnreachableError
from tokvigil.links import Answer, Request
from tokvigil.models import COUNTS, Usage, UsageEvent, checked_quantities, checked_tier
from tokvigil.question import Question, new_request_id
from tokvigil.testing.script import HOLD_S, POLICY, Block, decision, instant

T = TypeVar("T")
# What a question may still have wrong: the clients check all else before they ask.
CHECKS: Mapping[str, Callable[[Any], object]] = {
    "request_id": checked.request_id,
    "user_id": checked.user_id,
    "model": checked.model,
    "input_tokens": partial(checked.count, "input_tokens", most=checked.TOKENS_MAX),
    "max_output_tokens": partial(checked.count, "max_output_tokens", most=checked.TOKENS_MAX),
    "service_tier": checked_tier,
    "region": partial(checked.name, "region"),
    "quantities": checked_quantities,
}
# What a rule says, and the fields of the questions that it is about: of all, if there are none.
Rule = tuple[Mapping[str, str], T]


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
            self.is_down = False
            # The last one about a call holds for it; None: it is allowed.
            self.blocks: list[Rule[Block | None]] = []
            self.caps: list[Rule[int | None]] = []
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
                del self.held[self._holding(request_id)]
                return 204, None
            case "POST", "v1", "reservations", request_id, "extend":
                expires_at = instant(datetime.now(UTC) + timedelta(seconds=HOLD_S))
                return 200, {"request_id": self._holding(request_id), "expires_at": expires_at}
        raise Refused(404, "NOT_FOUND", f"a fake TokVigil has no {request.method} {path}")

    def _evaluate(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        _check(body)
        question = Question(**body)
        caps = (question.max_output_tokens, _last(self.caps, question))
        cap = min((cap for cap in caps if cap is not None), default=None)
        answer = decision(question, _last(self.blocks, question), cap, datetime.now(UTC))
        self.evaluated[question.request_id] = question
        if answer["reserved"] is not None:
            self.held[question.request_id] = question
        return answer

    def _usage(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        duplicate, cost_usd = self._record(body)
        return 200 if duplicate else 201, {
            "request_id": body["request_id"],
            "duplicate": duplicate,
            "cost_usd": cost_usd,
            "priced": cost_usd is not None,
            "unpriced": sorted(body.get("quantities", ())),
            "limit_state": [],
        }

    def _batched(self, index: int, body: Mapping[str, Any]) -> Mapping[str, Any]:
        said: dict[str, Any] = {"index": index, "request_id": body.get("request_id")}
        try:
            duplicate, cost_usd = self._record(body)
        except Refused as refused:
            status = "conflict" if refused.status == HTTPStatus.CONFLICT else "invalid"
            error = {"code": refused.code, "detail": refused.detail, "errors": refused.errors}
            return said | {"status": status, "error": error}
        return said | {"status": "duplicate" if duplicate else "recorded", "cost_usd": cost_usd}

    def _record(self, body: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Whether the event was known, and what it costs by list price."""
        try:
            event = event_of(body)
        except ConfigurationError as error:
            raise Refused(422, "VALIDATION_ERROR", str(error)) from None
        at = event.occurred_at or datetime.now(UTC)
        cost_usd = prices.cost(event.model, event.usage, at, provider=event.provider)
        known = self.reported.setdefault(event.request_id, event)
        if known != event:
            raise Refused(409, "IDEMPOTENCY_CONFLICT", f"{event.request_id} was reported with other content")
        if known is event:
            self.held.pop(event.request_id, None)
            self.charged_usd += cost_usd or 0
        return known is not event, None if cost_usd is None else f"{cost_usd:f}"

    def _limits(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        question = Question(**{"user_id": "", "model": "", **params})
        block = _last(self.blocks, question)
        blocked = None if block is None else block.answer(question.user_id, datetime.now(UTC))
        limit_state = blocked["limit_state"] if blocked else []
        said = ("reason_code", "reason_class", "message")
        return {
            "user_id": params.get("user_id"),
            "plan": params.get("plan"),
            "policies": [POLICY | {"kind": "override", "mode": "enforce"}],
            "limit_state": limit_state,
            "blocked": {name: blocked[name] for name in said} if blocked and not limit_state else None,
        }

    def _holding(self, quoted: str) -> str:
        """The request id in a path. Raises `Refused` if nothing is held for it."""
        request_id = unquote(quoted)
        if request_id not in self.held:
            raise Refused(404, "NOT_FOUND", f"nothing is held for {request_id}")
        return request_id


def event_of(body: Mapping[str, Any]) -> UsageEvent:
    """The event that `to_wire` wrote. Raises `ConfigurationError` for one that cannot be."""
    fields = dict(body)
    of_usage = (*COUNTS, "quantities", "service_tier", "region", "reported_cost_usd")
    used = {name: fields.pop(name) for name in of_usage if name in fields}
    if fields.pop("batch", False):
        used.setdefault("service_tier", "batch")
    occurred_at = fields.pop("occurred_at", None)
    return UsageEvent(
        **fields,
        usage=Usage(**used),
        occurred_at=None if occurred_at is None else datetime.fromisoformat(occurred_at),
    )


def _last(rules: list[Rule[T | None]], question: Question) -> T | None:
    """What the last rule about a question says."""
    return next(
        (
            said
            for about, said in reversed(rules)
            if all(getattr(question, name) == value for name, value in about.items())
        ),
        None,
    )


def _check(body: Mapping[str, Any]) -> None:
    for field, check in CHECKS.items():
        try:
            if field in body:
                check(body[field])
        except ConfigurationError as error:
            raise Refused(422, "VALIDATION_ERROR", str(error), field) from None


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
