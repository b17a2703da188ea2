"""The API in tests, as an application sees it, and what an environment is set up with. Holds no test."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any, TypeVar

from django.db import connection, connections, transaction
from django.test import Client

from policies.changing import publishing
from policies.files import policy_file
from tenants.models import ApiKey, Environment
from tenants.scopes import PRESETS
from usage.amounts import Amounts
from usage.counting.store import store
from usage.instants import from_ms, to_ms
from usage.models import ModelPrice, UsageEvent
from usage.settling import recount
from usage.settling.recount import CheckReport

T = TypeVar("T")


class Api:
    """One API key of an environment, in process."""

    def __init__(self, environment: Environment, *, preset: str = "management", **fields: Any) -> None:
        self.environment = environment
        self.key, self.text = ApiKey.issue(environment, "test", PRESETS[preset], **fields)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        client = Client(headers={"authorization": f"Bearer {self.text}", **headers})
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        response = client.generic(method, path, content, content_type="application/json")
        return Answer(response.status_code, response.getvalue(), dict(response.headers))

    def post(self, path: str, body: Any) -> Answer:
        return self.request("POST", path, body)

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def evaluate(self, user: str = "user_1", model: str = "test-model", **fields: Any) -> dict[str, Any]:
        """The decision. Asks for one input token and no output unless told otherwise."""
        body = {"user_id": user, "model": model, "input_tokens": 1, "max_output_tokens": 0, **fields}
        answer = self.post("/v1/evaluate", {name: value for name, value in body.items() if value is not None})
        assert answer.status == 200, answer
        decision: dict[str, Any] = answer.json
        return decision

    def report(
        self, request_id: str, user: str = "user_1", model: str = "test-model", **fields: Any
    ) -> Answer:
        body = {
            "request_id": request_id,
            "user_id": user,
            "model": model,
            "input_tokens": 1,
            "output_tokens": 0,
        }
        return self.post("/v1/usage", body | fields)

    def use(self, user: str = "user_1", **fields: Any) -> str:
        """A whole call: evaluated, allowed, and reported as held. The request_id."""
        decision = self.evaluate(user, **fields)
        assert decision["allowed"], decision
        tokens = {
            "input_tokens": fields.get("input_tokens", 1),
            "output_tokens": fields.get("max_output_tokens", 0),
        }
        assert self.report(decision["request_id"], user, **tokens).status == 201
        return str(decision["request_id"])


class Answer:
    def __init__(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.status = status
        self.content = content
        self.headers = headers

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    def __repr__(self) -> str:
        return f"{self.status} {self.content.decode(errors='replace')}"


def apply_policies(environment: Environment, text: str) -> None:
    publishing.publish(environment, policy_file.parse("version: 1\n" + text), actor="test")


def limits(*rows: str, name: str = "Everyone", **fields: str) -> str:
    """A policy file with one policy for all: `limits("{metric: requests, window: day, amount: 5, per: user}")`."""
    more = "".join(f"    {field}: {value}\n" for field, value in fields.items())
    listed = "".join(f"      - {row}\n" for row in rows)
    return f"policies:\n  - name: {name}\n    unknown_price: allow\n{more}    limits:\n{listed}"


def set_price(model: str, *, input_usd: str = "0", output_usd: str = "0") -> ModelPrice:
    """A price per million tokens, for all tenants, from 2020 on."""
    return ModelPrice.objects.create(
        provider="openai",
        model=model,
        effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        input_per_million=Decimal(input_usd),
        output_per_million=Decimal(output_usd),
        source="test",
    )


def ledger(environment: Environment, **filters: Any) -> list[UsageEvent]:
    """Oldest first."""
    return list(UsageEvent.objects.filter(environment=environment, **filters).order_by("id"))


def assert_settled(environment: Environment) -> CheckReport:
    """Counters and ledger agree, and nothing is held any more."""
    found = recount.check(environment)
    assert found.drifts == ()
    assert found.held == Amounts(), found
    assert found.open_reservations == 0
    return found


def at_once(count: int, work: Callable[[int], T], threads: int = 16) -> list[T]:
    """Runs work(0) .. work(count - 1), the first `threads` of them released at the same instant."""
    barrier = Barrier(min(threads, count))

    def run(number: int) -> T:
        if number < barrier.parties:
            barrier.wait(timeout=10)
        try:
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(run, range(count)))


def while_held(change: Callable[[], object], late: Callable[[], Any]) -> Any:
    """What `late` answers that begins before `change` is committed."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(late())
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    with transaction.atomic():
        change()
        thread.start()
        thread.join(timeout=0.5)
        assert thread.is_alive(), "it did not wait"
    thread.join(timeout=10)
    return answers[0]


def set_clock(moment: datetime) -> None:
    """Has the counter store, and this process, believe that it is this moment now. Time goes on from there."""
    store.clock_offset_ms = 0
    store.clock_offset_ms = to_ms(moment) - store.now_ms()


def later(**by: int) -> None:
    """Time passes: `later(minutes=9)`."""
    set_clock(from_ms(store.now_ms()) + timedelta(**by))


def new_request_id() -> str:
    return uuid.uuid4().hex


def allowed(decisions: Iterable[dict[str, Any]]) -> int:
    return sum(decision["allowed"] for decision in decisions)
