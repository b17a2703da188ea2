from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction

from audit.log import log
from audit.models import ChainHead, Entry
from audit.testing import TRUNCATE_TRIGGERS


@pytest.fixture
def entry(db: None) -> Entry:
    return log("user.renamed", User.objects.create(username="alice"), tenant_id=7, x=1)


def refused(change: Callable[[], object]) -> bool:
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        change()
    return True


def test_an_entry_cannot_be_altered(entry: Entry) -> None:
    assert refused(lambda: Entry.objects.update(actor="somebody else"))
    assert refused(entry.save)
    assert Entry.objects.get().actor == "system"


def test_an_entry_cannot_be_deleted(entry: Entry) -> None:
    assert refused(Entry.objects.all().delete)
    assert Entry.objects.count() == 1


@pytest.mark.parametrize("table", TRUNCATE_TRIGGERS)
def test_the_tables_cannot_be_emptied(entry: Entry, table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER {TRUNCATE_TRIGGERS[table]}")
        assert refused(lambda: cursor.execute(f"TRUNCATE {table}"))


def test_a_head_only_moves_to_the_next_entry(entry: Entry) -> None:
    heads = ChainHead.objects.all()
    assert refused(lambda: heads.update(seq=0))
    assert refused(lambda: heads.update(seq=3))
    assert refused(lambda: heads.update(hash="f" * 64))
    assert refused(lambda: heads.update(tenant_id=8, seq=2))
    assert refused(heads.delete)


@pytest.mark.parametrize("tenant_id", [7, None])
def test_a_place_in_a_chain_is_taken_once(entry: Entry, tenant_id: int | None) -> None:
    entry.tenant_id, entry.seq = tenant_id, 2
    entry.pk = entry.pk + 1
    entry.save(force_insert=True)
    entry.pk = entry.pk + 1
    with pytest.raises(IntegrityError, match="audit_entry_seq"), transaction.atomic():
        entry.save(force_insert=True)
