"""Parts of the demo that press against a limit on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokvigil import Decision, TokVigil, Usage, UsageEvent

from tokvigil_site.demo.parallel import for_each
from tokvigil_site.demo.traffic import drop

MODEL = "gpt-4o-mini"
FEATURE = "load-test"
THREADS = 32
TOKENS = 20

BURST_USER = "burst"
REQUESTS_SENT, REQUESTS_LIMIT = 200, 50
CONCURRENT_USER, CONCURRENT_PLAN = "nina", "free"
CONCURRENT_SENT, CONCURRENT_LIMIT = 24, 3

VIP, VIP_MODEL, VIP_FEATURE = "kavya", "gpt-4o", "research"
VIP_INPUT_TOKENS, VIP_OUTPUT_TOKENS = 20_000, 1_000
VIP_CALLS_MAX = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    sent: int
    limit: int
    allowed: int
    # One of the blocked.
    blocked: Decision | None


def requests(client: TokVigil, step: Callable[[], None]) -> Burst:
    """Far more calls at once than the limit has room for; each allowed one is then reported."""
    allowed, blocked = _evaluate_at_once(client, BURST_USER, None, REQUESTS_SENT, step)

    def report(decision: Decision) -> None:
        client.report_now(
            UsageEvent(
                request_id=decision.request_id,
                user_id=BURST_USER,
                model=MODEL,
                usage=Usage(input_tokens=TOKENS, output_tokens=TOKENS),
            )
        )

    for_each(allowed, report, threads=THREADS)
    return Burst(sent=REQUESTS_SENT, limit=REQUESTS_LIMIT, allowed=len(allowed), blocked=blocked)


def concurrency(client: TokVigil, step: Callable[[], None]) -> Burst:
    """Calls of one free user that all stay in flight; none goes out in the end, so all holds are dropped."""
    allowed, blocked = _evaluate_at_once(client, CONCURRENT_USER, CONCURRENT_PLAN, CONCURRENT_SENT, step)
    for decision in allowed:
        client.release(decision.request_id)
    return Burst(sent=CONCURRENT_SENT, limit=CONCURRENT_LIMIT, allowed=len(allowed), blocked=blocked)


def budget(client: TokVigil) -> tuple[int, Decision | None]:
    """A user without limits of their own calls until stopped: how many calls passed, and what stopped them."""
    for passed in range(VIP_CALLS_MAX):
        decision = client.evaluate(
            user_id=VIP,
            model=VIP_MODEL,
            feature=VIP_FEATURE,
            input_tokens=VIP_INPUT_TOKENS,
            max_output_tokens=VIP_OUTPUT_TOKENS,
        )
        if not decision.allowed:
            return passed, decision
        client.report_now(
            UsageEvent(
                request_id=decision.request_id,
                user_id=VIP,
                model=VIP_MODEL,
                usage=Usage(input_tokens=VIP_INPUT_TOKENS, output_tokens=VIP_OUTPUT_TOKENS),
            )
        )
    return VIP_CALLS_MAX, None


def _evaluate_at_once(
    client: TokVigil, user: str, plan: str | None, count: int, step: Callable[[], None]
) -> tuple[list[Decision], Decision | None]:
    decisions: list[Decision] = []

    def evaluate(_: int) -> None:
        decision = client.evaluate(
            user_id=user,
            model=MODEL,
            plan=plan,
            feature=FEATURE,
            input_tokens=TOKENS,
            max_output_tokens=TOKENS,
        )
        if decision.degraded:
            drop(client, decision)
        decisions.append(decision)
        step()

    for_each(range(count), evaluate, threads=THREADS)
    allowed = [decision for decision in decisions if decision.allowed]
    return allowed, next((decision for decision in decisions if not decision.allowed), None)
