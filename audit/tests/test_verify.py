from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from audit import chain
from audit.chain import link, verify
from audit.log import log
from audit.models import GENESIS, UNKEYED, ChainHead, Entry
from audit.tests.tampering import triggers_off

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def entries(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    monkeypatch.setattr(chain, "BATCH", 2)
    with transaction.atomic():
        return written()


def written() -> list[Entry]:
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
        ("address", "10.0.0.1"),
        ("request_id", "a81c"),
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


def said(*arguments: str) -> str:
    out = StringIO()
    call_command("verify_audit", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_counts_what_is_sound() -> None:
    assert said().splitlines()[0] == "ok: 7 entries, 3 chains"


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


def rewrite(tenant_id: int, key_id: str, change: Callable[[Entry], None]) -> None:
    """What somebody does who can write anything to the database and knows how entries are linked."""
    with triggers_off():
        last = GENESIS
        for entry in Entry.objects.filter(tenant_id=tenant_id).order_by("seq"):
            change(entry)
            entry.key_id, entry.prev_hash = key_id, last
            entry.hash = last = link(last, entry)
            entry.save()
        ChainHead.objects.filter(tenant_id=tenant_id).update(hash=last)


def test_an_edit_with_all_hashes_computed_anew_is_found(settings: Any) -> None:
    def forge(entry: Entry) -> None:
        entry.actor = "somebody else"

    right = settings.AUDIT_KEYS
    settings.AUDIT_KEYS = {"1": "a guess"}
    rewrite(7, "1", forge)
    settings.AUDIT_KEYS = right
    assert verify(7).broken == "tenant 7, entry 1: altered"

    rewrite(8, UNKEYED, forge)
    assert verify(8).broken == "tenant 8, entry 1: has no key, and none follows that has one"


def test_an_entry_without_a_key_after_one_with_a_key_is_found(entries: list[Entry]) -> None:
    last = entries[-1]
    last.key_id, last.actor = UNKEYED, "somebody else"
    last.hash = link(last.prev_hash, last)
    with triggers_off():
        last.save()
        ChainHead.objects.filter(tenant_id=7).update(hash=last.hash)

    assert verify(7).broken == "tenant 7, entry 5: has no key, though entry 4 has one"


def test_a_key_is_replaced_and_the_old_one_kept_beside_it(settings: Any) -> None:
    settings.AUDIT_KEYS = {"2": "new", **settings.AUDIT_KEYS}
    with transaction.atomic():
        entry = log("user.renamed", User.objects.get(), tenant_id=7)
    assert entry.key_id == "2"
    assert verify(7).ok

    settings.AUDIT_KEYS = {"2": "new"}
    assert verify(7).broken == "tenant 7, entry 1: its key '1' is not in AUDIT_KEY"


def cut(tenant_id: int, entries_left: int) -> None:
    """Takes the last entries away and turns the head back, which no hash can show."""
    entries = Entry.objects.filter(tenant_id=tenant_id)
    with triggers_off():
        entries.filter(seq__gt=entries_left).delete()
        last = entries.get(seq=entries_left)
        ChainHead.objects.filter(tenant_id=tenant_id).update(seq=entries_left, hash=last.hash)


def broken(expected: str) -> str:
    with pytest.raises(CommandError) as error:
        call_command("verify_audit", "--expect", expected)
    assert error.value.returncode == 1
    return str(error.value)


def test_a_chain_that_lost_its_end_is_named_by_heads_that_were_kept(tmp_path: Path) -> None:
    kept = said()
    file = tmp_path / "heads"
    file.write_text(kept)
    for expected in (kept, str(file)):
        assert said("--expect", expected) == kept

    cut(7, entries_left=4)

    assert verify(7).ok
    for expected in (kept, str(file)):
        assert broken(expected) == "broken: tenant 7: ends at entry 4, 5 entries expected"


def test_a_chain_that_lost_its_end_and_grew_again_is_named() -> None:
    kept = said()
    cut(7, entries_left=4)
    with transaction.atomic():
        log("user.renamed", User.objects.get(), tenant_id=7, step="other")
        log("user.renamed", User.objects.get(), tenant_id=7, step="more")

    assert broken(kept) == "broken: tenant 7, entry 5: another than expected"


def test_chains_that_are_gone_are_named() -> None:
    kept = said()
    with triggers_off():
        for gone in (7, None):
            Entry.objects.filter(tenant_id=gone).delete()
            ChainHead.objects.filter(tenant_id=gone).delete()

    assert broken(kept).splitlines() == [
        "broken: tenant 7: gone, 5 entries expected",
        "broken: installation: gone, 1 entries expected",
    ]


def test_what_was_written_since_is_no_flaw() -> None:
    kept = said()
    with transaction.atomic():
        log("user.renamed", User.objects.get(), tenant_id=7)
        log("user.renamed", User.objects.get(), tenant_id=9)
    assert said("--expect", kept).startswith("ok: 9 entries, 4 chains\n")


@pytest.mark.parametrize("expected", ["", "/no/such/file", "ok: 0 entries, 0 chains", "tenant-7:5:abc"])
def test_an_expectation_without_heads_is_refused(expected: str) -> None:
    assert "holds no heads" in broken(expected)


def test_all_that_is_broken_is_named() -> None:
    with triggers_off():
        Entry.objects.filter(seq=1).update(actor="somebody else")
    assert broken(said_before_it_broke()).splitlines() == [
        "broken: tenant 7, entry 1: altered",
        "broken: tenant 8, entry 1: altered",
        "broken: installation, entry 1: altered",
    ]


def said_before_it_broke() -> str:
    return " ".join(str(chain.Head(head.tenant_id, head.seq, head.hash)) for head in ChainHead.objects.all())
