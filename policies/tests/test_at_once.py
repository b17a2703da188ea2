"""Changes that come at the same time, from several people and machines."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from django.db import connection

from audit.chain import verify
from policies import policy_rows
from policies.changing.publishing import publish, publish_one
from policies.end_users import set_end_user
from policies.models import Plan, Policy, PolicyVersion
from policies.rules import LimitRule, PolicyRule, PolicySet
from tenants.freezing import freeze, unfreeze
from tenants.models import Environment
from usage.amounts import Per
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
