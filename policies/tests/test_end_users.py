from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from audit.models import Entry
from policies import end_users
from policies.end_users import StoredUser, load_record, parse_record, record, remove_end_user, set_end_user
from policies.models import EndUser, Plan
from tenants.models import Environment, Tenant
from usage.amounts import digest
from usage.counting import remember_user
from usage.counting.keys import environment_prefix
from usage.counting.store import StoreUnavailable, store
from usage.counting.sync import sync

pytestmark = pytest.mark.django_db


@pytest.fixture
def environment() -> Iterator[Environment]:
    environment = Tenant.create_with_environments("acme").environments.get(slug="prod")
    Plan.objects.create(environment=environment, name="free")
    assert sync(environment.pk, 1, frozenset())
    yield environment
    prefix = environment_prefix(environment.pk)
    store.client.delete(*store.client.scan_iter(match=f"{prefix}*"))


@pytest.fixture
def committed(django_capture_on_commit_callbacks: Any) -> Any:
    """As if the transaction of the test ended with each block."""

    def block() -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = django_capture_on_commit_callbacks(execute=True)
        return context

    return block


def kept(environment: Environment, user_id: str) -> str | None:
    """What the counter store holds of the user, without its epoch."""
    found = store.client.get(f"{environment_prefix(environment.pk)}u:{digest(user_id)}")
    if found is None:
        return None
    text = found.decode() if isinstance(found, bytes) else found
    return text.partition("|")[2]


def actions() -> list[str]:
    entries = Entry.objects.filter(action__startswith="end_user").order_by("id")
    return [f"{entry.action} {entry.target_name} by {entry.actor}" for entry in entries]


@given(plan=st.text(st.characters(exclude_categories=["Cs"])), blocked=st.booleans())
def test_a_record_is_read_back_as_it_was(plan: str, blocked: bool) -> None:
    assert parse_record(record(plan, blocked)) == StoredUser(known=True, plan=plan, blocked=blocked)
    assert record(plan, blocked) != end_users.UNKNOWN


def test_no_row_is_not_the_same_as_a_row_without_plan(environment: Environment) -> None:
    assert parse_record(load_record(environment.pk, "ann")) == StoredUser(known=False, plan="", blocked=False)
    set_end_user(environment, "ann", plan_name=None, blocked=False, actor="admin:bo")
    assert parse_record(load_record(environment.pk, "ann")) == StoredUser(known=True, plan="", blocked=False)


def test_the_record_is_loaded_in_one_query(environment: Environment, django_assert_num_queries: Any) -> None:
    set_end_user(environment, "ann", plan_name="free", blocked=True, actor="admin:bo")
    with django_assert_num_queries(1):
        assert load_record(environment.pk, "ann") == "1free"


def test_a_change_reaches_the_counter_store_when_it_commits(environment: Environment, committed: Any) -> None:
    with committed():
        set_end_user(environment, "ann", plan_name="free", blocked=False, actor="admin:bo")
        assert kept(environment, "ann") is None
    assert kept(environment, "ann") == "0free"
    with committed():
        set_end_user(environment, "ann", plan_name="free", blocked=True, actor="admin:bo")
    assert kept(environment, "ann") == "1free"
    with committed():
        remove_end_user(environment, "ann", actor="admin:bo")
    assert kept(environment, "ann") == end_users.UNKNOWN


def test_a_late_teller_tells_what_is_true_now(environment: Environment, committed: Any) -> None:
    with committed():
        set_end_user(environment, "ann", plan_name=None, blocked=True, actor="admin:bo")
        set_end_user(environment, "ann", plan_name=None, blocked=False, actor="admin:bo")
    assert kept(environment, "ann") == "0"


def test_each_change_is_audited_and_a_repetition_is_not(environment: Environment) -> None:
    for _ in range(2):
        set_end_user(environment, "ann", plan_name="free", blocked=True, actor="admin:bo")
    for expected in (True, False):
        assert remove_end_user(environment, "ann", actor="api:k1") is expected
    assert actions() == ["end_user.changed ann by admin:bo", "end_user.removed ann by api:k1"]
    entry = Entry.objects.get(action="end_user.changed")
    assert entry.data == {"environment": "prod", "plan": "free", "blocked": True}


def test_a_store_that_is_away_leaves_a_recount_to_do(
    environment: Environment, committed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(remember_user, "remember_user", away)
    with committed():
        set_end_user(environment, "ann", plan_name=None, blocked=True, actor="admin:bo")
    environment.refresh_from_db()
    assert environment.recount_needed
    assert load_record(environment.pk, "ann") == "1"


def test_repeating_a_change_tells_the_store_again(environment: Environment, committed: Any) -> None:
    set_end_user(environment, "ann", plan_name=None, blocked=True, actor="admin:bo")
    with committed():
        set_end_user(environment, "ann", plan_name=None, blocked=True, actor="admin:bo")
    assert kept(environment, "ann") == "1"


@pytest.mark.parametrize("user_id", ["", "u" * 256, "a\x00b"])
def test_a_bad_user_id_is_refused(environment: Environment, user_id: str) -> None:
    with pytest.raises(ValidationError):
        set_end_user(environment, user_id, plan_name=None, blocked=True, actor="admin:bo")
    assert not EndUser.objects.exists()


def test_a_plan_of_another_environment_is_refused(environment: Environment) -> None:
    other = environment.tenant.environments.get(slug="dev")
    with pytest.raises(ValidationError, match="no plan 'free' in acme/dev"):
        set_end_user(other, "ann", plan_name="free", blocked=False, actor="admin:bo")
