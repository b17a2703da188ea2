"""PostgreSQL takes a report and its caller hears nothing: it is charged all the same, and nobody else feels it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest

from tenants import missed
from tenants.models import Environment
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.testing import Api, apply_policies, assert_settled, later, ledger
from tokvigil_site.tests.applications import monthly
from usage.counting.inspection import environment_fields
from usage.settling import catching_up, charging, expiry, unanswered
from usage.timebox import patience

COMMIT_S = 1.5
WAIT_S = 0.8


@contextmanager
def slow_commits(servers: Stack) -> Iterator[None]:
    """Whoever writes rows of the ledger waits for its commit longer than a caller of the API does."""
    with psycopg.connect(servers.owner_url, autocommit=True) as owner:
        owner.execute(
            f"""
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM pg_sleep({COMMIT_S}); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON usage_event DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION slow()
            """
        )
        try:
            with patience.within(WAIT_S):
                yield
        finally:
            owner.execute("DROP FUNCTION slow CASCADE")


@pytest.fixture
def environment(environment_there: Environment) -> Environment:
    apply_policies(environment_there, monthly(10**6, on_unsettled="charge"))
    return environment_there


@pytest.fixture
def api(environment: Environment) -> Api:
    return Api(environment)


def epoch(environment: Environment) -> str:
    return environment_fields(environment.pk)["epoch"]


def test_a_report_without_an_answer_is_charged_once_and_the_counters_stay_in_use(
    servers: Stack, api: Api, environment: Environment
) -> None:
    request_id = api.use()
    lost_id = api.evaluate()["request_id"]
    since = epoch(environment)
    with slow_commits(servers):
        assert api.report(lost_id).status == 503

    unanswered.write_again()

    assert_settled(environment)
    assert api.evaluate(dry_run=True)["limit_state"][0]["used"] == 2
    assert api.report(lost_id).json["duplicate"]
    assert {row.request_id for row in ledger(environment)} == {request_id, lost_id}
    assert api.evaluate(dry_run=True)["limit_state"][0]["used"] == 2
    assert epoch(environment) == since
    assert not missed.noted(environment.pk)


def test_a_report_over_an_estimate_without_an_answer_to_its_commit_is_charged(
    servers: Stack, api: Api, environment: Environment
) -> None:
    lost_id = api.evaluate(input_tokens=10, max_output_tokens=20)["request_id"]
    later(minutes=11)
    assert expiry.settle_expired(environment) == (0, 1)
    with slow_commits(servers):
        assert api.report(lost_id, input_tokens=3, output_tokens=4).status == 503

    unanswered.write_again()

    # The estimate, its reversal, and what was reported.
    assert sorted(row.amounts.input_tokens for row in ledger(environment)) == [-10, 3, 10]
    assert_settled(environment)


def test_the_new_reports_of_a_batch_are_charged_though_the_others_failed(
    servers: Stack, api: Api, environment: Environment
) -> None:
    estimated = api.evaluate()["request_id"]
    later(minutes=11)
    assert expiry.settle_expired(environment) == (0, 1)
    event = {"user_id": "user_1", "model": "test-model", "input_tokens": 1, "output_tokens": 0}
    batch = {"events": [{"request_id": request_id, **event} for request_id in ("new", estimated)]}
    with psycopg.connect(servers.owner_url) as stranger:
        stranger.execute("SELECT 1 FROM usage_request WHERE request_id = %s FOR UPDATE", [estimated])
        with patience.within(WAIT_S):
            assert api.post("/v1/usage/batch", batch).status == 503

    unanswered.write_again()

    assert {row.request_id for row in ledger(environment, status="succeeded")} == {"new", estimated}
    assert_settled(environment)


def test_what_is_unanswered_for_too_long_has_the_counters_rebuilt(
    servers: Stack, api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slow_commits(servers):
        assert api.report("lost").status == 503

    monkeypatch.setattr(charging, "REPEATED_CHARGE_MAX_AGE", timedelta())
    unanswered.write_again()
    catching_up.catch_up()

    assert api.evaluate(dry_run=True)["limit_state"][0]["used"] == 1
    assert_settled(environment)


def test_what_cannot_be_kept_any_more_has_the_counters_rebuilt(
    servers: Stack, api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unanswered, "KEPT_MAX", 0)
    with slow_commits(servers):
        assert api.report("lost").status == 503

    assert [miss.what for miss in missed.remembered(environment.pk)] == [missed.CHANGE]
