"""PostgreSQL hangs, dies or is busy for somebody else, under traffic: evaluates go on, reports are told to retry."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest

from tenants.models import ApiKey, Environment, Tenant
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.testing import Answer, Api, apply_policies, ledger, limits, new_request_id
from tokvigil_site.tests.applications import Application, assert_all_counted_once, monthly
from tokvigil_site.tests.conftest import disposable_stack
from tokvigil_site.tests.servers import (
    NoAnswer,
    Traffic,
    WebApi,
    WebProcess,
    await_true,
    leave_servers,
    web_processes,
)
from usage.counting.store import store
from usage.settling import recount

EVALUATE_WAIT_S = 0.25
# The contract is 300 ms; servers, web processes, and these clients with their 70 threads share one busy machine.
EVALUATE_S_MAX = 0.3
BUSY_MACHINE_S = 0.3
# settings.API_WAIT_S, and the same for the machine.
REPORT_S_MAX = 3.0 + 2 * BUSY_MACHINE_S
REPORTERS = 64
# Far below the most that docs/configuration.md says of a web process; and what this one uses.
CONNECTIONS_MAX = 24 + 2
HUNG_S = 10.0
LOCKED_S = 5.0
# More often, and they would wait for the processors.
REPORT_EVERY_S = 1.0
RETRY_PAUSE_S = 0.5
RETRIES_MAX = 300


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """What it committed is there after a crash."""
    with disposable_stack(durable=True) as started:
        yield started


@pytest.fixture(scope="module")
def hurried(variables: dict[str, str]) -> dict[str, str]:
    return {**variables, "EVALUATE_WAIT_S": str(EVALUATE_WAIT_S)}


@pytest.fixture(scope="module")
def web(hurried: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """One web process: nobody can go to another."""
    with web_processes(1, tmp_path_factory.mktemp("web"), hurried) as started:
        yield started[0]


@pytest.fixture
def api(servers: Stack, environment_there: Environment, web: WebProcess) -> WebApi:
    apply_policies(environment_there, monthly(10**6))
    return ready(WebApi(Api(environment_there), web.port))


@pytest.fixture
def other_api(servers: Stack, web: WebProcess) -> WebApi:
    """Another tenant's."""
    environment = Tenant.create_with_environments(f"o-{secrets.token_hex(4)}").environments.get(slug="prod")
    apply_policies(environment, monthly(10**6))
    return ready(WebApi(Api(environment), web.port))


def ready(api: WebApi) -> WebApi:
    """Its process knows the environment and its users."""
    await_true(lambda: is_counted(api), within_s=10)
    await_true(lambda: is_counted(api, max_output_tokens=None, feature="chat"), within_s=10)
    return api


def is_counted(api: WebApi, user: str = "user_1", **fields: Any) -> bool:
    return not api.evaluate(user, dry_run=True, **fields)["degraded"]


@contextmanager
def hanging(servers: Stack) -> Iterator[None]:
    with servers.hanging_postgres():
        yield
    leave_servers()


@contextmanager
def locked(servers: Stack, table: str) -> Iterator[None]:
    """Somebody changes the table, and takes their time."""
    with psycopg.connect(servers.owner_url) as stranger:
        stranger.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        stranger.rollback()


def open_connections(servers: Stack) -> int:
    """Of all processes, this one included."""
    with psycopg.connect(servers.owner_url) as asking:
        found = asking.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone()
    assert found is not None
    return int(found[0])


@dataclass
class Asked:
    """One call after the other, of one kind; how long each took, and its outcome."""

    api: WebApi
    fields: dict[str, Any] = field(default_factory=dict)
    user: Callable[[], str] = lambda: "user_1"
    took_s: list[float] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)

    def once(self, *_: int) -> str:
        body = {
            "user_id": self.user(),
            "model": "test-model",
            "input_tokens": 1,
            "dry_run": True,
            **self.fields,
        }
        begun = time.monotonic()
        try:
            answer = self.api.post("/v1/evaluate", body)
            outcome = answer.json["reason_code" if answer.status == 200 else "code"]
        except NoAnswer:
            outcome = "no answer"
        self.took_s.append(time.monotonic() - begun)
        self.outcomes.append(outcome)
        time.sleep(0.01)
        return str(outcome)

    def assert_in_time(self, what: str) -> None:
        print(f"{what}: {len(self.took_s)} evaluates, the slowest took {max(self.took_s) * 1000:.0f} ms")
        assert max(self.took_s) < EVALUATE_S_MAX + BUSY_MACHINE_S


CAPPED: dict[str, Any] = {"max_output_tokens": 10}
UNCAPPED: dict[str, Any] = {"feature": "chat"}


@dataclass
class Reporters:
    """Applications that report calls, each again and again until it is recorded."""

    api: WebApi
    recorded: list[str] = field(default_factory=list)
    refusals: list[Answer] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    def report(self, *_: int) -> None:
        request_id = new_request_id()
        for _attempt in range(RETRIES_MAX):
            begun = time.monotonic()
            try:
                answer = self.api.report(request_id)
            except NoAnswer:
                # Refused before all of it was read; the answer may be lost with the connection.
                time.sleep(RETRY_PAUSE_S)
                continue
            finally:
                self.took_s.append(time.monotonic() - begun)
            if answer.status in (200, 201):
                self.recorded.append(request_id)
                time.sleep(random.uniform(0, 2 * REPORT_EVERY_S))
                return
            self.refusals.append(answer)
            time.sleep(RETRY_PAUSE_S)
        raise AssertionError("never recorded")

    def assert_told_to_retry_in_time(self) -> None:
        print(
            f"{len(self.refusals)} reports were told to come again, the slowest after {max(self.took_s):.2f} s"
        )
        assert self.refusals
        assert max(self.took_s) < REPORT_S_MAX
        for answer in self.refusals:
            assert (answer.status, answer.json["code"]) == (503, "UNAVAILABLE"), answer
            assert int(answer.headers["retry-after"]) >= 1

    def assert_all_counted_once(self, environment: Environment) -> None:
        assert_all_counted_once(Application([self.api], reported=self.recorded), environment)


def test_while_postgres_hangs_evaluates_decide_in_time_and_reports_are_told_to_retry(
    servers: Stack, api: WebApi, other_api: WebApi, environment_there: Environment
) -> None:
    reporters = Reporters(api)
    capped, uncapped, others = Asked(api, CAPPED), Asked(api, UNCAPPED), Asked(other_api, CAPPED)
    asking = [capped.once, uncapped.once, others.once]

    with Traffic(REPORTERS, reporters.report):
        await_true(lambda: len(reporters.recorded) >= REPORTERS, within_s=30)
        with hanging(servers), Traffic(3, lambda caller, _: asking[caller]()):
            time.sleep(HUNG_S)
        recorded = len(reporters.recorded)
        back_after_s = await_true(lambda: len(reporters.recorded) > recorded, within_s=5)
        await_true(lambda: len(reporters.recorded) > recorded + 2 * REPORTERS, within_s=30)
        assert open_connections(servers) <= CONNECTIONS_MAX

    print(f"reports went on {back_after_s:.2f} s after PostgreSQL did")
    for asked, what in ((capped, "capped"), (uncapped, "uncapped"), (others, "of another tenant")):
        asked.assert_in_time(what)
        assert set(asked.outcomes) == {"ALLOWED"}
    reporters.assert_told_to_retry_in_time()
    assert back_after_s < 1
    reporters.assert_all_counted_once(environment_there)


def test_a_report_that_took_effect_after_it_was_refused_is_charged_though_nobody_repeats_it(
    servers: Stack, api: WebApi, environment_there: Environment
) -> None:
    # Its process has a connection over which the statement gets to a server that hangs.
    assert api.report("before").status == 201
    with hanging(servers):
        assert api.report("during").status == 503

    def recorded() -> set[str]:
        return {row.request_id for row in ledger(environment_there)}

    await_true(lambda: recorded() == {"before", "during"}, within_s=10)
    await_true(lambda: not recount.check(environment_there).drifts, within_s=10)
    await_true(lambda: is_counted(api), within_s=10)
    assert api.evaluate(dry_run=True)["limit_state"][0]["used"] == 2


def test_what_a_process_does_not_know_is_refused_or_degraded_in_time_while_postgres_hangs(
    servers: Stack, api: WebApi, web: WebProcess
) -> None:
    unknown = Tenant.create_with_environments(f"u-{secrets.token_hex(4)}").environments.get(slug="prod")
    unknown_api = WebApi(Api(unknown), web.port)
    new_feature = Asked(api, {"feature": secrets.token_hex(4)})
    new_user = Asked(api, CAPPED, user=lambda: secrets.token_hex(4))
    unknown_environment = Asked(unknown_api, CAPPED)
    warm = Asked(api, CAPPED)
    with hanging(servers):
        with ThreadPoolExecutor(24) as pool:
            kinds = (new_feature, new_user, unknown_environment)
            asked = [pool.submit(kind.once) for _ in range(40) for kind in kinds]
            while not all(each.done() for each in asked):
                warm.once()
        begun = time.monotonic()
        ready_status = unknown_api.get("/readyz").status
        ready_s = time.monotonic() - begun
        live_status = unknown_api.get("/healthz").status
        me = unknown_api.get("/v1/me")

    assert set(new_feature.outcomes) == {"ALLOWED"}
    assert set(new_user.outcomes) == {"DEGRADED_BLOCKED"}
    assert set(unknown_environment.outcomes) == {"UNAVAILABLE"}
    assert set(warm.outcomes) == {"ALLOWED"}
    for kind, what in (
        (new_feature, "new feature"),
        (new_user, "new user"),
        (unknown_environment, "unknown environment"),
    ):
        kind.assert_in_time(what)
    warm.assert_in_time("warm, beside them")
    assert (ready_status, live_status) == (503, 200)
    assert ready_s < 1 + BUSY_MACHINE_S
    # A key that could not be looked up is not called a wrong one.
    assert (me.status, me.json["code"]) == (503, "UNAVAILABLE")
    assert await_true(partial(is_counted, api, secrets.token_hex(4)), within_s=1) < 1


def test_a_new_web_process_knows_what_was_called_lately_before_its_first_call(
    servers: Stack, api: WebApi, web: WebProcess, hurried: dict[str, str], tmp_path: Path
) -> None:
    """As in a roll-out: else the first callers of each process would be told to come again."""
    await_true(lambda: ApiKey.objects.get(pk=api.key.pk).last_used_at is not None, within_s=10)
    with web_processes(1, tmp_path, hurried) as started, hanging(servers):
        first = Asked(WebApi(api, started[0].port), CAPPED)
        first.once()

    assert first.outcomes == ["ALLOWED"]


def test_a_web_process_starts_without_postgres(
    servers: Stack, api: WebApi, hurried: dict[str, str], tmp_path: Path
) -> None:
    with hanging(servers), web_processes(1, tmp_path, hurried) as started:
        first = Asked(WebApi(api, started[0].port), CAPPED)
        first.once()
    assert first.outcomes == ["UNAVAILABLE"]


def test_reports_go_on_at_once_after_postgres_was_killed_and_started(
    servers: Stack, api: WebApi, environment_there: Environment
) -> None:
    reporters, warm = Reporters(api), Asked(api, CAPPED)

    with Traffic(16, reporters.report), Traffic(2, warm.once):
        await_true(lambda: len(reporters.recorded) >= 50, within_s=30)
        servers.kill_postgres()
        leave_servers()
        time.sleep(5)
        recorded = len(reporters.recorded)
        servers.start_postgres()
        back_after_s = await_true(lambda: len(reporters.recorded) > recorded, within_s=5)
        await_true(lambda: len(reporters.recorded) > recorded + 50, within_s=30)

    print(f"reports went on {back_after_s:.2f} s after PostgreSQL did")
    assert back_after_s < 1
    assert set(warm.outcomes) == {"ALLOWED"}
    warm.assert_in_time("warm")
    reporters.assert_told_to_retry_in_time()
    reporters.assert_all_counted_once(environment_there)


def test_a_lock_on_the_ledger_holds_up_no_evaluate_and_loses_no_report(
    servers: Stack, api: WebApi, other_api: WebApi, environment_there: Environment
) -> None:
    reporters = Reporters(api)
    capped, new_user = Asked(api, CAPPED), Asked(other_api, CAPPED, user=lambda: secrets.token_hex(4))
    new_feature = Asked(other_api, {"feature": secrets.token_hex(4)})
    asking = [capped.once, new_user.once, new_feature.once]

    with Traffic(REPORTERS, reporters.report):
        await_true(lambda: len(reporters.recorded) >= REPORTERS, within_s=30)
        with locked(servers, "usage_event"), Traffic(3, lambda caller, _: asking[caller]()):
            time.sleep(LOCKED_S)
        recorded = len(reporters.recorded)
        await_true(lambda: len(reporters.recorded) > recorded + REPORTERS, within_s=30)

    for asked, what in ((capped, "capped"), (new_user, "new users"), (new_feature, "new feature")):
        asked.assert_in_time(what)
        assert set(asked.outcomes) == {"ALLOWED"}
    reporters.assert_told_to_retry_in_time()
    reporters.assert_all_counted_once(environment_there)


def test_a_page_that_needs_what_is_locked_says_that_it_is_to_be_tried_again(
    servers: Stack, web: WebProcess
) -> None:
    page = Request(f"{web.url}/admin/", headers={"Cookie": f"sessionid={secrets.token_hex(16)}"})  # noqa: S310

    with locked(servers, "django_session"), pytest.raises(HTTPError) as refused:
        urlopen(page, timeout=REPORT_S_MAX)  # noqa: S310

    assert (refused.value.code, refused.value.headers["Retry-After"]) == (503, "1")
    assert "Try again" in refused.value.read().decode()


def test_a_rebuild_that_takes_long_goes_on_without_its_callers_and_holds_up_nobody_else(
    servers: Stack, api: WebApi, other_api: WebApi, environment_there: Environment
) -> None:
    """As after the store was emptied: the sums of many rows take their time, here because of a lock."""
    apply_policies(
        environment_there, limits("{metric: requests, window: month, amount: 5, per: environment}")
    )
    for _ in range(5):
        api.use()
    cold, others = Asked(api, CAPPED), Asked(other_api, CAPPED)
    store.client.flushdb()
    await_true(partial(is_counted, other_api), within_s=10)

    with locked(servers, "usage_event"), ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(cold.once) for _ in range(40)]
        while not all(each.done() for each in asking):
            others.once()
        time.sleep(1)

    cold.assert_in_time("cold, 8 callers")
    others.assert_in_time("of another tenant")
    assert set(cold.outcomes) == {"DEGRADED_BLOCKED"}
    assert set(others.outcomes) == {"ALLOWED"}
    # Complete, and as full as it was.
    found = [cold.once() for _ in range(20)]
    assert found[-1] == "MONTHLY_REQUEST_LIMIT_EXCEEDED"
    assert found.count("DEGRADED_BLOCKED") < 10
