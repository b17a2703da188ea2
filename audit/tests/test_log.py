import hmac
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.db.transaction import TransactionManagementError

from audit.chain import link
from audit.log import Target, acting_as, action_label, changes, log, register_action
from audit.models import DATA_LENGTH_MAX, GENESIS, ChainHead, Entry
from audit.origin import Origin, coming_from


@pytest.fixture
def alice() -> User:
    return User.objects.create(username="alice")


@pytest.mark.django_db
def test_an_entry_says_who_did_what_to_what(alice: User) -> None:
    with acting_as("admin:bob"):
        written = log("user.renamed", alice, tenant_id=7, before="al", after="alice")

    entry = Entry.objects.get()
    assert entry == written
    assert (entry.tenant_id, entry.seq, entry.actor, entry.action) == (7, 1, "admin:bob", "user.renamed")
    assert (entry.target_type, entry.target_id, entry.target_name) == ("auth.user", str(alice.pk), "alice")
    assert entry.data == {"before": "al", "after": "alice"}
    assert entry.prev_hash == GENESIS


@pytest.mark.django_db
def test_each_hash_covers_the_one_before(alice: User) -> None:
    first = log("user.renamed", alice, tenant_id=7, step=1)
    second = log("user.renamed", alice, tenant_id=7, step=2)

    assert second.prev_hash == first.hash
    assert second.hash == link(first.hash, Entry.objects.get(pk=second.pk))
    head = ChainHead.objects.get(tenant_id=7)
    assert (head.seq, head.hash) == (2, second.hash)


def test_the_hash_is_the_documented_one(settings: Any) -> None:
    settings.AUDIT_KEYS = {"k2": "of the log"}
    entry = Entry(
        key_id="k2",
        tenant_id=None,
        seq=1,
        at=datetime(2026, 11, 23, 12, tzinfo=UTC),
        actor="system",
        action="user.renamed",
        target_type="auth.user",
        target_id="1",
        target_name="Zoë",
        data={"b": [1, None, True], "a": "x"},
    )
    row = (
        '{"action":"user.renamed","actor":"system","at":"2026-11-23T12:00:00.000000+00:00",'
        '"data":{"a":"x","b":[1,null,true]},"key_id":"k2","seq":1,"target_id":"1","target_name":"Zo\\u00eb",'
        '"target_type":"auth.user","tenant_id":null}'
    )
    assert link(GENESIS, entry) == hmac.new(b"of the log", b"0" * 64 + row.encode(), "sha256").hexdigest()


def test_the_hash_of_an_entry_from_before_the_keys_is_the_one_of_then() -> None:
    entry = Entry(
        tenant_id=None,
        seq=1,
        at=datetime(2026, 11, 23, 12, tzinfo=UTC),
        actor="system",
        action="user.renamed",
        target_type="auth.user",
        target_id="1",
        target_name="Zoë",
        data={"b": [1, None, True], "a": "x"},
    )
    row = (
        '{"action":"user.renamed","actor":"system","at":"2026-11-23T12:00:00.000000+00:00",'
        '"data":{"a":"x","b":[1,null,true]},"seq":1,"target_id":"1","target_name":"Zo\\u00eb",'
        '"target_type":"auth.user","tenant_id":null}'
    )
    assert link(GENESIS, entry) == sha256(b"0" * 64 + row.encode()).hexdigest()


def test_the_hash_covers_from_where_a_change_came(settings: Any) -> None:
    settings.AUDIT_KEYS = {"k2": "of the log"}
    entry = Entry(key_id="k2", seq=1, at=datetime(2026, 11, 23, 12, tzinfo=UTC), data={})
    entry.address, entry.request_id = "10.4.7.88", "a81c"
    row = (
        '{"action":"","actor":"","address":"10.4.7.88","at":"2026-11-23T12:00:00.000000+00:00","data":{},'
        '"key_id":"k2","request_id":"a81c","seq":1,"target_id":"","target_name":"","target_type":"",'
        '"tenant_id":null}'
    )
    assert link(GENESIS, entry) == hmac.new(b"of the log", b"0" * 64 + row.encode(), "sha256").hexdigest()


@pytest.mark.django_db
def test_an_entry_says_from_where(alice: User) -> None:
    with coming_from(Origin(request_id="r" * 40, address="1" * 70)):
        asked = log("user.renamed", alice, tenant_id=7)
    unasked = log("user.renamed", alice, tenant_id=7)
    assert (asked.request_id, asked.address) == ("r" * 32, "1" * 64)
    assert (unasked.request_id, unasked.address) == ("", "")


@pytest.mark.django_db
def test_a_target_may_have_no_row() -> None:
    written = log("user.renamed", Target("auth.user", "n" * 300), tenant_id=None)
    assert (written.target_type, written.target_id, written.target_name) == ("auth.user", "", "n" * 200)


def test_changes_are_what_differs() -> None:
    assert changes({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}) == {
        "b": {"before": 2, "after": 3},
        "c": {"before": None, "after": None},
    }


@pytest.mark.django_db
def test_tenants_and_the_installation_have_chains_of_their_own(alice: User) -> None:
    for tenant_id in (1, 2, None, 1, None):
        log("user.renamed", alice, tenant_id=tenant_id)

    heads = dict(ChainHead.objects.values_list("tenant_id", "seq"))
    assert heads == {1: 2, 2: 1, None: 2}


@pytest.mark.django_db
def test_the_actor_is_the_innermost_one_and_system_outside(alice: User) -> None:
    with acting_as("admin:bob"):
        with acting_as("key:k1"):
            inner = log("user.renamed", alice, tenant_id=7)
        outer = log("user.renamed", alice, tenant_id=7)
    nobody = log("user.renamed", alice, tenant_id=7)

    assert [inner.actor, outer.actor, nobody.actor] == ["key:k1", "admin:bob", "system"]


@pytest.mark.parametrize("actor", ["", "a" * 201])
def test_an_actor_has_a_length(actor: str) -> None:
    with pytest.raises(ValueError, match="1 to 200"), acting_as(actor):
        pass


@pytest.mark.django_db(transaction=True)
def test_logging_outside_a_transaction_is_refused(alice: User) -> None:
    with pytest.raises(TransactionManagementError, match="transaction of the change"):
        log("user.renamed", alice, tenant_id=7)


@pytest.mark.django_db(transaction=True)
def test_an_entry_is_rolled_back_with_its_change(alice: User) -> None:
    with transaction.atomic():
        log("user.renamed", alice, tenant_id=7)
    with transaction.atomic():
        User.objects.filter(pk=alice.pk).update(username="mallory")
        log("user.renamed", alice, tenant_id=7)
        transaction.set_rollback(True)
    with transaction.atomic():
        log("user.renamed", alice, tenant_id=7)

    assert list(Entry.objects.order_by("seq").values_list("seq", flat=True)) == [1, 2]
    assert User.objects.get().username == "alice"


@pytest.mark.django_db
def test_exact_values_become_strings(alice: User) -> None:
    uuid = UUID(int=5)
    log(
        "user.renamed",
        alice,
        tenant_id=7,
        amount=Decimal("1.10"),
        id=uuid,
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    log("user.renamed", alice, tenant_id=7, nested={"list": (1, "x", None, True)})

    last, first = Entry.objects.all()
    assert first.data == {"amount": "1.10", "id": str(uuid), "at": "2026-01-01T00:00:00+00:00"}
    assert last.data == {"nested": {"list": [1, "x", None, True]}}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "data", [{"x": 1.5}, {"x": [{"y": 0.0}]}, {"x": {1: "a"}}, {"x": b"raw"}, {"x": {1, 2}}]
)
def test_what_has_no_exact_json_is_refused(alice: User, data: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="takes no"):
        log("user.renamed", alice, tenant_id=7, **data)
    assert not Entry.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "key",
    [
        "secret",
        "key",
        "password",
        "API_KEY",
        "apiKey",
        "new_password",
        "client-secret",
        "secret_hmac",
        "access_token",
    ],
)
def test_secrets_are_refused_at_any_depth(alice: User, key: str) -> None:
    for data in ({key: "x"}, {"changes": [{key: "x"}]}):
        with pytest.raises(ValueError, match="secrets"):
            log("user.renamed", alice, tenant_id=7, **data)
    assert not Entry.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "key", ["key_id", "keyboard", "input_tokens", "max_output_tokens", "key_name", "monkey"]
)
def test_words_that_only_look_like_secrets_pass(alice: User, key: str) -> None:
    assert log("user.renamed", alice, tenant_id=7, **{key: 1}).data == {key: 1}


@pytest.mark.django_db
def test_too_much_data_is_refused(alice: User) -> None:
    fits = "ä" * (DATA_LENGTH_MAX - len('{"x": ""}'))
    log("user.renamed", alice, tenant_id=7, x=fits)
    with pytest.raises(ValueError, match="more than"):
        log("user.renamed", alice, tenant_id=7, x=fits + "a")


@pytest.mark.django_db
def test_a_long_name_is_cut(alice: User) -> None:
    alice.get_username = lambda: "x" * 300  # type: ignore[method-assign]
    assert log("user.renamed", alice, tenant_id=7).target_name == "x" * 200


@pytest.mark.django_db
def test_a_target_without_id_is_refused(alice: User) -> None:
    alice.delete()
    with pytest.raises(ValueError, match="no id"):
        log("user.removed", alice, tenant_id=7)


@pytest.mark.django_db
def test_an_unregistered_action_is_refused(alice: User) -> None:
    with pytest.raises(ValueError, match=r"unregistered action: user\.promoted"):
        log("user.promoted", alice, tenant_id=7)


def test_an_action_has_one_label() -> None:
    register_action("user.renamed", "User renamed")
    with pytest.raises(ValueError, match="already registered"):
        register_action("user.renamed", "Other")
    assert action_label("user.renamed") == "User renamed"
    assert action_label("long.gone") == "long.gone"


@pytest.mark.parametrize("action", ["renamed", "User.renamed", "user.", "user.re named", "user." + "x" * 60])
def test_an_action_is_a_dotted_name(action: str) -> None:
    with pytest.raises(ValueError, match="not a dotted action"):
        register_action(action, "Label")
