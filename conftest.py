"""Fixtures that all apps' tests share: an environment with an API key, and the API as its applications see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from redis.exceptions import TimeoutError

from policies.deciding import evaluation
from tenants import last_used, refusals
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api
from usage.counting.store import new_breaker, store
from usage.ledger import expected_output
from usage.ledger.connections import ledger_connections
from usage.settling import catching_up, given_up, unanswered
from usage.timebox.postgres import connection as postgres
from usage.timebox.postgres.availability import Availability
from usage.timebox.postgres.kept import kept

pytest_plugins = ["audit.testing"]

EMPTYING_TRIES = 20

# The same examples in every run, so that a change is judged by itself: `--hypothesis-profile=search` looks for others.
# How long one takes, to make or to run, says how busy the machine is.
settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("suite"), derandomize=False, max_examples=3_000)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def like_a_new_process() -> Iterator[None]:
    """What a process remembers belongs to the database of the test before."""
    evaluation.forget_all()
    expected_output.forget_all()
    last_used.forget_all()
    refusals.forget_all()
    store.breaker = new_breaker()
    catching_up.forget_all()
    given_up.forget_all()
    unanswered.forget_all()
    store.clock_offset_ms = 0
    postgres.availability = Availability()
    yield
    store.clock_offset_ms = 0
    # Of this test's database, which the next may have to itself.
    kept.close_all()
    ledger_connections.close_idle()


@pytest.fixture(scope="session", autouse=True)
def store_of_this_session() -> None:
    """A store that an earlier session left has counters of environments whose ids come again in a new database."""
    empty()


@pytest.fixture
def empty_store() -> None:
    empty()


def empty() -> None:
    """Calls wait for the store for a tenth of a second; setting up waits as long as a busy machine takes."""
    for _ in range(EMPTYING_TRIES - 1):
        with suppress(TimeoutError):
            store.client.flushdb()
            return
    store.client.flushdb()


@pytest.fixture
def environment(transactional_db: None, empty_store: None) -> Environment:
    """`acme/prod`, in Berlin. Committed: threads and other processes see it."""
    return Tenant.create_with_environments("acme", timezone="Europe/Berlin").environments.get(slug="prod")


@pytest.fixture
def other_environment(environment: Environment) -> Environment:
    """Another tenant's."""
    return Tenant.create_with_environments("rival").environments.get(slug="prod")


@pytest.fixture
def api(environment: Environment) -> Api:
    return Api(environment)


@pytest.fixture
def other_api(other_environment: Environment) -> Api:
    return Api(other_environment)
