from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from audit.models import Entry
from policies.end_users import load_record, remove_end_user, set_end_user
from policies.models import EndUser, Plan
from tenants import missed, revisions
from tenants.models import Environment, Tenant
from usage.counting.keys import environment_prefix, user_key
from usage.counting.store import store
from usage.counting.stored_user import UNKNOWN, StoredUser, parse_record, record

pytestmark = pytest.mark.django_db


@pytest.fixture
def environment() -> Iterator[Environment]:
    environment = Tenant.create_with_environments("acme").environments.get(slug="prod")
    Plan.objects.create(environment=environment, name="free")
    yield environment
    prefix = environment_prefix(environment.pk)
    for key in store.client.scan_iter(match=f"{prefix}*"):
        store.client.delete(key)


def changing(environment: Environment, user_id: str) -> list[str]:
    """The transactions that the counter store was told of."""
    found = store.client.hget(user_key(environment.pk, user_id), "changing")
    return [] if found is None else found.decode().split()


def actions() -> list[str]:
    entries = Entry.objects.filter(action__startswith="end_user").order_by("id")
    return [f"{entry.action} {entry.target_name} by {entry.actor}" for entry in entries]


@given(plan=st.text(st.characters(exclude_categories=["Cs"])), blocked=st.booleans())
def test_a_record_is_read_back_as_it_was(plan: str, blocked: bool) -> None:
    assert parse_record(record(plan, blocked)) == StoredUser(known=True, plan=plan, blocked=blocked)
    assert record(plan, blocked) != UNKNOWN


def test_no_row_is_not_the_same_as_a_row_without_plan(environment: Environment) -> None:
    assert parse_record(load_record(environment.pk, "ann")) == StoredUser(known=False, plan="", blocked=False)
    set_end_user(environment, "ann", plan_name=None, blocked=False, actor="admin:bo")
    assert parse_record(load_record(environment.pk, "ann")) == StoredUser(known=True, plan="", blocked=False)


def test_the_record_is_loaded_in_one_query(environment: Environment, django_assert_num_queries: Any) -> None:
    set_end_user(environment, "ann", plan_name="free", blocked=True, actor="admin:bo")
    with django_assert_num_queries(1):
        assert load_record(environment.pk, "ann") == "1free"


@pytest.mark.parametrize("change", ["set", "repeated", "removed", "removed again"])
def test_a_change_announces_itself_before_it_commits(environment: Environment, change: str) -> None:
    if change != "removed again":
        set_end_user(environment, "ann", plan_name=None, blocked=change != "set", actor="admin:bo")
        store.client.delete(user_key(environment.pk, "ann"))
    if change.startswith("removed"):
        remove_end_user(environment, "ann", actor="admin:bo")
    else:
        set_end_user(environment, "ann", plan_name=None, blocked=True, actor="admin:bo")
    # The transaction of this test, which has not ended.
    (xid,) = changing(environment, "ann")
    assert revisions.under_way([xid]) == (xid,)


def test_each_change_is_audited_and_a_repetition_is_not(environment: Environment) -> None:
    for _ in range(2):
        set_end_user(environment, "ann", plan_name="free", blocked=True, actor="admin:bo")
    for expected in (True, False):
        assert remove_end_user(environment, "ann", actor="api:k1") is expected
    assert actions() == ["end_user.changed ann by admin:bo", "end_user.removed ann by api:k1"]
    entry = Entry.objects.get(action="end_user.changed")
    changes = {"plan": {"before": None, "after": "free"}, "blocked": {"before": False, "after": True}}
    assert entry.data == {"environment": "prod", "changes": changes}
    assert Entry.objects.get(action="end_user.removed").data["plan"] == "free"


def test_a_change_that_the_store_could_not_be_told_is_noted_with_it(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "announce", lambda *arguments: False)
    set_end_user(environment, "ann", plan_name=None, blocked=True, actor="admin:bo")
    assert [(miss.environment_id, miss.what) for miss in missed.noted()] == [(environment.pk, missed.CHANGE)]
    assert load_record(environment.pk, "ann") == "1"


@pytest.mark.parametrize("user_id", ["", "u" * 256, "a\x00b"])
def test_a_bad_user_id_is_refused(environment: Environment, user_id: str) -> None:
    with pytest.raises(ValidationError):
        set_end_user(environment, user_id, plan_name=None, blocked=True, actor="admin:bo")
    assert not EndUser.objects.exists()


def test_a_plan_of_another_environment_is_refused(environment: Environment) -> None:
    other = environment.tenant.environments.get(slug="dev")
    with pytest.raises(ValidationError, match="no plan 'free' in acme/dev"):
        set_end_user(other, "ann", plan_name="free", blocked=False, actor="admin:bo")
