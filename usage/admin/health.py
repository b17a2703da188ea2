"""Whether counters, rollups, holds, prices and both stores of the shown environment are in order.

What is slow to find out, counters against the ledger, is done on a button, and the page says when it was done last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

from django.contrib import messages
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from tenants import exporting
from tenants.console import environments, export_links
from tenants.console.access import may
from tenants.console.pages import page, rendered
from tenants.exporting import Format
from tenants.models import Environment
from tenants.roles import May
from usage import wording
from usage.admin import health_rows, health_verdict, price_list
from usage.admin.asked import Asked
from usage.admin.health_rows import CostRow, DriftRow, KindRow, UnpricedRow
from usage.analytics import counter_checks, holds, reported_costs, rollup_lag, stores
from usage.analytics.rollup_lag import Lag
from usage.counting.store import StoreUnavailable
from usage.instants import from_ms

logger = logging.getLogger("tokvigil.health")

T = TypeVar("T")

DRIFTS_SHOWN = 50
KINDS_SHOWN = 50
MODELS_SHOWN = 50
# What a check and a rebuild take of a request.
TO_REBUILD = May.EDIT_ENVIRONMENTS


class HealthAsked(Asked):
    """The page is of now; what other pages are asked for goes on to them."""

    tab = "health"


@page("health", "health/")
def health(request: HttpRequest) -> HttpResponse:
    environment = environments.shown(request)
    if request.method == "POST":
        return _check(request, environments.meant(request))
    if environment is None:
        return rendered(request, "console/health.html", "Health", environment=None)
    now, pk = timezone.now(), environment.pk
    checked = _known(lambda: counter_checks.last(pk))
    held = _known(lambda: holds.holds(pk, now))
    costs = _known(lambda: reported_costs.reported(pk))
    lag = _known(lambda: rollup_lag.lag(pk))
    store, ledger = _known(lambda: stores.store_state(pk)), _known(lambda: stores.ledger_state(pk))
    unpriced = price_list.unpriced(environment, now)
    return rendered(
        request,
        "console/health.html",
        "Health",
        environment=environment,
        asked=HealthAsked(request, environment, now),
        now=now,
        verdict=health_verdict.verdict(
            checked,
            store_answers=store is not None,
            ledger_answers=lag is not None and ledger is not None,
            unpriced=len(unpriced),
        ),
        may_rebuild=may(request, TO_REBUILD, environment.tenant_id),
        checked=checked,
        checked_at=None if checked is None else from_ms(checked.at_ms),
        drifts=[] if checked is None else list(map(DriftRow, checked.drifts[:DRIFTS_SHOWN])),
        lag=lag,
        lag_rows="" if lag is None else wording.count(lag.rows),
        lag_says="" if lag is None else _lag_says(lag, now),
        held=held,
        held_says="" if held is None else health_rows.amounts(held.held),
        expired_says="" if held is None else health_rows.amounts(held.held_by_expired),
        kinds=[] if held is None else list(map(KindRow, held.kinds[:KINDS_SHOWN])),
        used_over_days=holds.USED_OVER.days,
        costs=costs,
        costs_rows="" if costs is None else wording.count(costs.rows),
        costs_total=None if costs is None else CostRow(reported_costs.total(costs.models)),
        models=[] if costs is None else list(map(CostRow, costs.models[:MODELS_SHOWN])),
        unpriced=list(map(UnpricedRow, unpriced)),
        unpriced_days=price_list.SEEN_SINCE.days,
        store=store,
        ledger=ledger,
        shown_most=KINDS_SHOWN,
        exports={table: export_links.of_table("health_export", environment, table) for table in _TABLES},
    )


@page("health_rebuild", "health/rebuild/")
def rebuild(request: HttpRequest) -> HttpResponse:
    """Asks, then does it: a POST makes every counter hold what the ledger says, and compares them again."""
    environment = environments.meant(request)
    if not may(request, TO_REBUILD, environment.tenant_id):
        raise PermissionDenied
    if request.method == "POST":
        _rebuild(request, environment)
        return HttpResponseRedirect(_url(environment))
    checked = _known(lambda: counter_checks.last(environment.pk))
    return rendered(
        request,
        "console/health_rebuild.html",
        "Rebuild the counters?",
        environment=environment,
        checked=checked,
        url=_url(environment),
    )


@page("health_export", "health/export/")
def export(request: HttpRequest) -> HttpResponseBase:
    """One table of the page as a file: `?table=holds&format=csv`."""
    environment = environments.meant(request)
    table, kind = request.GET.get("table", ""), request.GET.get("format", "")
    if table not in _TABLES or kind not in export_links.FORMATS:
        raise BadRequest(f"Name a table ({', '.join(_TABLES)}) and a format (csv, json).")
    now = timezone.now()
    try:
        facts, rows = _TABLES[table](environment, now)
        lag = rollup_lag.lag(environment.pk)
    except (DatabaseError, StoreUnavailable) as error:
        logger.warning("health of %s cannot be exported: %s", environment, error)
        return _not_made(request, environment)
    about = {
        "environment": str(environment),
        "table": table,
        **facts,
        "time_zone": environment.tenant.timezone,
        "as_of": timezone.localtime(now).isoformat(timespec="seconds"),
        "rolled_up_before_transaction": lag.mark_xid,
    }
    lines = exporting.written(Format(kind), about, health_rows.COLUMNS[table], rows)
    return exporting.download(Format(kind), f"health-{table}-{timezone.localdate(now)}", lines)


def _not_made(request: HttpRequest, environment: Environment) -> HttpResponse:
    messages.error(request, "The file was not made: the ledger or the counter store did not answer in time.")
    return HttpResponseRedirect(_url(environment))


def _check(request: HttpRequest, environment: Environment) -> HttpResponse:
    if not may(request, TO_REBUILD, environment.tenant_id):
        raise PermissionDenied
    _compare(request, environment)
    return HttpResponseRedirect(_url(environment))


def _compare(request: HttpRequest, environment: Environment) -> None:
    try:
        found = counter_checks.check(environment)
    except (DatabaseError, StoreUnavailable) as error:
        logger.warning("counters of %s were not compared: %s", environment, error)
        messages.error(request, "The counters were not compared, for it took too long. Run check_counters.")
        return
    if found.differing:
        of = wording.counted(found.compared, "counter")
        messages.warning(request, f"Not equal to the ledger: {wording.count(found.differing)} of {of}.")
    elif not found.compared:
        messages.info(request, "There was no counter to compare: each is rebuilt before its next use.")
    else:
        messages.success(request, f"Equal: {_hold(found.compared)} what the ledger says.")


def _rebuild(request: HttpRequest, environment: Environment) -> None:
    try:
        rebuilt = counter_checks.rebuild(environment)
    except (DatabaseError, StoreUnavailable) as error:
        logger.warning("counters of %s were not all rebuilt: %s", environment, error)
        messages.error(
            request,
            "The rebuild did not end. What is left is rebuilt counter by counter, each before its next use.",
        )
        return
    messages.success(request, f"{wording.counted(rebuilt, 'counter')} rebuilt from the ledger.")
    _compare(request, environment)


def _url(environment: Environment) -> str:
    return f"{reverse('admin:health')}?{urlencode({environments.PARAMETER: str(environment)})}"


def _known(find: Callable[[], T]) -> T | None:
    """None: it is not known, for the ledger or the counter store did not answer in time."""
    try:
        return find()
    except (DatabaseError, StoreUnavailable) as error:
        logger.warning("a part of the page of health is not known: %s", error)
        return None


def _lag_says(lag: Lag, now: datetime) -> str:
    """`1,200 rows, the oldest for 43 s`"""
    if lag.oldest_at is None:
        return "Up to date: every row is rolled up."
    rows = f"{'More than ' if lag.is_more else ''}{wording.counted(lag.rows, 'row')}"
    waits = wording.duration(max(0, int((now - lag.oldest_at).total_seconds())))
    return f"{rows} to roll up, the oldest for {waits}"


Table = tuple[dict[str, object], Iterable[health_rows.Cells]]


def _drifts(environment: Environment, now: datetime) -> Table:
    checked = counter_checks.last(environment.pk)
    if checked is None:
        return {"compared_at": "never"}, []
    at = timezone.localtime(from_ms(checked.at_ms)).isoformat(timespec="seconds")
    facts: dict[str, object] = {
        "compared_at": at,
        "compared": checked.compared,
        "differing": checked.differing,
        "not_compared": checked.cold,
        "rows": len(checked.drifts),
    }
    return facts, health_rows.drift_cells(checked.drifts)


def _hold(counters: int) -> str:
    return f"{wording.counted(counters, 'counter')} {'holds' if counters == 1 else 'hold'}"


def _holds(environment: Environment, now: datetime) -> Table:
    found = holds.holds(environment.pk, now)
    facts: dict[str, object] = {
        "open_holds": found.open,
        "summed_holds": found.summed,
        "used_since": timezone.localtime(now - holds.USED_OVER).isoformat(timespec="seconds"),
    }
    return facts, health_rows.kind_cells(found.kinds)


def _costs(environment: Environment, now: datetime) -> Table:
    found = reported_costs.reported(environment.pk)
    since = "" if found.since is None else timezone.localtime(found.since).isoformat(timespec="seconds")
    return {"newest_rows": found.rows, "since": since}, health_rows.cost_cells(found.models)


def _unpriced(environment: Environment, now: datetime) -> Table:
    since = timezone.localtime(now - price_list.SEEN_SINCE).isoformat(timespec="seconds")
    return {"since": since}, health_rows.unpriced_cells(price_list.unpriced(environment, now))


_TABLES: dict[str, Callable[[Environment, datetime], Table]] = {
    "drifts": _drifts,
    "holds": _holds,
    "costs": _costs,
    "unpriced": _unpriced,
}
