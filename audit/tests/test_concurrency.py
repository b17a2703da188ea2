from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from audit.chain import verify
from audit.log import acting_as, log
from audit.models import Entry

WRITERS = 8
ENTRIES_EACH = 15


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("tenant_id", [7, None])
def test_concurrent_writers_make_one_chain_without_gaps(tenant_id: int | None) -> None:
    alice = User.objects.create(username="alice")
    together = Barrier(WRITERS)

    def write(writer: int) -> None:
        try:
            together.wait(timeout=10)  # the race for the first entry included
            for step in range(ENTRIES_EACH):
                with acting_as(f"writer:{writer}"), transaction.atomic():
                    log("user.renamed", alice, tenant_id=tenant_id, step=step)
        finally:
            connection.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))

    entries = Entry.objects.filter(tenant_id=tenant_id).order_by("seq")
    assert [entry.seq for entry in entries] == list(range(1, WRITERS * ENTRIES_EACH + 1))
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
    for writer in range(WRITERS):
        steps = [entry.data["step"] for entry in entries if entry.actor == f"writer:{writer}"]
        assert steps == list(range(ENTRIES_EACH))
    assert verify(tenant_id).ok


@pytest.mark.django_db(transaction=True)
def test_a_chain_is_sound_whenever_it_is_verified_while_written() -> None:
    alice = User.objects.create(username="alice")
    stop = Event()

    def write() -> None:
        try:
            while not stop.is_set():
                with transaction.atomic():
                    log("user.renamed", alice, tenant_id=7)
        finally:
            connection.close()

    with transaction.atomic():
        log("user.renamed", alice, tenant_id=7)
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write) for _ in range(2)]
        try:
            verdicts = [verify(7) for _ in range(30)]
        finally:
            stop.set()
        for writer in writers:
            writer.result()

    assert [verdict.broken for verdict in verdicts] == [None] * 30
    assert verdicts[-1].entries > verdicts[0].entries
