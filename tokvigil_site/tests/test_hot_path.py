"""What a warm call costs, counted by the servers themselves, and what it leaves in the store.

An evaluate: no SQL, one round trip to the store. A report: one statement, two round trips; one statement more for a
call that was not evaluated, of an end user of whom no other was lately.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from policies.end_users import set_end_user
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from usage.counting import reserve, rules
from usage.counting.keys import decisions_key, environment_prefix, reservation_key
from usage.counting.store import store
from usage.counting.sync import Asked
from usage.ledger import expected_output
from usage.ledger.connections import LedgerConnections

# A user that would be seen wherever it stood.
USER = "jane.doe+distinctive@example.org"
EVERY_KIND = [
    f"{{metric: {metric}, window: {window}, amount: {amount}, per: {per}}}"
    for metric, window, amount in (
        ("requests", "minute", 1000),
        ("tokens", "month", 10_000_000),
        ("cost_usd", "total", 5000),
        ("concurrency", "total", 500),
    )
    for per in ("user", "user_feature", "feature", "plan", "environment", "run")
]
# A busy machine is no outage.
PATIENCE_S = 10
GREETINGS = {"HELLO", "CLIENT", "SELECT", "INFO"}
CALL = {"feature": "chat", "plan": "pro", "run_id": "run-9"}


@contextmanager
def sql_counted() -> Iterator[list[str]]:
    """Every statement of every connection that any thread uses meanwhile, those it opens included."""
    seen: list[str] = []

    def note(execute: Any, sql: str, *arguments: Any) -> Any:
        seen.append(f"{threading.current_thread().name}: {sql}")
        return execute(sql, *arguments)

    original, execute_in_ledger = BaseDatabaseWrapper.__init__, LedgerConnections.execute

    def executed(self: LedgerConnections, statement: str, parameters: Any) -> Any:
        seen.append(f"{threading.current_thread().name}: {statement}")
        return execute_in_ledger(self, statement, parameters)

    def opened(self: BaseDatabaseWrapper, *arguments: Any, **fields: Any) -> None:
        original(self, *arguments, **fields)
        self.execute_wrappers.append(note)

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patched:
        patched.setattr(BaseDatabaseWrapper, "__init__", opened)
        patched.setattr(LedgerConnections, "execute", executed)
        for each in connections.all():
            stack.enter_context(each.execute_wrapper(note))
        yield seen


@contextmanager
def commands_received() -> Iterator[list[str]]:
    """The names of the commands that clients send meanwhile, as the store itself reports them."""
    client, mark = store.client, uuid4().hex
    received: list[str] = []
    database = client.connection_pool.connection_kwargs["db"]
    with client.monitor() as monitor:
        # First, for it may take a new connection.
        client.echo("begin " + mark)
        _until("begin " + mark, monitor)
        yield received
        client.echo("end " + mark)
        # What a script does is inside of its round trip.
        found = [each for each in _until("end " + mark, monitor) if each["client_type"] != "lua"]
    # Every connection begins in the first database, those of other tests too: they are told apart by what follows.
    ours = {each["client_port"] for each in found if each["db"] == database and _name(each) not in GREETINGS}
    received += [_name(each) for each in found if each["client_port"] in ours]


def _name(received: dict[str, Any]) -> str:
    return str(received["command"].split(" ")[0].upper())


def _until(mark: str, monitor: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for each in monitor.listen():
        if mark in each["command"]:
            break
        found.append(each)
    return found


@contextmanager
def one_script_and_no_sql() -> Iterator[None]:
    trips = store.round_trips
    with commands_received() as received, sql_counted() as statements:
        yield
    assert statements == []
    assert received == ["EVALSHA"]
    assert store.round_trips - trips == 1


@pytest.fixture(autouse=True)
def _patient_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pool = store.client.connection_pool
    monkeypatch.setitem(pool.connection_kwargs, "socket_timeout", PATIENCE_S)
    monkeypatch.setattr(reserve, "ANSWER_AWAITED_MS", PATIENCE_S * 1000)
    pool.reset()
    store._lines._idle.clear()
    yield
    pool.reset()
    store._lines._idle.clear()


@pytest.fixture
def warm(api: Api, environment: Environment) -> Api:
    """Every kind of counter in use, prices known, and a history of the feature's answers."""
    set_price("test-model", input_usd="2.5", output_usd="10")
    apply_policies(environment, "plans: [pro]\n" + limits(*EVERY_KIND))
    set_end_user(environment, USER, plan_name="pro", blocked=False, actor="test")
    for _ in range(2):
        decision = api.evaluate(USER, **CALL)
        assert decision["allowed"], decision
        report = api.report(decision["request_id"], USER, output_tokens=7, **CALL)
        assert report.status == 201
    return api


def test_an_allowed_call_costs_one_round_trip_and_no_sql(warm: Api) -> None:
    with one_script_and_no_sql():
        assert warm.evaluate(USER, **CALL)["allowed"]


def test_so_does_one_of_a_user_that_was_just_seen_for_the_first_time(warm: Api) -> None:
    warm.evaluate("stranger", **CALL)

    with one_script_and_no_sql():
        assert warm.evaluate("stranger", **CALL)["allowed"]


def test_so_does_a_blocked_call(warm: Api) -> None:
    assert not warm.evaluate(USER, input_tokens=20_000_000, **CALL)["allowed"]

    with one_script_and_no_sql():
        blocked = warm.evaluate(USER, input_tokens=20_000_000, **CALL)
    assert blocked["reason_class"] == "too_large"


def test_so_does_a_refused_call(warm: Api, environment: Environment) -> None:
    set_end_user(environment, USER, plan_name="pro", blocked=True, actor="test")
    warm.evaluate(USER, **CALL)

    with one_script_and_no_sql():
        assert warm.evaluate(USER, **CALL)["reason_code"] == "USER_BLOCKED"


def test_so_does_a_call_that_does_not_say_how_much_it_may_produce(warm: Api) -> None:
    for _ in range(expected_output.SAMPLE_MIN):
        warm.use(USER, max_output_tokens=7, **CALL)
    expected_output.forget_all()
    first = warm.evaluate(USER, max_output_tokens=None, **CALL)

    with one_script_and_no_sql():
        again = warm.evaluate(USER, max_output_tokens=None, **CALL)

    assert again["max_output_tokens"] == first["max_output_tokens"] < expected_output.WITHOUT_HISTORY


@contextmanager
def two_scripts_and(*expected: str) -> Iterator[None]:
    """And these statements, each by what it holds."""
    with commands_received() as received, sql_counted() as statements:
        yield
    assert len(statements) == len(expected)
    assert all(part in statement for part, statement in zip(expected, statements, strict=True))
    assert received == ["EVALSHA", "EVALSHA"]


def test_a_report_of_a_held_call_costs_one_statement_and_two_round_trips(warm: Api) -> None:
    request_id = warm.evaluate(USER, **CALL)["request_id"]

    with two_scripts_and("INSERT INTO usage_event"):
        assert warm.report(request_id, USER, **CALL).status == 201


def test_so_does_one_of_a_call_that_was_not_asked_for_while_the_store_knows_its_end_user(warm: Api) -> None:
    with two_scripts_and("INSERT INTO usage_event"):
        assert warm.report("unasked", USER, **CALL).status == 201


def test_of_another_end_user_the_stored_plan_is_asked_for_as_well(warm: Api) -> None:
    with two_scripts_and("FROM policies_enduser", "INSERT INTO usage_event"):
        assert warm.report("unasked", "somebody-else", **CALL).status == 201


def test_a_batch_that_one_script_settles_costs_no_more_than_one_report(warm: Api) -> None:
    held = [warm.evaluate(USER, **CALL)["request_id"] for _ in range(10)]
    body = {"user_id": USER, "model": "test-model", "input_tokens": 1, "output_tokens": 1, **CALL}
    events = [{**body, "request_id": request_id} for request_id in (*held, *map(str, range(10)))]

    with two_scripts_and("INSERT INTO usage_event"):
        results = warm.post("/v1/usage/batch", {"events": events}).json["results"]
    assert {result["status"] for result in results} == {"recorded"}


def test_so_do_a_repeated_call_a_dry_run_and_one_with_its_text(warm: Api) -> None:
    warm.evaluate(USER, request_id="r-1", **CALL)
    warm.evaluate(USER, input_tokens=None, input_text="hello", **CALL)
    for fields in (
        {"request_id": "r-1"},
        {"dry_run": True},
        {"input_tokens": None, "input_text": "hello world"},
    ):
        with one_script_and_no_sql():
            warm.evaluate(USER, **CALL, **fields)


def test_postgresql_itself_sees_nothing_of_a_hundred_calls(warm: Api) -> None:
    """Asked on a connection of its own: no other has begun a statement since."""
    warm.evaluate(USER, **CALL)
    observer = connections.create_connection("default")
    try:
        with observer.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            begun = cursor.fetchone()
            for _ in range(100):
                warm.evaluate(USER, **CALL)
            cursor.execute(
                """
                SELECT query FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND query_start > %s
                  AND backend_type = 'client backend'
                """,
                begun,
            )
            assert cursor.fetchall() == []
            # It would have seen one.
            Environment.objects.count()
            cursor.execute(
                """
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND query_start > %s
                """,
                begun,
            )
            assert cursor.fetchone() == (1,)
    finally:
        observer.close()


def test_the_proof_would_see_a_query_of_another_thread(warm: Api) -> None:
    def ask() -> None:
        try:
            Environment.objects.count()
        finally:
            connections.close_all()

    with sql_counted() as statements:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    assert len(statements) == 1


def test_the_proof_would_see_a_second_round_trip(warm: Api) -> None:
    def two_trips() -> None:
        with one_script_and_no_sql():
            warm.evaluate(USER, **CALL)
            rules.introduce(rules.current(warm.environment.pk), Asked("", ()))

    with pytest.raises(AssertionError, match="EVALSHA"):
        two_trips()


def every_key(prefix: str) -> dict[str, int]:
    """Each key with the bytes it takes."""
    return {
        key.decode("utf-8", "replace"): int(store.client.memory_usage(key) or 0)
        for key in store.client.scan_iter(match=f"{prefix}*", count=1000)
    }


def of_a_window_begun_since(moment_ms: float, key: str) -> bool:
    """A minute that begins while a test runs has counters of its own: `tv:{5}:c:user:minute:<start>:<digest>`."""
    parts = key.split(":")
    return parts[2] == "c" and int(parts[5]) > moment_ms


def test_a_call_leaves_one_bounded_key_behind_and_none_for_good(warm: Api, environment: Environment) -> None:
    prefix = environment_prefix(environment.pk)
    in_flight = reservation_key(environment.pk, warm.evaluate(USER, **CALL)["request_id"])
    began_ms, before = store.now_ms(), every_key(prefix)

    for number in range(50):
        decision = warm.evaluate(USER, request_id=f"r-{number}", metadata={"note": "x" * 500}, **CALL)
        assert decision["allowed"], decision
    during = every_key(prefix)
    grown = {key for key in set(during) - set(before) if not of_a_window_begun_since(began_ms, key)}
    assert len(grown) == 50
    assert max(during[key] for key in grown) < 8_000
    for number in range(50):
        assert warm.report(f"r-{number}", USER, **CALL).status == 201

    after = every_key(prefix)
    # What is left is the memory that each was charged, for an hour.
    assert {key for key in set(after) - set(before) if not of_a_window_begun_since(began_ms, key)} == grown
    assert max(after[key] for key in grown) < 500
    for key in after:
        lasting = {f"{prefix}env", f"{prefix}open", in_flight}
        assert key in lasting or 0 < store.client.pttl(key) <= 45 * 24 * 3600 * 1000, key


def test_blocked_calls_leave_a_bounded_stream_alone(warm: Api, environment: Environment) -> None:
    prefix = environment_prefix(environment.pk)
    warm.evaluate(USER, input_tokens=20_000_000, **CALL)
    before = set(every_key(prefix))

    for _ in range(20):
        warm.evaluate(USER, input_tokens=20_000_000, **CALL)

    assert set(every_key(prefix)) == before
    assert store.client.xlen(decisions_key(environment.pk)) == 21


def test_no_name_of_a_caller_stands_in_a_key(warm: Api) -> None:
    secret = {"feature": "feature-distinctive", "plan": "pro", "run_id": "run-distinctive"}
    decision = warm.evaluate(USER, request_id="request-distinctive", **secret)
    warm.report(decision["request_id"], USER, **secret)
    warm.evaluate(USER, input_tokens=20_000_000, **secret)

    keys = [key.decode("utf-8", "replace") for key in store.client.scan_iter(count=1000)]

    assert keys
    assert not [key for key in keys if "distinctive" in key or "doe" in key or "example" in key]
