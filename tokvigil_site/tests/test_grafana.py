"""The SQL of docs/grafana.md, as it stands there: its views are the ledger, and its role reads nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from audit import roles
from tenants.models import Environment
from usage.amounts import Subjects
from usage.ledger import partitions
from usage.money import NANO
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import estimate, one, report

BLOCKS = re.findall(
    r"```sql\n(.*?)```", (Path(settings.BASE_DIR) / "docs" / "grafana.md").read_text(), re.DOTALL
)
VIEWS, ROLE, *PANELS = BLOCKS
# Of the panel, as Grafana writes it for that of a month in Berlin in which the clocks went back.
SINCE, UNTIL = "2012-09-30T22:00:00Z", "2012-10-31T23:00:00Z"
TIME_FILTER = f"at BETWEEN '{SINCE}' AND '{UNTIL}'"
OF_LEDGER = f"environment_id = %s AND charged_at >= '{SINCE}' AND charged_at < '{UNTIL}'"


@pytest.fixture
def used(environment: Environment, other_environment: Environment) -> Environment:
    first, last = datetime(2012, 9, 30, 22, tzinfo=UTC), datetime(2012, 10, 31, 22, 59, 59, tzinfo=UTC)
    partitions.ensure([first, last])
    calls = [
        ("first", first, 1, "chat"),
        ("summer", datetime(2012, 10, 28, 0, 30, tzinfo=UTC), 20, "chat"),
        ("winter", datetime(2012, 10, 28, 1, 30, tzinfo=UTC), 300, "chat"),
        ("unpriced", datetime(2012, 10, 9, tzinfo=UTC), None, ""),
    ]
    for name, at, cost, feature in calls:
        subjects = Subjects(user_id=name, feature=feature, plan="pro", run_id=name)
        one(report(environment, name, charged_at=at, cost_nano=cost, subjects=subjects))
    one(estimate(environment, "late", charged_at=last))
    roll_all(environment.pk)
    one(report(environment, "late", charged_at=last, cost_nano=4_000))
    one(report(environment, "tail", charged_at=last, cost_nano=50_000))
    one(report(environment, "after", charged_at=datetime(2012, 10, 31, 23, 1, tzinfo=UTC), cost_nano=7))
    one(report(other_environment, "theirs", charged_at=last, cost_nano=600_000))
    return environment


@pytest.fixture
def views(used: Environment) -> Iterator[None]:
    with roles.as_owner(), connection.cursor() as cursor:
        cursor.execute(VIEWS)
    try:
        yield
    finally:
        with roles.as_owner(), connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA grafana CASCADE")
            for month in ("09", "10"):
                cursor.execute(f"DROP TABLE IF EXISTS usage_event_2012_{month}")


def read(sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with roles.as_owner(), connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def panel(number: int) -> list[tuple[Any, ...]]:
    return read(PANELS[number].replace("$__timeFilter(at)", TIME_FILTER))


def ledger(grouped: str, environment: Environment) -> list[tuple[Any, ...]]:
    return read(
        f"SELECT {grouped}, sum(coalesce(cost_nano, 0)) FROM usage_event WHERE {OF_LEDGER}"  # noqa: S608 (our own text)
        " GROUP BY 1, 2 ORDER BY 1, 2",
        environment.pk,
    )


@pytest.mark.parametrize(
    ("number", "grouped"),
    [
        (0, "date_trunc('hour', charged_at), feature"),
        (1, "date_trunc('day', charged_at, 'Europe/Berlin'), model"),
    ],
)
def test_a_panel_over_time_is_the_ledger(used: Environment, views: None, number: int, grouped: str) -> None:
    found = [(time, metric, int(value * NANO)) for time, metric, value in panel(number)]
    assert found == ledger(grouped, used)
    assert sum(nano for *_, nano in found) == 54_321


def test_the_panel_of_users_is_the_ledger(used: Environment, views: None) -> None:
    found = {user: (int(calls), int(cost * NANO), int(unpriced)) for user, calls, cost, unpriced in panel(2)}
    assert found == {
        "ann": (2, 54_000, 0),
        "winter": (1, 300, 0),
        "summer": (1, 20, 0),
        "first": (1, 1, 0),
        "unpriced": (1, 0, 1),
    }


def test_both_views_have_the_same_sums_before_and_after_a_roll(used: Environment, views: None) -> None:
    def sums(name: str) -> list[tuple[Any, ...]]:
        names = "tenant, environment, feature, plan, model"
        summed = "sum(calls), sum(input_tokens), sum(output_tokens), sum(cost_usd), sum(unpriced_calls)"
        return read(f"SELECT {names}, {summed} FROM grafana.{name} GROUP BY {names} ORDER BY {names}")  # noqa: S608

    before = sums("usage")
    assert before == sums("usage_by_user")
    roll_all(used.pk)
    assert sums("usage") == sums("usage_by_user") == before


def test_the_role_may_read_the_views_and_nothing_else(views: None) -> None:
    """A superuser makes it, which the tests' owner is not: so what it grants is asked of the grants."""
    assert "GRANT SELECT ON ALL TABLES IN SCHEMA grafana TO grafana_reader;" in ROLE
    assert set(re.findall(r"GRANT .*? ON (.*?) TO", ROLE)) == {
        "SCHEMA grafana",
        "ALL TABLES IN SCHEMA grafana",
    }
    names = read("SELECT relname FROM pg_class WHERE relnamespace = 'grafana'::regnamespace ORDER BY 1")
    assert names == [("usage",), ("usage_by_user",)]
