from typing import Any

import pytest
from django.core.exceptions import ValidationError

from audit.log import acting_as
from audit.models import Entry
from tenants import keys
from tenants.models import ApiKey, Environment, Tenant
from tenants.scopes import EVALUATE, PRESETS

PEPPERS = {"2": "new pepper", "1": "old pepper"}


@pytest.fixture(autouse=True)
def peppers(settings: Any) -> None:
    settings.API_KEY_PEPPERS = dict(PEPPERS)


@pytest.fixture
def environment() -> Environment:
    return Tenant.create_with_environments("acme").environments.get(slug="staging")


@pytest.mark.parametrize(
    ("slug", "mark"), [("dev", "dev"), ("staging", "stg"), ("prod", "prod"), ("load-test", "env")]
)
def test_a_key_says_what_kind_of_environment_it_is_for(slug: str, mark: str) -> None:
    assert keys.mint(slug).text.startswith(f"tv_{mark}_")


def test_a_minted_key_is_proved_by_its_own_text() -> None:
    minted = keys.mint("prod")
    presented = keys.parse(minted.text)
    assert presented is not None
    assert presented.key_id == minted.key_id
    assert keys.proves(presented.secret, minted.pepper_id, minted.secret_hmac)


def test_no_two_keys_are_alike() -> None:
    minted = [keys.mint("prod") for _ in range(50)]
    assert len({key.key_id for key in minted}) == len({key.secret_hmac for key in minted}) == 50


def test_another_secret_proves_nothing() -> None:
    one, two = keys.mint("prod"), keys.mint("prod")
    presented = keys.parse(two.text)
    assert presented is not None
    assert not keys.proves(presented.secret, one.pepper_id, one.secret_hmac)


def test_new_keys_take_the_first_pepper() -> None:
    assert keys.mint("prod").pepper_id == "2"


@pytest.mark.parametrize(
    ("peppers_now", "still_proves"),
    [
        ({"2": "new pepper", "1": "old pepper"}, True),
        # Taken out of the settings, or another value under the same id: its keys end.
        ({"2": "new pepper"}, False),
        ({"1": "another pepper"}, False),
    ],
)
def test_a_key_lasts_as_long_as_its_pepper(
    settings: Any, peppers_now: dict[str, str], still_proves: bool
) -> None:
    settings.API_KEY_PEPPERS = {"1": "old pepper"}
    minted = keys.mint("prod")
    settings.API_KEY_PEPPERS = peppers_now
    secret = minted.text.rpartition("_")[2]
    assert keys.proves(secret, minted.pepper_id, minted.secret_hmac) is still_proves


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tv",
        "sk_prod_" + "a" * 12 + "_" + "b" * 40,
        "tv_prod_" + "a" * 11 + "_" + "b" * 40,
        "tv_prod_" + "a" * 12 + "_" + "b" * 39,
        "tv_prod_" + "a" * 12 + "_" + "b" * 40 + "_c",
        "tv_prod_" + "a" * 12 + "_" + "é" * 40,
    ],
)
def test_what_has_not_the_shape_of_a_key_is_none(text: str) -> None:
    assert keys.parse(text) is None


@pytest.mark.django_db
def test_the_key_itself_is_stored_nowhere(environment: Environment) -> None:
    key, text = ApiKey.issue(environment, "app", PRESETS["server"])
    secret = text.rpartition("_")[2]
    (row,) = ApiKey.objects.filter(pk=key.pk).values()
    assert secret not in str(row)
    assert secret.encode() not in bytes(row["secret_hmac"])
    assert secret not in str(list(Entry.objects.values()))
    assert keys.proves(secret, key.pepper_id, bytes(row["secret_hmac"]))


@pytest.mark.django_db
def test_issuing_and_revoking_are_audited_and_bind_the_next_call(environment: Environment) -> None:
    with acting_as("admin:bo"):
        key, _ = ApiKey.issue(environment, "app", (EVALUATE,))
        key.revoke()
        key.revoke()
    entries = Entry.objects.filter(target_type="tenants.apikey").order_by("seq")
    assert [(entry.action, entry.actor, entry.tenant_id) for entry in entries] == [
        ("api_key.issued", "admin:bo", environment.tenant_id),
        ("api_key.revoked", "admin:bo", environment.tenant_id),
    ]
    assert entries[0].data == {"environment": "staging", "scopes": ["evaluate"], "expires_at": None}
    before = environment.revision
    environment.refresh_from_db()
    assert environment.revision == before + 2
    assert key.revoked_at is not None


@pytest.mark.django_db
@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "n" * 101},
        {"scopes": ("everything",)},
        {"scopes": ()},
        {"allowed_networks": ["10.0.0.0/33"]},
        {"requests_per_minute": -1},
    ],
)
def test_a_bad_key_is_not_issued(environment: Environment, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ApiKey.issue(environment, **{"name": "app", "scopes": (EVALUATE,), **fields})
    assert not ApiKey.objects.exists()
