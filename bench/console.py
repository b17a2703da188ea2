"""How long pages of the console take beside a large environment: a million blocked calls, 100,000 end users."""

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

LIST_MS_MAX = 300
# It reads counters, and sums of the ledger.
OVERVIEW_MS_MAX = 1_500
DECISIONS = 1_000_000
END_USERS = 100_000
LEDGER_ROWS = 1_000_000
TIMES = 5


def measures(at: scene.Scene) -> list[Result]:
    busy, rare = (ApiKey.issue(at.environment, name, (EVALUATE,))[0] for name in ("busy", "rare"))
    _fill(at, busy, rare)
    client = _signed_in(at)
    users = reverse("admin:policies_enduser_changelist")
    decisions = reverse("admin:policies_blockeddecision_changelist")
    pages = {
        "decisions": (decisions, LIST_MS_MAX),
        "decisions of a user": (f"{decisions}?user=user_77", LIST_MS_MAX),
        "decisions of a rare model": (f"{decisions}?model=rare", LIST_MS_MAX),
        "decisions of a reason and time": (
            f"{decisions}?since=2020-01-01T00:00&reason=USER_BLOCKED",
            LIST_MS_MAX,
        ),
        "decisions of a rare API key": (f"{decisions}?key={rare.pk}", LIST_MS_MAX),
        "a busy API key": (reverse("admin:tenants_apikey_change", args=[busy.pk]), LIST_MS_MAX),
        "a rare API key": (reverse("admin:tenants_apikey_change", args=[rare.pk]), LIST_MS_MAX),
        "end users": (users, LIST_MS_MAX),
        "end users, searched": (f"{users}?q=user_77", LIST_MS_MAX),
        "usage": (reverse("admin:usage_usageevent_changelist"), LIST_MS_MAX),
        "policies": (reverse("admin:policies_policy_changelist"), OVERVIEW_MS_MAX),
        "audit log": (reverse("admin:audit_entry_changelist"), LIST_MS_MAX),
        "limits": (reverse("admin:limits"), LIST_MS_MAX),
        "limits that run out first": (f"{reverse('admin:limits')}?order=runs-out&state=near", LIST_MS_MAX),
        "overview": (reverse("admin:index"), OVERVIEW_MS_MAX),
    }
    return [_page(client, name, url, target) for name, (url, target) in pages.items()]


def _page(client: Client, name: str, url: str, target: int) -> Result:
    took_ms = []
    for _ in range(TIMES):
        started = time.perf_counter()
        with CaptureQueriesContext(connection) as captured:
            answer = client.get(url)
        took_ms.append(1000 * (time.perf_counter() - started))
        assert answer.status_code == 200, (url, answer.status_code)
    median = statistics.median(took_ms)
    print(f"{name}: {median:.0f} ms", flush=True)
    return Result(
        f"console, {name}",
        f"{median:.0f} ms, {len(captured)} queries",
        f"< {target} ms",
        median < target,
    )


def _signed_in(at: scene.Scene) -> Client:
    user = User.objects.create_user("bench", is_staff=True)
    Membership.objects.create(tenant=at.environment.tenant, user=user, role=Role.ADMIN)
    client = Client(SERVER_NAME="localhost")
    client.force_login(user)
    client.get(reverse("admin:index"), {"environment": str(at.environment)})
    return client


def _fill(at: scene.Scene, busy: ApiKey, rare: ApiKey) -> None:
    environment = at.environment
    scene.fill_ledger(environment, LEDGER_ROWS)
    roll(environment.pk)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO policies_enduser (environment_id, user_id, blocked, created_at)
            SELECT %s, 'user_' || n, n %% 100 = 0, now() FROM generate_series(1, %s) AS n
            """,
            [environment.pk, END_USERS],
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
        cursor.execute("ANALYZE policies_enduser, blocked_decision, usage_event")
