"""`GET /healthz` and `GET /readyz`."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from audit import roles
from tokvigil_site import health
from usage.counting.store import StoreUnavailable, store


@pytest.fixture(autouse=True)
def fresh(empty_store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_migrated", set())


def readiness() -> tuple[int, dict[str, bool]]:
    response = Client().get("/readyz")
    found: dict[str, Any] = response.json()
    assert (found["status"] == "ok") == (response.status_code == 200)
    assert all(check["ok"] or check["hint"] for check in found["checks"])
    return response.status_code, {check["name"]: check["ok"] for check in found["checks"]}


def test_the_process_lives_whatever_it_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """No database is allowed in this test."""
    response = Client().get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_it_is_ready_with_both_stores(transactional_db: None) -> None:
    status, checks = readiness()

    assert status == 200
    assert checks == dict.fromkeys(
        ("database", "migrations", "counter_store", "counter_store_eviction"), True
    )


def test_it_is_not_ready_without_the_database(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> bool:
        raise OperationalError("password=hunter2")

    monkeypatch.setitem(health._CHECKS, "database", away)

    status, checks = readiness()

    assert status == 503
    assert checks["database"] is False
    response = Client().get("/readyz")
    assert b"hunter2" not in response.content
    assert response.headers["Retry-After"] == "1"


def test_it_is_not_ready_without_the_counter_store(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "call", away)

    status, checks = readiness()

    assert status == 503
    assert (checks["counter_store"], checks["counter_store_eviction"]) == (False, False)
    assert checks["database"]


def test_it_is_not_ready_while_the_counter_store_may_evict(transactional_db: None) -> None:
    store.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        status, checks = readiness()
    finally:
        store.client.config_set("maxmemory-policy", "noeviction")

    assert status == 503
    assert checks["counter_store"]
    assert not checks["counter_store_eviction"]


def test_it_is_not_ready_before_the_migrations_ran_and_is_after(transactional_db: None) -> None:
    with roles.as_owner():
        MigrationRecorder.Migration.objects.get(app="sessions", name="0001_initial").delete()
    try:
        assert readiness() == (503, {**readiness()[1], "migrations": False})
    finally:
        with roles.as_owner():
            MigrationRecorder.Migration.objects.create(app="sessions", name="0001_initial")

    assert readiness()[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_are_only_read(path: str) -> None:
    assert Client().post(path).status_code == 405
