"""How long pages of the console take beside a large environment: a million blocked calls, 100,000 end users.

Of pages of sums also how that compares with the plain sum of the rows that they are made of.
"""

from __future__ import annotations

import statistics
import time

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from bench import scene
from bench.result import Result
from policies.blocked import decision_log
from tenants.models import ApiKey, Membership, Role
from tenants.scopes import EVALUATE
from usage.ledger.rollups import roll

PAGE_MS_MAX = 300
DECISIONS = 1_000_000
END_USERS = 100_000
CALLS_MAX = 10_000_000
LEDGER_DAYS = 30
LEDGER_USERS = 5_000
# Not rolled up: more than a minute of 10 million events a day.
TAIL = 10_000
TIMES = 5
# What a page of sums may take of the time of the plain sum of a large ledger.
RATIO_MAX = 1.0
PLAIN = {
    "blocked, a month": """
        SELECT reason_code, feature, model, count(*) FROM blocked_decision
        WHERE environment_id = %s AND decided_at >= now() - interval '30 days' GROUP BY 1, 2, 3
    """,
    "budgets": """
        SELECT date_trunc('day', charged_at AT TIME ZONE 'Europe/Berlin'), sum(cost_nano), sum(requests)
        FROM usage_event WHERE environment_id = %s GROUP BY 1
    """,
    "health": """
        SELECT feature, model, sum(requests), sum(cost_nano) FROM usage_event
        WHERE environment_id = %s AND charged_at >= now() - interval '7 days' GROUP BY 1, 2
    """,
}


def measures(at: scene.Scene, rows: int) -> list[Result]:
    """`rows`: of the ledger, CALLS_MAX at most."""
    busy, rare = (ApiKey.issue(at.environment, name, (EVALUATE,))[0] for name in ("busy", "rare"))
    _fill(at, busy, rare, min(rows, CALLS_MAX))
    client = _signed_in(at)
    users = reverse("admin:policies_enduser_changelist")
    decisions = reverse("admin:policies_blockeddecision_changelist")
    explorer = reverse("admin:explorer")
    events = reverse("admin:usage_usageevent_changelist")
    pages = {
        "decisions": decisions,
        "decisions of a user": f"{decisions}?user=user_77",
        "decisions of a rare model": f"{decisions}?model=rare",
        "decisions of a reason and time": f"{decisions}?since=2020-01-01T00:00&reason=USER_BLOCKED",
        "decisions of a rare API key": f"{decisions}?key={rare.pk}",
        "a busy API key": reverse("admin:tenants_apikey_change", args=[busy.pk]),
        "a rare API key": reverse("admin:tenants_apikey_change", args=[rare.pk]),
        "end users": users,
        "end users, searched": f"{users}?q=user_77",
        "usage": events,
        "usage of a model in a month": f"{events}?period=30d&model=gpt-4o-mini",
        "explorer, a month by model": f"{explorer}?period=30d",
        "explorer, a month by user": f"{explorer}?period=30d&by=user&then=model",
        "explorer, a month by feature and user": f"{explorer}?period=30d&by=feature&then=user",
        "explorer, a month by run": f"{explorer}?period=30d&by=run",
        "plans": reverse("admin:policies_plan_changelist"),
        "policies": reverse("admin:policies_policy_changelist"),
        "audit log": reverse("admin:audit_entry_changelist"),
        "limits": reverse("admin:limits"),
        "limits that run out first": f"{reverse('admin:limits')}?order=runs-out&state=near",
        "overview": reverse("admin:index"),
        "overview of a month": f"{reverse('admin:index')}?period=30d",
        "blocked, a month": f"{reverse('admin:blocked')}?period=30d",
        "blocked, of a user": f"{reverse('admin:blocked')}?period=30d&user=user_77",
        "budgets": reverse("admin:budgets"),
        "month report": reverse("admin:month_report"),
        "health": reverse("admin:health"),
    }
    took = {name: _page(client, url) for name, url in pages.items()}
    return [
        *(_result(name, *took[name]) for name in pages),
        *(_beside_plain(at, name, took[name][0], rows) for name in PLAIN),
    ]


def _page(client: Client, url: str) -> tuple[float, int]:
    """How many milliseconds, and how many queries."""
    took_ms = []
    for _ in range(TIMES):
        started = time.perf_counter()
        with CaptureQueriesContext(connection) as captured:
            answer = client.get(url)
        took_ms.append(1000 * (time.perf_counter() - started))
        assert answer.status_code == 200, (url, answer.status_code)
    print(f"{url}: {statistics.median(took_ms):.0f} ms", flush=True)
    return statistics.median(took_ms), len(captured)


def _result(name: str, median_ms: float, queries: int) -> Result:
    return Result(
        f"console, {name}",
        f"{median_ms:.0f} ms, {queries} queries",
        f"< {PAGE_MS_MAX} ms",
        median_ms < PAGE_MS_MAX,
    )


def _beside_plain(at: scene.Scene, name: str, page_ms: float, rows: int) -> Result:
    took_ms = []
    for _ in range(TIMES):
        started = time.perf_counter()
        with connection.cursor() as cursor:
            cursor.execute(PLAIN[name], [at.environment.pk])
            cursor.fetchall()
        took_ms.append(1000 * (time.perf_counter() - started))
    plain_ms = statistics.median(took_ms)
    return Result(
        f"console, {name} / the plain sum of its rows, {rows} calls in the ledger",
        f"{page_ms / plain_ms:.2f} ({page_ms:.0f} / {plain_ms:.0f} ms)",
        f"<= {RATIO_MAX:.0f}",
        page_ms / plain_ms <= RATIO_MAX,
    )


def _signed_in(at: scene.Scene) -> Client:
    user = User.objects.create_user("bench", is_staff=True)
    Membership.objects.create(tenant=at.environment.tenant, user=user, role=Role.ADMIN)
    client = Client(SERVER_NAME="localhost")
    client.force_login(user)
    client.get(reverse("admin:index"), {"environment": str(at.environment)})
    return client


def _fill(at: scene.Scene, busy: ApiKey, rare: ApiKey, rows: int) -> None:
    environment = at.environment
    scene.synthesize(environment, rows - TAIL, days=LEDGER_DAYS, users=LEDGER_USERS)
    roll(environment.pk)
    scene.synthesize(environment, TAIL, days=1, users=LEDGER_USERS, seed=2)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO policies_enduser (environment_id, user_id, plan_id, blocked, created_at)
            SELECT %s, 'user_' || n, %s, n %% 100 = 0, now() FROM generate_series(1, %s) AS n
            """,
            [environment.pk, environment.plans.get(name="free").pk, END_USERS],
        )
        cursor.execute("SELECT now(), now() - interval '1 day'")
        decision_log.ensure(cursor.fetchone() or ())
        cursor.execute(
            """
            INSERT INTO blocked_decision (environment_id, stream_id, decided_at, request_id, user_id, feature, plan,
                run_id, model, reason_code, reason_class, message, policy_name, limit_state, api_key_id)
            SELECT %s, n::text, now() - (%s - n) * interval '86 milliseconds', 'blocked_' || n, 'user_' || (n %% 1000),
                'chat', 'free', '', CASE n WHEN 5 THEN 'rare' ELSE 'gpt-4o-mini' END,
                CASE n %% 50 WHEN 0 THEN 'USER_BLOCKED' ELSE 'MODEL_DENIED' END, 'forbidden', 'It says why.', '', '[]',
                CASE n %% 100000 WHEN 0 THEN %s ELSE %s END
            FROM generate_series(1, %s) AS n
            """,
            [environment.pk, DECISIONS, rare.pk, busy.pk, DECISIONS],
        )
        # As autovacuum has done by the time that a ledger is large.
        cursor.execute("ANALYZE")
