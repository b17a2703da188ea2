"""Changes that come at the same time, from several people and machines."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest
from django.db import connection

from audit.chain import verify
from policies import policy_rows
from policies.end_users import load_record, set_end_user
from policies.models import Plan, Policy, PolicyVersion
from policies.publishing import publish, publish_one
from policies.rules import LimitRule, PolicyRule, PolicySet
from tenants.freezing import freeze, unfreeze
from tenants.models import Environment
from usage.amounts import Per, digest
from usage.counting import remember_user
from usage.counting.keys import environment_prefix
from usage.counting.store import store
from usage.counting.sync import sync
from usage.metrics import Metric
from usage.windows import Window

THREADS = 6
DAILY = LimitRule(metric=Metric.REQUESTS, window=Window.DAY, amount=50, per=Per.USER)
RULE = PolicyRule(name="Default", limits=(DAILY,))


def at_once(*works: Callable[[], object]) -> None:
    """Raises what any of them raised."""

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as threads:
        list(threads.map(run, works))


def test_policies_added_at_once_each_get_their_place(environment: Environment) -> None:
    before = environment.revision
    rules = [replace(RULE, name=f"P{number}") for number in range(THREADS)]
    at_once(*(lambda rule=rule: publish_one(environment, rule, actor="admin:bo") for rule in rules))

    assert sorted(Policy.objects.values_list("ordinal", flat=True)) == list(range(1, THREADS + 1))
    environment.refresh_from_db()
    assert environment.revision == before + THREADS
    assert environment.tracked_pairs.count() == 1
    assert verify(environment.tenant_id).ok


def test_one_policy_changed_at_once_has_a_version_for_each(environment: Environment) -> None:
    sets = [PolicySet(policies=(replace(RULE, priority=number),)) for number in range(THREADS)]
    at_once(*(lambda wanted=wanted: publish(environment, wanted, actor="cli:test") for wanted in sets))

    versions = PolicyVersion.objects.order_by("version")
    assert [version.version for version in versions] == list(range(1, THREADS + 1))
    last = versions[THREADS - 1].document
    assert last is not None
    assert last["priority"] == policy_rows.policy_set(environment).policies[0].priority


def test_different_changes_at_once_do_not_wait_for_each_other_forever(environment: Environment) -> None:
    Plan.objects.create(environment=environment, name="free")

    def publish_often() -> None:
        for number in range(5):
            wanted = PolicySet(plans=("free",), policies=(replace(RULE, priority=number),))
            publish(environment, wanted, actor="cli:test")

    def change_users_often() -> None:
        for number in range(5):
            set_end_user(environment, f"u{number}", plan_name="free", blocked=False, actor="api:k")

    def freeze_often() -> None:
        for _ in range(5):
            freeze(environment, actor="admin:bo")
            unfreeze(environment, actor="admin:bo")

    at_once(publish_often, change_users_often, freeze_often, change_users_often, publish_often)
    assert environment.end_users.count() == 5
    assert verify(environment.tenant_id).ok


def kept(environment: Environment, user_id: str) -> str:
    """What the counter store holds of the user, without its epoch."""
    found = store.client.get(f"{environment_prefix(environment.pk)}u:{digest(user_id)}")
    assert isinstance(found, bytes)
    return found.decode().partition("|")[2]


def test_a_slow_teller_does_not_overwrite_a_later_change(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sync(environment.pk, environment.revision, frozenset())
    original = remember_user.remember_user
    slow_has_read, later_has_told = Event(), Event()

    def remember(environment_id: int, user_id: str, record: str, epoch: int | None) -> None:
        slow = not slow_has_read.is_set()
        slow_has_read.set()
        if slow:
            # As long as the later one does not wait for this one, it comes first.
            later_has_told.wait(timeout=0.5)
        original(environment_id, user_id, record, epoch)
        if not slow:
            later_has_told.set()

    def change_later() -> None:
        assert slow_has_read.wait(timeout=5)
        set_end_user(environment, "ann", plan_name=None, blocked=True, actor="api:k")

    monkeypatch.setattr(remember_user, "remember_user", remember)
    at_once(
        lambda: set_end_user(environment, "ann", plan_name=None, blocked=False, actor="api:k"), change_later
    )
    assert kept(environment, "ann") == load_record(environment.pk, "ann") == "1"


def test_the_counter_store_ends_with_what_postgresql_has_of_a_user(environment: Environment) -> None:
    assert sync(environment.pk, environment.revision, frozenset())

    def change(blocked: bool) -> None:
        for _ in range(10):
            set_end_user(environment, "ann", plan_name=None, blocked=blocked, actor="api:k")

    at_once(lambda: change(True), lambda: change(False), lambda: change(True), lambda: change(False))
    assert kept(environment, "ann") == load_record(environment.pk, "ann")
