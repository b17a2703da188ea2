"""A log from before the keys: it stays readable, and one entry with a key vouches for it from then on."""

from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from audit import roles
from audit.chain import link, verify
from audit.log import log
from audit.models import GENESIS, ChainHead, Entry
from audit.tests.tampering import triggers_off

BEFORE, AFTER = "0001_initial", "0003_origin"
LATER_COLUMNS = {"key_id", "address", "request_id"}


def migrate_to(name: str) -> None:
    with roles.as_owner():
        MigrationExecutor(connection).migrate([("audit", name)])


@pytest.fixture
def old_log(transactional_db: None) -> None:
    """Three entries of tenant 7, as they were before there was a key; the rest is up to date again."""
    migrate_to(BEFORE)
    try:
        last = GENESIS
        for seq in (1, 2, 3):
            last = _write_as_then(seq, last)
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO audit_chainhead (tenant_id, seq, hash) VALUES (7, 3, %s)", [last])
    finally:
        migrate_to(AFTER)


def _write_as_then(seq: int, prev_hash: str) -> str:
    entry = Entry(
        tenant_id=7, seq=seq, at=timezone.now(), actor="system", action="user.renamed",
        target_type="auth.user", target_id="1", target_name="alice", data={}, prev_hash=prev_hash,
    )  # fmt: skip
    entry.hash = link(prev_hash, entry)
    columns = [
        field.name
        for field in Entry._meta.concrete_fields
        if field.name not in {"id", "data", *LATER_COLUMNS}
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO audit_entry ({', '.join(columns)}, data) VALUES ({'%s, ' * len(columns)}'{{}}')",  # noqa: S608
            [getattr(entry, name) for name in columns],
        )
    return entry.hash


def said() -> list[str]:
    out = StringIO()
    call_command("verify_audit", stdout=out)
    return out.getvalue().splitlines()


@pytest.mark.usefixtures("old_log")
def test_a_log_from_before_the_keys_is_sealed_and_said_to_be_unauthenticated_so_far() -> None:
    seal = Entry.objects.get(seq=4)
    assert (seal.action, seal.key_id, seal.data) == ("audit.sealed", "1", {"entries": 3})
    assert said()[:2] == [
        "ok: 4 entries, 1 chains",
        "tenant 7: unauthenticated up to entry 3, written before there was a key",
    ]
    with transaction.atomic():
        log("user.renamed", User.objects.create(username="alice"), tenant_id=7)
    assert said()[0] == "ok: 5 entries, 1 chains"


@pytest.mark.usefixtures("old_log")
def test_what_is_older_than_the_seal_cannot_be_changed_any_more() -> None:
    with triggers_off():
        first, second, third = Entry.objects.filter(seq__lte=3).order_by("seq")
        first.actor, last = "somebody else", GENESIS
        for entry in (first, second, third):
            entry.prev_hash = last
            entry.hash = last = link(last, entry)
            entry.save()
        Entry.objects.filter(seq=4).update(prev_hash=last)
    assert verify(7).broken == "tenant 7, entry 4: altered"


@pytest.mark.usefixtures("old_log")
def test_a_log_whose_seal_was_taken_away_is_broken() -> None:
    with triggers_off():
        Entry.objects.filter(seq=4).delete()
        ChainHead.objects.update(seq=3, hash=Entry.objects.get(seq=3).hash)
    with pytest.raises(CommandError, match="tenant 7, entry 3: has no key, and none follows that has one"):
        call_command("verify_audit")
