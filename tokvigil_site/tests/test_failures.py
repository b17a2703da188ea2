"""What breaks, under traffic: servers and processes go away and come back, and every call is still counted once.

The applications here do what the SDKs do: they repeat an evaluate or a report that got no answer, with its request_id.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection, connections

from audit import roles
from policies.end_users import set_end_user
from policies.evaluation import HOLD_MS
from tenants import freezing
from tenants.models import Environment, Tenant
from tokvigil_site import tasks
from tokvigil_site.embedded import stack, state
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.testing import (
    Answer,
    Api,
    apply_policies,
    assert_settled,
    at_once,
    later,
    ledger,
    limits,
    new_request_id,
    set_clock,
)
from tokvigil_site.tests.servers import (
    NoAnswer,
    Traffic,
    WebApi,
    WebProcess,
    await_true,
    launch,
    leave_servers,
)
from usage.counting import settle
from usage.counting.store import StoreUnavailable, store
from usage.settling import catching_up, expiry, recount

CALLERS = 6
# The contract is 150 ms; the machine is busy with the traffic itself.
OUTAGE_ANSWER_S_MAX = 0.4
RECOVERY_S_MAX = 4.0
RETRIES_MAX = 300
RETRY_PAUSE_S = 0.05


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
    assert_settled(environment)
    used = {state["metric"]: state["used"] for state in peeked["limit_state"]}
    assert used.get("requests", len(rows)) == len(rows)


def passed(application: Application, count: int) -> bool:
    return application.allowed >= count


def monthly(amount: int, **fields: str) -> str:
    return limits(f"{{metric: requests, window: month, amount: {amount}, per: environment}}", **fields)


# The counter store goes away


def test_a_flushed_store_forgets_nothing(apis: list[WebApi], environment_there: Environment) -> None:
    limit = 400
    apply_policies(environment_there, monthly(limit))
    application = Application(apis)

    with Traffic(CALLERS, application.call):
        for already in (100, 250):
            await_true(partial(passed, application, already), within_s=30)
            store.client.flushall()
        await_true(lambda: not application.decisions[-1]["allowed"], within_s=30)

    # Calls in flight at a flush lose their hold, one for each caller; all that was reported is remembered.
    assert limit <= application.allowed <= limit + 2 * CALLERS
    assert_all_counted_once(application, environment_there)


def outage(application: Application, begin: Any, end: Any, lasting_s: float) -> list[float]:
    """Takes the store away under traffic and gives it back. How long each evaluate took meanwhile."""
    before = len(application.evaluate_s)
    begin()
    time.sleep(lasting_s)
    took = application.evaluate_s[before:]
    end()
    return took


def assert_normal_again(application: Application) -> float:
    """By itself, in every web process; how long it took."""

    def is_normal() -> bool:
        peeks = [api.evaluate(dry_run=True) for api in application.apis for _ in range(2)]
        return not any(peek["degraded"] for peek in peeks)

    took_s = await_true(is_normal, within_s=RECOVERY_S_MAX)
    print(f"normal after {took_s:.2f} s")
    return took_s


@pytest.mark.parametrize("on_unavailable", ["block", "allow"])
def test_a_crash_of_the_store_degrades_by_policy_and_mends_itself(
    servers: Stack, apis: list[WebApi], environment_there: Environment, on_unavailable: str
) -> None:
    limit = 100_000
    apply_policies(environment_there, monthly(limit, on_unavailable=on_unavailable))
    application = Application(apis)

    with Traffic(CALLERS, application.call):
        await_true(lambda: application.allowed >= 50, within_s=30)
        took = outage(application, servers.kill_valkey, servers.start_valkey, lasting_s=1.5)
        assert_normal_again(application)
        reported = len(application.reported)
        await_true(lambda: len(application.reported) >= reported + 20, within_s=10)

    print(f"{len(took)} evaluates without a store, {max(took) * 1000:.0f} ms at most")
    assert max(took) < OUTAGE_ANSWER_S_MAX
    allowed = on_unavailable == "allow"
    reason = "DEGRADED_ALLOWED" if allowed else "DEGRADED_BLOCKED"
    assert {(each["allowed"], each["reason_code"]) for each in application.degraded()} == {(allowed, reason)}
    assert application.told_to_retry == application.refusals == []
    assert_all_counted_once(application, environment_there)


def use_up(application: Application) -> None:
    for turn in count():
        decision = application.evaluate(0, new_request_id())
        assert decision is not None
        if not decision["allowed"]:
            return
        application.report(0, decision["request_id"])
        assert turn < 500


def test_a_store_that_comes_back_empty_forgets_nothing(
    servers: Stack, apis: list[WebApi], environment_there: Environment
) -> None:
    apply_policies(environment_there, monthly(60))
    application = Application(apis)

    with Traffic(CALLERS, application.call):
        await_true(lambda: application.allowed >= 30, within_s=30)
        servers.kill_valkey()
        shutil.rmtree(valkey_folder(servers) / "appendonlydir")
        servers.start_valkey()
        assert_normal_again(application)
    use_up(application)

    assert 60 <= application.allowed <= 60 + CALLERS
    assert_all_counted_once(application, environment_there)


def test_a_store_that_comes_back_with_old_counters_is_not_believed(
    servers: Stack, apis: list[WebApi], environment_there: Environment, tmp_path: Path
) -> None:
    apply_policies(environment_there, monthly(60))
    application = Application(apis)
    data, old = valkey_folder(servers) / "appendonlydir", tmp_path / "old"
    for _ in range(10):
        application.call(0, 0)
    # In the old copy this call is in flight; in truth it is reported before the crash.
    in_flight = application.evaluate(0, new_request_id())
    assert in_flight is not None
    servers.kill_valkey()
    shutil.copytree(data, old)
    servers.start_valkey()
    assert_normal_again(application)
    application.report(0, in_flight["request_id"])
    with Traffic(CALLERS, application.call):
        await_true(lambda: application.allowed >= 45, within_s=30)
        servers.kill_valkey()
        shutil.rmtree(data)
        shutil.copytree(old, data)
        give_to_owner_of(valkey_folder(servers), data)
        servers.start_valkey()
        assert_normal_again(application)
    use_up(application)

    assert 60 <= application.allowed <= 60 + CALLERS
    assert_all_counted_once(application, environment_there)


def test_a_restart_that_nobody_noticed_is_found_out_by_the_next_call(
    servers: Stack, apis: list[WebApi], environment_there: Environment, tmp_path: Path
) -> None:
    """No call met the outage, so nobody knows that something may be amiss, but for the scripts that are gone."""
    apply_policies(environment_there, monthly(20))
    application = Application(apis)
    data, old = valkey_folder(servers) / "appendonlydir", tmp_path / "old"
    in_flight = application.evaluate(0, new_request_id())
    assert in_flight is not None
    time.sleep(0.1)
    shutil.copytree(data, old)
    application.report(0, in_flight["request_id"])
    use_up(application)
    servers.kill_valkey()
    shutil.rmtree(data)
    shutil.copytree(old, data)
    give_to_owner_of(valkey_folder(servers), data)
    servers.start_valkey()

    use_up(application)

    assert application.allowed == 20
    assert application.degraded() == []
    assert_all_counted_once(application, environment_there)


def valkey_folder(servers: Stack) -> Path:
    known = state.read(servers.home)
    assert known is not None
    return Path(known.data) / "valkey"


def give_to_owner_of(folder: Path, data: Path) -> None:
    owner = folder.stat()
    for path in (data, *data.iterdir()):
        os.chown(path, owner.st_uid, owner.st_gid)


def test_a_hanging_store_counts_as_down_and_keeps_no_hold_of_a_blocked_call(
    servers: Stack, apis: list[WebApi], environment_there: Environment
) -> None:
    apply_policies(environment_there, monthly(100_000))
    application = Application(apis)
    pid = stack.status(servers.home).valkey_pid
    assert pid is not None

    with Traffic(CALLERS, application.call):
        await_true(lambda: application.allowed >= 50, within_s=30)
        took = outage(
            application,
            lambda: os.kill(pid, signal.SIGSTOP),
            lambda: os.kill(pid, signal.SIGCONT),
            lasting_s=2,
        )
        assert_normal_again(application)

    print(f"{len(took)} evaluates while the store hung, {max(took) * 1000:.0f} ms at most")
    assert max(took) < OUTAGE_ANSWER_S_MAX
    assert application.degraded()
    assert application.told_to_retry == application.refusals == []
    assert_all_counted_once(application, environment_there)


def test_a_freeze_and_a_revoked_key_bind_while_the_store_is_away(
    servers: Stack, apis: list[WebApi], environment_there: Environment
) -> None:
    apply_policies(environment_there, monthly(1000, on_unavailable="allow"))
    api = Api(environment_there)
    others = [WebApi(api, each.port) for each in apis]
    assert all(each.evaluate()["allowed"] for each in (*apis, *others))
    servers.kill_valkey()
    try:
        assert [each.evaluate()["reason_code"] for each in apis] == ["DEGRADED_ALLOWED"] * 2
        api.key.revoke()
        set_end_user(environment_there, "user_2", plan_name=None, blocked=True, actor="test")
        body = {"user_id": "user_1", "model": "test-model"}
        assert [each.post("/v1/evaluate", body).status for each in others] == [401] * 2
        assert [each.evaluate("user_2")["reason_code"] for each in apis] == ["USER_BLOCKED"] * 2
        freezing.freeze(environment_there, actor="test")
        assert [each.evaluate()["reason_code"] for each in apis] == ["ENVIRONMENT_FROZEN"] * 2
    finally:
        servers.start_valkey()
    assert_normal_again(Application(apis))
    assert [each.evaluate()["reason_code"] for each in apis] == ["ENVIRONMENT_FROZEN"] * 2


def test_a_policy_published_while_the_store_hangs_binds_afterwards(
    servers: Stack, apis: list[WebApi], environment_there: Environment
) -> None:
    apply_policies(environment_there, monthly(1000, on_unavailable="allow"))
    assert all(each.evaluate()["allowed"] for each in apis)
    pid = stack.status(servers.home).valkey_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        apply_policies(environment_there, monthly(0, on_unavailable="allow"))
        assert all(each.evaluate()["degraded"] for each in apis)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert_normal_again(Application(apis))

    assert [each.evaluate()["allowed"] for each in apis] == [False] * 2


# A web process goes away


def test_a_killed_web_process_loses_and_doubles_nothing(
    apis: list[WebApi],
    processes: list[WebProcess],
    environment_there: Environment,
    variables: dict[str, str],
    tmp_path: Path,
) -> None:
    apply_policies(environment_there, monthly(100_000))
    application = Application(apis)

    with Traffic(CALLERS, application.call):
        for victim in (0, 1):
            already = application.allowed
            await_true(partial(passed, application, already + 40), within_s=30)
            processes[victim].kill()
            processes[victim] = launch(tmp_path, variables, processes[victim].port)
            processes[victim].await_ready()

    assert application.refusals == application.told_to_retry == []
    assert_all_counted_once(application, environment_there)


# PostgreSQL goes away


def test_without_the_ledger_reports_wait_and_warm_evaluates_decide(
    servers: Stack, apis: list[WebApi], environment_there: Environment
) -> None:
    apply_policies(environment_there, monthly(100_000))
    cold = Tenant.create_with_environments(f"t-{secrets.token_hex(4)}").environments.get(slug="prod")
    cold_apis = [WebApi(Api(cold), each.port) for each in apis]
    application = Application(apis)
    assert all(each.evaluate(dry_run=True)["allowed"] for each in apis)

    with Traffic(CALLERS, application.call):
        await_true(lambda: len(application.reported) >= 50, within_s=30)
        servers.stop_postgres()
        try:
            unknown = [each.post("/v1/evaluate", {"user_id": "u", "model": "m"}) for each in cold_apis]
            new_user = apis[0].evaluate(secrets.token_hex(4))
            warm: list[str] = []
            took: list[float] = []
            until = time.monotonic() + 2
            while time.monotonic() < until:
                begun = time.monotonic()
                warm.append(apis[len(warm) % 2].evaluate("user_1", dry_run=True)["reason_code"])
                took.append(time.monotonic() - begun)
        finally:
            servers.start_postgres()
            leave_servers()
        retried = len(application.reported)
        await_true(lambda: len(application.reported) >= retried + 30, within_s=20)

    print(f"{len(took)} warm evaluates without PostgreSQL, {max(took) * 1000:.0f} ms at most")
    assert {(answer.status, answer.json["code"]) for answer in unknown} == {(503, "UNAVAILABLE")}
    assert (new_user["degraded"], new_user["allowed"]) == (True, False)
    assert set(warm) == {"ALLOWED"}
    assert application.refusals == []
    assert application.told_to_retry
    for answer in application.told_to_retry:
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status, answer.json["code"]) == (503, "UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
    assert_all_counted_once(application, environment_there)


# Time passes, or a process ends, between the hold and the charge


def used(api: Api) -> int:
    found: int = api.evaluate(dry_run=True)["limit_state"][0]["used"]
    return found


DAILY_1 = "{metric: requests, window: day, amount: 1, per: user}"


def test_a_report_after_midnight_charges_the_day_of_the_evaluate(api: Api, environment: Environment) -> None:
    # Midnight in Berlin is 23:00 UTC.
    before, after = (
        datetime(2026, 11, 23, 22, 59, 50, tzinfo=UTC),
        datetime(2026, 11, 23, 23, 0, 10, tzinfo=UTC),
    )
    set_clock(before)
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]

    set_clock(after)
    assert api.report(request_id).status == 201

    assert api.evaluate()["allowed"]
    assert abs(ledger(environment)[0].charged_at - before) < timedelta(seconds=9)
    set_clock(before + timedelta(seconds=5))
    assert used(api) == 1
    assert recount.check(environment).drifts == ()


def test_an_expired_hold_frees_itself_without_a_worker(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_1))
    assert api.evaluate()["allowed"]
    assert not api.evaluate()["allowed"]

    later(milliseconds=HOLD_MS + 1)

    request_id = api.evaluate()["request_id"]
    assert api.report(request_id).status == 201
    assert_settled(environment)


@pytest.mark.parametrize("on_unsettled", ["release", "charge"])
def test_a_report_after_the_hold_expired_is_recorded_and_charged(
    api: Api, environment: Environment, on_unsettled: str
) -> None:
    apply_policies(environment, limits(DAILY_1, on_unsettled=on_unsettled))
    request_id = api.evaluate()["request_id"]
    later(milliseconds=HOLD_MS + 1)
    if on_unsettled == "release":
        assert expiry.settle_expired(environment) == (1, 0)

    assert api.report(request_id).status == 201

    assert not api.evaluate()["allowed"]
    assert_settled(environment)


def test_an_expired_hold_is_charged_and_a_late_report_corrects_it(api: Api, environment: Environment) -> None:
    apply_policies(
        environment,
        limits("{metric: tokens, window: day, amount: 100, per: user}", on_unsettled="charge"),
    )
    request_id = api.evaluate(input_tokens=40, max_output_tokens=20)["request_id"]
    later(milliseconds=HOLD_MS + 1)
    assert not api.evaluate(input_tokens=50)["allowed"]

    assert expiry.settle_expired(environment) == (0, 1)
    assert expiry.settle_expired(environment) == (0, 0)
    assert used(api) == 60
    assert_settled(environment)

    assert api.report(request_id, input_tokens=30, output_tokens=5).status == 201
    assert api.report(request_id, input_tokens=30, output_tokens=5).status == 200
    assert api.report(request_id, input_tokens=31, output_tokens=5).status == 409

    rows = [(row.status, row.amounts.input_tokens, row.amounts.output_tokens) for row in ledger(environment)]
    assert sorted(rows) == [("reversal", -40, -20), ("succeeded", 30, 5), ("unsettled", 40, 20)]
    assert used(api) == 35
    assert_settled(environment)


def test_an_extended_hold_stays(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]
    later(minutes=9)
    assert api.post(f"/v1/reservations/{request_id}/extend", {"seconds": 600}).status == 200

    later(minutes=9)
    assert not api.evaluate()["allowed"]
    later(minutes=2)
    assert api.evaluate()["allowed"]
    assert api.post(f"/v1/reservations/{request_id}/extend", {"seconds": 600}).status == 404


def test_a_hold_is_released_once_and_not_after_its_report(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    dropped, made = api.evaluate()["request_id"], api.use()

    assert [api.request("DELETE", f"/v1/reservations/{dropped}").status for _ in range(2)] == [204, 204]
    assert api.request("DELETE", f"/v1/reservations/{made}").status == 409
    assert api.request("DELETE", "/v1/reservations/unheard-of").status == 404
    assert api.report(dropped).status == 201
    assert used(api) == 2
    assert_settled(environment)


def die_before_charging(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends after the ledger committed and before the counters were charged; once."""
    charge = settle.settle_many

    def die(*_: object, **__: object) -> None:
        monkeypatch.setattr(settle, "settle_many", charge)
        raise SystemExit

    monkeypatch.setattr(settle, "settle_many", die)


def test_a_repeated_report_charges_what_a_dead_process_did_not(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]
    die_before_charging(monkeypatch)
    with pytest.raises(SystemExit):
        api.report(request_id)
    assert (len(ledger(environment)), used(api)) == (1, 0)

    assert [api.report(request_id).status for _ in range(2)] == [200, 200]

    assert used(api) == 1
    assert_settled(environment)


@pytest.mark.parametrize("on_unsettled", ["release", "charge"])
def test_what_a_dead_process_did_not_charge_is_charged_also_if_nobody_repeats_it(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch, on_unsettled: str
) -> None:
    apply_policies(environment, limits(DAILY_1, on_unsettled=on_unsettled))
    request_id = api.evaluate()["request_id"]
    die_before_charging(monkeypatch)
    with pytest.raises(SystemExit):
        api.report(request_id)

    later(minutes=2)
    expiry.settle_expired(environment)

    assert (len(ledger(environment)), used(api)) == (1, 1)
    assert_settled(environment)


# What happens at the same time


STEPS = [
    "commit charge read seed",
    "commit read charge seed",
    "commit read seed charge",
    "read commit charge seed",
    "read commit seed charge",
    "read seed commit charge",
]


GATE = 0x676174
WAITS_AT_THE_GATE = f"""
    CREATE FUNCTION wait_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({GATE});
        RETURN NEW;
    END $$;
    CREATE TRIGGER waits_at_the_gate BEFORE INSERT ON usage_event
        FOR EACH ROW WHEN (NEW.request_id = 'slow') EXECUTE FUNCTION wait_at_the_gate();
"""
NO_GATE = "DROP TRIGGER waits_at_the_gate ON usage_event; DROP FUNCTION wait_at_the_gate()"
AT_THE_GATE = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"


@pytest.fixture
def gate(transactional_db: None) -> Iterator[Callable[[], None]]:
    """Closed: the row of request "slow" waits at it, in a transaction that has begun to write. Any thread opens it."""
    with roles.as_owner():
        execute(WAITS_AT_THE_GATE)
    holder = connections.create_connection("default")
    holder.inc_thread_sharing()
    with closing(holder), holder.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_lock({GATE})")
        yield partial(cursor.execute, "SELECT pg_advisory_unlock_all()")
    with roles.as_owner():
        execute(NO_GATE)


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def is_at_the_gate() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(AT_THE_GATE, [GATE])
        return bool(cursor.fetchone() != (0,))


class SlowReport:
    """A report that writes its row and waits at the gate to be told to commit; and then to charge."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch, open_gate: Callable[[], None]) -> None:
        self._open_gate = open_gate
        self._may_charge = threading.Event()
        self._reached = {"charge": threading.Event(), "end": threading.Event()}
        monkeypatch.setattr(settle, "settle_many", self._waiting(settle.settle_many))
        self._thread = threading.Thread(target=self._report, args=(api,))
        self._thread.start()
        deadline = time.monotonic() + 10
        while not is_at_the_gate():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def do(self, step: str) -> None:
        if step == "commit":
            self._open_gate()
            self._await("charge")
        else:
            self._may_charge.set()
            self._await("end")

    def _await(self, place: str) -> None:
        assert self._reached[place].wait(timeout=10), place

    def _waiting(self, charge: Any) -> Any:
        def waiting(*arguments: Any, **options: Any) -> Any:
            self._reached["charge"].set()
            assert self._may_charge.wait(timeout=10)
            return charge(*arguments, **options)

        return waiting

    def _report(self, api: Api) -> None:
        try:
            assert api.report("slow", input_tokens=7).status == 201
            self._reached["end"].set()
        finally:
            connections.close_all()


@pytest.mark.parametrize("order", STEPS)
def test_a_report_is_counted_once_however_it_meets_a_rebuild(
    api: Api,
    environment: Environment,
    gate: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    order: str,
) -> None:
    apply_policies(environment, limits("{metric: tokens, window: month, amount: 100, per: user}"))
    # Reports need the environment introduced to the store, not its counters.
    assert api.report("first", user="user_2", input_tokens=3).status == 201
    slow = SlowReport(api, monkeypatch, gate)
    before, _, after = order.partition("read")
    between, _, at_last = after.partition("seed")
    read = recount._sum

    def read_amid(*arguments: Any) -> Any:
        for step in before.split():
            slow.do(step)
        found = read(*arguments)
        for step in between.split():
            slow.do(step)
        return found

    monkeypatch.setattr(recount, "_sum", read_amid)
    assert api.evaluate(dry_run=True)["allowed"]
    for step in at_last.split():
        slow.do(step)

    assert used(api) == 7
    assert_settled(environment)


def test_a_rebuild_under_traffic_loses_and_doubles_nothing(api: Api, environment: Environment) -> None:
    apply_policies(environment, limits("{metric: requests, window: month, amount: 60, per: environment}"))

    def call(number: int) -> bool:
        if number % 20 == 10:
            recount.rebuild(environment)
        decision = api.evaluate()
        return bool(decision["allowed"]) and api.report(decision["request_id"]).status == 201

    assert sum(at_once(100, call, threads=6)) == 60
    assert used(api) == len(ledger(environment)) == 60
    assert_settled(environment)


def test_a_pair_that_is_tracked_again_starts_from_the_ledger(api: Api, environment: Environment) -> None:
    daily, other = limits(DAILY_1), limits("{metric: tokens, window: month, amount: 1000, per: user}")
    apply_policies(environment, daily)
    assert used(api) == 0
    dropped = api.evaluate()["request_id"]
    assert api.request("DELETE", f"/v1/reservations/{dropped}").status == 204

    apply_policies(environment, other)
    api.use()
    apply_policies(environment, daily)

    assert recount.check(environment).drifts == ()
    assert not api.evaluate()["allowed"]
    assert_settled(environment)


def test_a_report_in_a_transaction_older_than_that_of_its_estimate_is_charged(
    api: Api, environment: Environment
) -> None:
    """A batch waits for a stranger's claim; meanwhile one of its calls expires and its estimate is charged."""
    apply_policies(
        environment, limits("{metric: tokens, window: month, amount: 1000, per: user}", on_unsettled="charge")
    )
    api.evaluate(request_id="c", input_tokens=40)
    later(milliseconds=HOLD_MS + 1)
    body = {"user_id": "user_1", "model": "test-model", "input_tokens": 5, "output_tokens": 0}
    batch = {"events": [{**body, "request_id": request_id} for request_id in ("a", "b", "c")]}
    answers: list[Answer] = []

    def report() -> None:
        try:
            answers.append(api.post("/v1/usage/batch", batch))
        finally:
            connections.close_all()

    known = connection.settings_dict
    place = {
        "host": known["HOST"],
        "port": known["PORT"],
        "user": known["USER"],
        "password": known["PASSWORD"],
    }
    with psycopg.connect(dbname=known["NAME"], **place) as stranger:
        stranger.execute(
            "INSERT INTO usage_request (environment_id, request_id, charged_at, generation)"
            " SELECT %s, 'b', now(), max(generation) FROM usage_request_generation",
            [environment.pk],
        )
        thread = threading.Thread(target=report)
        thread.start()
        await_true(lambda: waiting_for_locks() == 1, within_s=10)
        assert expiry.settle_expired(environment) == (0, 1)
        assert used(api) == 40
        stranger.rollback()
    thread.join(timeout=10)

    assert [result["status"] for result in answers[0].json["results"]] == ["recorded"] * 3
    assert used(api) == 15
    assert_settled(environment)


def waiting_for_locks() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def test_a_charge_that_a_store_away_missed_is_made_when_it_is_back(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(DAILY_1))
    request_id = api.evaluate()["request_id"]

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(settle, "settle_many", away)
        assert api.report(request_id).status == 201
    catching_up.catch_up()

    assert used(api) == 1
    assert_settled(environment)


@pytest.mark.parametrize("ahead_s", [-5, 5])
def test_a_store_with_another_clock_costs_one_more_round_trip_once(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    apply_policies(environment, limits(DAILY_1))
    api.evaluate(dry_run=True)
    known = time.time_ns
    monkeypatch.setattr(store, "_ahead_ms", 0)
    monkeypatch.setattr(time, "time_ns", lambda: known() - ahead_s * 10**9)

    assert api.evaluate(dry_run=True)["allowed"]
    before = store.round_trips
    assert api.evaluate(dry_run=True)["allowed"]

    assert store.round_trips - before == 1
