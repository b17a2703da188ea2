"""Applications that do what the SDKs do: they repeat what got no answer, with its request_id. Holds no test."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tenants.models import Environment
from tokvigil_site import tasks
from tokvigil_site.testing import Answer, Api, assert_settled, ledger, limits, new_request_id
from tokvigil_site.tests.servers import NoAnswer, WebApi, await_true
from usage.amounts import Amounts
from usage.settling import recount

DAILY_1 = "{metric: requests, window: day, amount: 1, per: user}"
RETRIES_MAX = 300
RETRY_PAUSE_S = 0.05
# More than usage/settling/given_up.py waits, and a turn of its watcher.
GIVEN_BACK_WITHIN_S = 10


@dataclass
class Application:
    """Makes whole calls through any of the web processes, and remembers how they went."""

    apis: list[WebApi]
    decisions: list[dict[str, Any]] = field(default_factory=list)
    evaluate_s: list[float] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    refusals: list[Answer] = field(default_factory=list)
    # Of reports, one of each that was told to come again.
    told_to_retry: list[Answer] = field(default_factory=list)

    def call(self, caller: int, _turn: int) -> None:
        decision = self.evaluate(caller, new_request_id())
        if decision is not None and decision["allowed"]:
            self.report(caller, decision["request_id"])
        time.sleep(0.005)

    def evaluate(self, caller: int, request_id: str) -> dict[str, Any] | None:
        body = {
            "user_id": "user_1",
            "model": "test-model",
            "input_tokens": 2,
            "max_output_tokens": 1,
            "request_id": request_id,
        }
        for attempt in range(RETRIES_MAX):
            begun = time.monotonic()
            try:
                answer = self._api(caller + attempt).post("/v1/evaluate", body)
            except NoAnswer:
                time.sleep(RETRY_PAUSE_S)
                continue
            self.evaluate_s.append(time.monotonic() - begun)
            if answer.status == 200:
                self.decisions.append(answer.json)
                return dict(answer.json)
            self.refusals.append(answer)
            if answer.status != 503:
                return None
            time.sleep(RETRY_PAUSE_S)
        raise AssertionError("no decision")

    def report(self, caller: int, request_id: str) -> None:
        for attempt in range(RETRIES_MAX):
            try:
                answer = self._api(caller + attempt).report(request_id, input_tokens=2, output_tokens=1)
            except NoAnswer:
                time.sleep(RETRY_PAUSE_S)
                continue
            if answer.status in (200, 201):
                self.reported.append(request_id)
                return
            assert answer.status == 503, answer
            self.told_to_retry.append(answer)
            time.sleep(RETRY_PAUSE_S)
        raise AssertionError("never recorded")

    def _api(self, number: int) -> WebApi:
        return self.apis[number % len(self.apis)]

    @property
    def allowed(self) -> int:
        return sum(decision["allowed"] for decision in self.decisions)

    def degraded(self) -> list[dict[str, Any]]:
        return [decision for decision in self.decisions if decision["degraded"]]


def assert_all_counted_once(application: Application, environment: Environment) -> None:
    """Every reported call is in the ledger once; counters and ledger agree; nothing is held any more."""
    rows = ledger(environment)
    assert sorted(row.request_id for row in rows) == sorted(application.reported)
    # As on beat: a single charge that the store answered too late waits for the worker.
    tasks.publish_revisions()
    # What is cold is rebuilt by being asked for.
    peeked = application.apis[0].evaluate(dry_run=True, input_tokens=2, max_output_tokens=1)
    assert not peeked["degraded"]
    # What the store held for a call that was blocked, for it did not answer in time, is given back by then.
    await_true(lambda: recount.check(environment).held == Amounts(), within_s=GIVEN_BACK_WITHIN_S)
    assert_settled(environment)
    used = {state["metric"]: state["used"] for state in peeked["limit_state"]}
    assert used.get("requests", len(rows)) == len(rows)


def passed(application: Application, count: int) -> bool:
    return application.allowed >= count


def monthly(amount: int, **fields: str) -> str:
    return limits(f"{{metric: requests, window: month, amount: {amount}, per: environment}}", **fields)


def used(api: Api) -> int:
    found: int = api.evaluate(dry_run=True)["limit_state"][0]["used"]
    return found
