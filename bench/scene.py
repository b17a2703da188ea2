"""What the bench measures on: tenants, keys, policies, and a ledger of a given size."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection

from policies.changing import publishing
from policies.files import policy_file
from tenants.models import ApiKey, Environment, Tenant
from tenants.scopes import PRESETS
from usage.ledger import synthetic
from usage.ledger.synthetic import Plan
from usage.prices import stored_book
from usage.prices.genai import load_shared_prices

USERS = 200
LEDGER_STEP = 1_000_000

# Three counters a call (user and day, user and month, environment and month), and a guardrail beside the plan's policy.
POLICIES = """
version: 1
plans: [free]
policies:
  - name: Free
    scope: {plan: free}
    limits:
      - {metric: requests, window: day, amount: 1000000000, per: user}
      - {metric: cost_usd, window: month, amount: "1000000", per: user}
  - name: Budget
    kind: guardrail
    limits:
      - {metric: cost_usd, window: month, amount: "9000000", per: environment}
"""

CALL: dict[str, object] = {
    "model": "gpt-4o-mini",
    "feature": "chat",
    "plan": "free",
    "input_tokens": 374,
    "max_output_tokens": 200,
}
# wrk writes the bodies, in Lua.
EVALUATE = f"""'{{"user_id":"user_' .. (n % {USERS}) .. '",{json.dumps(CALL)[1:]}'"""
USED: dict[str, object] = {
    "model": "gpt-4o-mini",
    "feature": "chat",
    "plan": "free",
    "input_tokens": 374,
    "output_tokens": 44,
}
USAGE = f"""'{{"request_id":"' .. SEED .. n .. '","user_id":"user_' .. (n % {USERS}) .. '",{json.dumps(USED)[1:]}'"""


@dataclass(frozen=True, slots=True)
class Scene:
    environment: Environment
    key: str


def make(slug: str, policies: str = POLICIES) -> Scene:
    environment = Tenant.create_with_environments(slug, timezone="Europe/Berlin").environments.get(
        slug="prod"
    )
    publishing.publish(environment, policy_file.parse(policies), actor="bench")
    _, key = ApiKey.issue(environment, "bench", PRESETS["server"])
    return Scene(environment, key)


def prepare() -> None:
    load_shared_prices()


def many_policies(count: int) -> str:
    """The same policies, and `count` more that name one user each."""
    rows = "".join(
        f"  - {{name: VIP {n}, scope: {{user: vip_{n}}}, limits: [{{metric: requests, window: day, amount: 10}}]}}\n"
        for n in range(count)
    )
    return POLICIES + rows


def fill_ledger(environment: Environment, rows: int, *, first: int = 0) -> None:
    """Rows as the ledger writes them, from number `first` on until there are `rows`: of all users and the last day."""
    with connection.cursor() as cursor:
        for step in range(first, rows, LEDGER_STEP):
            cursor.execute(
                """
                INSERT INTO usage_event (environment_id, request_id, charged_at, user_id, feature, plan, run_id, model,
                    provider, status, requests, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens,
                    reasoning_tokens, cost_nano)
                SELECT %s, 'fill_' || n, now() - (n %% 86400) * interval '1 second', 'user_' || (n %% 1000), 'chat',
                    'free', '', 'gpt-4o-mini', 'openai', 'succeeded', 1, 374, 44, 0, 0, 0, 82500
                FROM generate_series(%s::bigint, %s::bigint) AS n
                """,
                [environment.pk, step, min(step + LEDGER_STEP, rows) - 1],
            )
        cursor.execute("ANALYZE usage_event")


def synthesize(environment: Environment, calls: int, *, days: int, users: int, seed: int = 1) -> None:
    """Calls as those of a busy product, over the last days."""
    plan = Plan(
        environment_id=environment.pk, calls=calls, until=datetime.now(UTC), days=days, users=users, seed=seed
    )
    begun = time.monotonic()
    for written in synthetic.write(plan, stored_book.load(environment.tenant_id)):
        print(f"{written} calls, {written / (time.monotonic() - begun):.0f} a second", flush=True)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE usage_event")
