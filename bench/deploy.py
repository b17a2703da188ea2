"""`make deploy AGAINST=commit`: a deploy, with a process of that commit beside one of this checkout.

Both serve the same environment, on the same PostgreSQL and Valkey, which this checkout has migrated. Whatever the one
took the other must live with: reports and evaluates that are sent again, holds to settle and to release, blocked
decisions. Ends with a status of 1 if it does not. It measures nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.checkouts import checkout_of, manage
from bench.servers import bench_stack, wsgi_web
from tokvigil_site.embedded.placement import CHECKOUT

ANSWER_S_MAX = 30
POLICIES = """
version: 1
policies:
  - name: Everyone
    unknown_price: allow
    limits:
      - {metric: requests, window: day, amount: 1000, per: user}
      - {metric: cost_usd, window: month, amount: "1000", per: environment}
  - name: None of it
    scope: {feature: closed}
    limits: [{metric: requests, window: day, amount: 0, per: user}]
"""
CALL = {"user_id": "anna", "model": "gpt-4o-mini"}
ASKED = {**CALL, "feature": "chat", "input_tokens": 374, "max_output_tokens": 200}
# As little as a report may say, and all that the first version knew.
REPORTS: list[dict[str, Any]] = [
    {**CALL, "input_tokens": 374, "output_tokens": 44},
    {
        **CALL,
        "input_tokens": 374,
        "output_tokens": 44,
        "cached_input_tokens": 100,
        "cache_write_tokens": 20,
        "reasoning_tokens": 10,
        "plan": "pro",
        "feature": "chat",
        "run_id": "run-7",
        "provider": "openai",
        "status": "partial",
        "batch": True,
        "latency_ms": 812,
        "reported_cost_usd": "0.0002",
        "metadata": {"region": "eu"},
    },
]


@dataclass(frozen=True, slots=True)
class Version:
    """A web process of one version."""

    name: str
    url: str
    key: str

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=ANSWER_S_MAX)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None
        finally:
            connection.close()

    def hold(self, **fields: Any) -> tuple[str, dict[str, Any]]:
        """A call, evaluated: its id and the answer."""
        request_id = uuid.uuid4().hex
        status, decision = self.ask("POST", "/v1/evaluate", {**ASKED, "request_id": request_id, **fields})
        assert status == 200, decision
        return request_id, decision


def reports_sent_again(first: Version, then: Version) -> None:
    for report in REPORTS:
        body = {**report, "request_id": uuid.uuid4().hex}
        status, answer = first.ask("POST", "/v1/usage", body)
        assert status == 201, answer
        status, answer = then.ask("POST", "/v1/usage", body)
        assert (status, answer.get("duplicate")) == (200, True), answer
        status, answer = then.ask("POST", "/v1/usage", {**body, "output_tokens": 45})
        assert (status, answer.get("code")) == (409, "IDEMPOTENCY_CONFLICT"), answer


def evaluates_sent_again(first: Version, then: Version) -> None:
    request_id, decision = first.hold()
    status, again = then.ask("POST", "/v1/evaluate", {**ASKED, "request_id": request_id})
    assert status == 200, again
    same = ("allowed", "reserved", "max_output_tokens", "limit_state", "expires_at")
    assert [again[name] for name in same] == [decision[name] for name in same], (decision, again)


def held_calls_reported(first: Version, then: Version) -> None:
    request_id, _ = first.hold()
    report = {**CALL, "request_id": request_id, "input_tokens": 374, "output_tokens": 44}
    status, receipt = then.ask("POST", "/v1/usage", report)
    assert status == 201, receipt
    assert [state["metric"] for state in receipt["limit_state"]] == ["requests", "cost_usd"], receipt


def calls_without_a_cap(first: Version, then: Version) -> None:
    request_id, decision = first.hold(max_output_tokens=None)
    reserved = decision["reserved"]
    report = {
        **CALL,
        "request_id": request_id,
        "input_tokens": reserved["input_tokens"],
        "output_tokens": reserved["output_tokens"],
    }
    status, receipt = then.ask("POST", "/v1/usage", report)
    assert status == 201, receipt


def holds_released(first: Version, then: Version) -> None:
    request_id, _ = first.hold()
    assert then.ask("POST", f"/v1/reservations/{request_id}/extend", {"seconds": 900})[0] == 200
    assert then.ask("DELETE", f"/v1/reservations/{request_id}")[0] == 204


def blocked_calls_listed(first: Version, then: Version) -> None:
    request_id, decision = first.hold(feature="closed")
    assert not decision["allowed"], decision
    status, listed = then.ask("GET", "/v1/decisions")
    assert status == 200, listed
    assert request_id in [each["request_id"] for each in listed["decisions"]], listed


CHECKS: tuple[Callable[[Version, Version], None], ...] = (
    reports_sent_again,
    evaluates_sent_again,
    held_calls_reported,
    calls_without_a_cap,
    holds_released,
    blocked_calls_listed,
)


@contextmanager
def both_versions(commit: str) -> Iterator[tuple[Version, Version]]:
    """The older one first."""
    variables = _variables()
    with checkout_of(commit) as checkout:
        policies = checkout.parent / "policies.yaml"
        policies.write_text(POLICIES)
        key = _prepared(policies, variables)
        with (
            wsgi_web(folder=checkout, variables=variables) as older,
            wsgi_web(variables=variables) as newer,
        ):
            yield Version(commit, older, key), Version("this checkout", newer, key)


def _variables() -> dict[str, str]:
    return dict(os.environ) | {"DJANGO_SETTINGS_MODULE": "tokvigil_site.settings"}


def _prepared(policies: Path, variables: dict[str, str]) -> str:
    for arguments in (
        ["migrate", "--verbosity", "0"],
        ["load_prices"],
        ["create_tenant", "deploy"],
        ["apply_policies", "deploy/prod", str(policies)],
    ):
        manage(CHECKOUT, variables, *arguments)
    return manage(
        CHECKOUT, variables, "issue_key", "deploy/prod", "--name", "deploy", "--preset", "management"
    ).strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.deploy", description=__doc__.splitlines()[0])
    # Its name as `make deploy` has it.
    parser.add_argument("commit", metavar="AGAINST", help="the version that runs beside this checkout")
    commit = parser.parse_args().commit
    failed = 0
    with bench_stack(), both_versions(commit) as (older, newer):
        for first, then in ((older, newer), (newer, older)):
            print(f"{first.name}, then {then.name}")
            for check in CHECKS:
                failed += not _holds(check, first, then)
        print(manage(CHECKOUT, _variables(), "check_counters"))
    if failed:
        sys.exit(f"{failed} checks failed.")


def _holds(check: Callable[[Version, Version], None], first: Version, then: Version) -> bool:
    try:
        check(first, then)
    except AssertionError as error:
        print(f"  FAILED  {check.__name__}: {error}")
        return False
    print(f"  ok      {check.__name__}")
    return True


if __name__ == "__main__":
    main()
