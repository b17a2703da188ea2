"""`GET /healthz` and `GET /readyz`: does the process live, and can it do its work."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from tenants.api import http
from tenants.api.problems import RETRY_UNAVAILABLE_S
from usage.counting.store import StoreUnavailable, store
from usage.timebox import patience

DATABASE_WAIT_S = 1.0


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """`hint` says what to do if it is not ok."""

    name: str
    ok: bool
    hint: str | None = None


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    checks: tuple[Check, ...]


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    return http.json_response({"status": "ok"})


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    found = readiness()
    response = http.json_response(found, 200 if found.status == "ok" else 503)
    if response.status_code != 200:
        response["Retry-After"] = str(RETRY_UNAVAILABLE_S)
    return response


def readiness() -> Readiness:
    """One query and two round trips once the process is ready; each bounded by its server's time box."""
    with patience.within(DATABASE_WAIT_S):
        checks = tuple(_check(name, hint) for name, hint in _HINTS.items())
    return Readiness(status="ok" if all(check.ok for check in checks) else "unavailable", checks=checks)


def _check(name: str, hint: str) -> Check:
    try:
        ok = _CHECKS[name]()
    except (DatabaseError, InterfaceError, StoreUnavailable):
        ok = False
    return Check(name=name, ok=ok, hint=None if ok else hint)


def _database_answers() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone() is not None


# Reading all migrations takes longer than a probe should; what this process once found applied stays so.
_migrated: set[str] = set()


def _is_migrated() -> bool:
    if connection.alias not in _migrated:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return False
        _migrated.add(connection.alias)
    return True


def _counter_store_answers() -> bool:
    return bool(store.call(lambda client: client.ping()))


def _counter_store_keeps_all() -> bool:
    # From INFO, because managed stores forbid CONFIG.
    return bool(store.call(lambda client: client.info("memory"))["maxmemory_policy"] == "noeviction")


_CHECKS: dict[str, Callable[[], bool]] = {
    "database": _database_answers,
    "migrations": _is_migrated,
    "counter_store": _counter_store_answers,
    "counter_store_eviction": _counter_store_keeps_all,
}
_HINTS = {
    "database": "PostgreSQL cannot be reached; check DATABASE_URL and the server.",
    "migrations": "Migrations are not applied, or not known to be; run `manage.py migrate`.",
    "counter_store": "The counter store cannot be reached in time; check REDIS_URL and the server.",
    "counter_store_eviction": "The counter store may evict counters; set its maxmemory-policy to noeviction.",
}
