"""What subjects of budgets spent day by day, for their forecasts: one statement for each kind of subject."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import DatabaseError, connection

from policies.standing import budget_forecast
from policies.standing.budget_forecast import Month, Spent
from usage.amounts import Models, Per, Subjects
from usage.ledger import model_names, sums
from usage.ledger.leading import at_most
from usage.metrics import Metric
from usage.prices.model_groups import ModelGroups
from usage.windows import Window

logger = logging.getLogger("tokvigil.standings")

LEDGER_MS_MAX = 3_000
_MOMENT = timedelta(milliseconds=1)

# A kind, the models that count, and the name of the subject.
Named = tuple[Per, Models, str]


def is_budget(metric: Metric, window: Window) -> bool:
    return metric is Metric.COST_USD and window is Window.MONTH


def spent(
    environment_id: int,
    zone: ZoneInfo,
    now: datetime,
    subjects: Iterable[tuple[Per, Models, Subjects]],
    groups: ModelGroups,
) -> dict[Named, Spent]:
    """Of the subjects that have a name. What cannot be read in time is left out."""
    asked: dict[tuple[Per, Models], dict[str, Subjects]] = defaultdict(dict)
    for per, models, subject in subjects:
        name = subject.name(per)
        if name is not None:
            asked[per, models][name] = subject
    found: dict[Named, Spent] = {}
    if not asked:
        return found
    this = budget_forecast.month(now, zone)
    try:
        with at_most(LEDGER_MS_MAX):
            for (per, models), named in asked.items():
                counted = model_names.counted(
                    environment_id, this.read[0], this.now + _MOMENT, models, groups
                )
                of_kind = _of_kind(environment_id, per, named, this, counted)
                found |= {(per, models, name): days for name, days in of_kind.items()}
    except DatabaseError as error:
        logger.warning("budgets of environment %s have no forecast: %s", environment_id, error)
    return found


def _of_kind(
    environment_id: int, per: Per, named: dict[str, Subjects], this: Month, models: list[str] | None
) -> dict[str, Spent]:
    columns = sums.COLUMNS[per]
    filters = {column: sorted({getattr(each, column) for each in named.values()}) for column in columns}
    if models is not None:
        filters["model"] = models
    used = sums.used(environment_id, [*this.read, this.now + _MOMENT], columns, filters)
    grouped = "".join(f", {column}" for column in columns)
    by_names: dict[tuple[Any, ...], dict[int, int]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT width_bucket(at, %s::timestamptz[]), sum(cost_nano)::bigint{grouped}
            FROM ({used.sql}) AS used GROUP BY 1{grouped}
            """,  # noqa: S608 (our own names)
            [list(this.read), *used.values],
        )
        for place, cost, *names in cursor.fetchall():
            by_names[tuple(names)][place] = cost
    return {
        name: Spent(
            this,
            tuple(
                by_names[tuple(getattr(subject, column) for column in columns)].get(place + 1, 0)
                for place in range(len(this.read))
            ),
        )
        for name, subject in named.items()
    }
