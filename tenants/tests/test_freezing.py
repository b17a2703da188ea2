import pytest
from django.core.exceptions import ValidationError

from audit.models import Entry
from tenants.freezing import freeze, set_frozen, unfreeze
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment, Tenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def environment() -> Environment:
    return Tenant.create_with_environments("acme").environments.get(slug="prod")


def state(environment: Environment) -> tuple[bool, list[str], int]:
    environment.refresh_from_db()
    return environment.frozen, environment.frozen_features, environment.revision


def actions() -> list[str]:
    entries = Entry.objects.filter(action__startswith="environment.").order_by("seq")
    return [f"{entry.action} by {entry.actor}" for entry in entries]


def test_an_environment_is_frozen_and_thawed(environment: Environment) -> None:
    freeze(environment, actor="admin:bo")
    assert state(environment) == (True, [], 2)
    unfreeze(environment, actor="admin:bo")
    assert state(environment) == (False, [], 3)
    assert actions() == ["environment.frozen by admin:bo", "environment.unfrozen by admin:bo"]


def test_doing_it_again_changes_nothing(environment: Environment) -> None:
    for _ in range(2):
        freeze(environment, actor="admin:bo")
    assert state(environment) == (True, [], 2)
    assert len(actions()) == 1


def test_features_are_frozen_beside_those_frozen_before(environment: Environment) -> None:
    outdated = Environment.objects.get(pk=environment.pk)
    freeze(environment, features=["chat"], actor="admin:bo")
    # What counts is the row, not the caller's copy of it.
    freeze(outdated, features=["agent"], actor="admin:bo")
    assert state(environment) == (False, ["agent", "chat"], 3)
    unfreeze(environment, features=["chat", "never"], actor="admin:bo")
    assert state(environment) == (False, ["agent"], 4)


def test_no_features_at_all_is_not_the_whole_environment(environment: Environment) -> None:
    freeze(environment, features=[], actor="admin:bo")
    assert state(environment) == (False, [], 1)


def test_the_environment_and_its_features_thaw_apart(environment: Environment) -> None:
    freeze(environment, features=["chat"], actor="admin:bo")
    freeze(environment, actor="admin:bo")
    unfreeze(environment, actor="admin:bo")
    assert state(environment) == (False, ["chat"], 4)
    set_frozen(environment, frozen=False, features=[], actor="admin:bo")
    assert state(environment) == (False, [], 5)


def test_a_name_that_is_too_long_is_refused(environment: Environment) -> None:
    with pytest.raises(ValidationError):
        freeze(environment, features=["f" * (NAME_LENGTH_MAX + 1)], actor="admin:bo")
    assert state(environment) == (False, [], 1)
