from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.utils import timezone

from audit import chain
from audit.chain import link, verify
from audit.log import log
from audit.models import ChainHead, Entry
from audit.tests.tampering import triggers_off

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def entries(db: None, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    monkeypatch.setattr(chain, "BATCH", 2)
    alice = User.objects.create(username="alice")
    log("user.renamed", alice, tenant_id=None)
    log("user.renamed", alice, tenant_id=8)
    return [log("user.renamed", alice, tenant_id=7, step=step) for step in range(1, 6)]


def test_a_sound_chain_is_ok() -> None:
    verdict = verify(7)
    assert verdict.ok
    assert (verdict.tenant_id, verdict.entries) == (7, 5)
    assert verify(None).ok


def test_a_chain_without_entries_is_not_taken_for_sound() -> None:
    assert verify(99).broken == "tenant 99, entry 0: the chain's head is missing"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actor", "somebody else"),
        ("action", "user.removed"),
        ("at", timezone.now()),
        ("target_type", "auth.group"),
        ("target_id", "999"),
        ("target_name", "bob"),
        ("data", {"step": 33}),
        ("hash", "f" * 64),
    ],
)
def test_an_altered_entry_is_named(field: str, value: object) -> None:
    with triggers_off():
        Entry.objects.filter(tenant_id=7, seq=3).update(**{field: value})

    verdict = verify(7)
    assert verdict.broken == "tenant 7, entry 3: altered"
    assert verdict.entries == 2
    assert verify(8).ok


def test_an_entry_altered_with_its_hash_breaks_the_next_one(entries: list[Entry]) -> None:
    third = entries[2]
    third.data = {"step": 33}
    with triggers_off():
        Entry.objects.filter(pk=third.pk).update(data=third.data, hash=link(third.prev_hash, third))

    assert verify(7).broken == "tenant 7, entry 4: does not follow entry 3"


def test_the_last_entry_altered_with_its_hash_does_not_match_the_head(entries: list[Entry]) -> None:
    last = entries[-1]
    last.data = {"step": 55}
    with triggers_off():
        Entry.objects.filter(pk=last.pk).update(data=last.data, hash=link(last.prev_hash, last))

    assert verify(7).broken == "tenant 7, entry 5: replaced"


@pytest.mark.parametrize("seq", [1, 3, 5])
def test_a_deleted_entry_is_named_even_the_last(seq: int) -> None:
    with triggers_off():
        Entry.objects.filter(tenant_id=7, seq=seq).delete()

    assert verify(7).broken == f"tenant 7, entry {seq}: missing"


def test_deleted_entries_are_noticed_when_all_are_gone() -> None:
    with triggers_off():
        Entry.objects.filter(tenant_id=7).delete()

    assert verify(7).broken == "tenant 7, entry 1: missing"


def test_a_head_set_back_is_noticed(entries: list[Entry]) -> None:
    with triggers_off():
        ChainHead.objects.filter(tenant_id=7).update(seq=4, hash=entries[3].hash)

    assert verify(7).broken == "tenant 7, entry 5: not written by the log"


def test_a_missing_head_is_noticed() -> None:
    with triggers_off():
        ChainHead.objects.filter(tenant_id=7).delete()

    assert verify(7).broken == "tenant 7, entry 5: the chain's head is missing"


def test_an_entry_moved_to_another_chain_is_noticed() -> None:
    with triggers_off():
        Entry.objects.filter(tenant_id=7, seq=5).update(tenant_id=8, seq=2)

    assert verify(8).broken == "tenant 8, entry 2: does not follow entry 1"


def test_the_command_counts_what_is_sound() -> None:
    out = StringIO()
    call_command("verify_audit", stdout=out)
    assert out.getvalue() == "ok: 7 entries, 3 chains\n"


def test_the_command_names_the_first_broken_entry_and_fails() -> None:
    with triggers_off():
        Entry.objects.filter(tenant_id=7, seq__gte=3).update(actor="somebody else")

    with pytest.raises(CommandError, match=r"^broken: tenant 7, entry 3: altered$") as error:
        call_command("verify_audit")
    assert error.value.returncode == 1


@pytest.mark.parametrize("model", [Entry, ChainHead])
def test_the_command_sees_a_chain_of_which_one_half_is_gone(model: type[Entry] | type[ChainHead]) -> None:
    with triggers_off():
        model._default_manager.filter(tenant_id=8).delete()

    with pytest.raises(CommandError, match="tenant 8"):
        call_command("verify_audit")
