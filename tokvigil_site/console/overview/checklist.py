"""What a new environment needs until calls are governed: each step is done by what was seen, not by a click."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import reverse

from policies.models import BlockedDecision, Policy
from tenants.models import ApiKey, Environment
from usage.models import ModelPrice, UsageEvent

EVALUATE = """curl {base}/v1/evaluate -H "Authorization: Bearer $TOKVIGIL_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{{"user_id": "ana", "model": "gpt-4o-mini", "input_tokens": 374, "max_output_tokens": 200}}'"""
WRAP = """from openai import OpenAI
from tokvigil import TokVigil

tv = TokVigil()  # TOKVIGIL_API_KEY and TOKVIGIL_BASE_URL={base}
client = tv.wrap(OpenAI(), user_id="ana", feature="chat")"""
POLICY = """version: 1
policies:
  - name: Everyone
    limits:
      - {metric: requests, window: day, amount: 3, per: user}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`does` leads to `url`, where it is done; None: it is done elsewhere, as the snippet shows."""

    title: str
    text: str
    done: bool
    does: str = ""
    url: str | None = None
    snippet: str | None = None


def steps(environment: Environment, base: str) -> tuple[Step, ...]:
    """`base` is the address under which the person found TokVigil."""
    calls = UsageEvent.objects.filter(environment=environment).exists()
    return (
        Step(
            title="Issue an API key",
            text=f"Your application asks with it. It is of {environment.slug} alone, and is shown once.",
            done=ApiKey.objects.filter(environment=environment, revoked_at=None).exists(),
            does="Issue a key",
            url=reverse("admin:tenants_apikey_add"),
        ),
        Step(
            title="Have prices",
            text="Limits in USD need the price of each model. The command brings those of all large providers.",
            done=ModelPrice.objects.filter(active=True).exists(),
            does="Prices",
            url=reverse("admin:usage_modelprice_changelist"),
            snippet="python manage.py load_prices",
        ),
        Step(
            title="Publish a policy",
            text="For a start, one for everybody with few calls a day, so that you see a block soon.",
            done=Policy.objects.in_force(environment.pk).exists(),
            does="Make a policy",
            url=reverse("admin:policies_policy_add"),
            snippet=POLICY,
        ),
        Step(
            title="Make the first call",
            text="Wrap the client that you have; every call is then asked for and reported.",
            done=calls,
            snippet=WRAP.format(base=base),
        ),
        Step(
            title="See the first block",
            text="Ask until the limit is reached. The page of the call then says why, and what would have let it pass.",
            done=BlockedDecision.objects.filter(environment=environment).exists(),
            does="Blocked calls",
            url=reverse("admin:policies_blockeddecision_changelist"),
            snippet=EVALUATE.format(base=base),
        ),
    )


def is_new(environment: Environment) -> bool:
    """Nobody has called yet."""
    return not (
        UsageEvent.objects.filter(environment=environment).exists()
        or BlockedDecision.objects.filter(environment=environment).exists()
    )
