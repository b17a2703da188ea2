"""What the demo shows at its end, and whether what was promised happened."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tokvigil import LimitState, TokVigil

from policies.reasons import WINDOW_CODES, Reason
from tokvigil_site import running
from tokvigil_site.demo import bursts
from tokvigil_site.demo.bursts import VIP, Burst
from tokvigil_site.demo.play import Played
from tokvigil_site.demo.replay import ASSIGNMENT, Outcome
from tokvigil_site.demo.stage import KNOWN_PLANS, Stage
from tokvigil_site.demo.tables import table
from tokvigil_site.demo.trace import Trace
from tokvigil_site.demo.traffic import PROVIDER_KEY, Exchange
from tokvigil_site.running import Site
from usage.amounts import Amounts
from usage.metrics import Metric
from usage.money import format_usd
from usage.settling import recount
from usage.settling.recount import CheckReport
from usage.windows import Window

TIGHTEST_SHOWN = 8
BUDGET_EXCEEDED = WINDOW_CODES[Window.MONTH, Metric.COST_USD]


# (user, plan, feature) of those who press against a limit on purpose.
_PRESSED = (
    (bursts.BURST_USER, "", bursts.FEATURE),
    (bursts.CONCURRENT_USER, bursts.CONCURRENT_PLAN, bursts.FEATURE),
    (bursts.VIP, "", bursts.VIP_FEATURE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    what: str
    found: str
    ok: bool

    def __str__(self) -> str:
        return f"  {'ok    ' if self.ok else 'FAILED'}  {self.what}: {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A limit and where it stands, with whom it counts."""

    subject: str
    state: LimitState
    enforced: bool

    @property
    def share(self) -> Decimal:
        taken = Decimal(self.state.used) + Decimal(self.state.held)
        return taken / Decimal(self.state.limit) if self.state.limit else Decimal(taken > 0)


def read_meters(client: TokVigil, played: Played) -> list[Meter]:
    """Of everyone who called, from GET /v1/limits; the tightest first."""
    callers = {(exchange.conversation.user, exchange.conversation.plan) for exchange in played.exchanges}
    features = {(each.conversation.user, each.conversation.feature) for each in played.exchanges}
    asked = [(user, plan, feature) for user, plan in callers for who, feature in features if who == user]
    found: dict[tuple[str, ...], Meter] = {}
    for user, plan, feature in [*sorted(asked), *_PRESSED]:
        named = plan if plan and user not in KNOWN_PLANS else None
        limits = client.limits(user_id=user, plan=named, feature=feature)
        enforced = {policy["name"] for policy in limits.raw["policies"] if policy["mode"] == "enforce"}
        for state in limits.limit_state:
            subject = _subject(state.per, user, plan, feature)
            key = (state.policy, state.metric, state.window, subject)
            found[key] = Meter(subject=subject, state=state, enforced=state.policy in enforced)
    return sorted(found.values(), key=lambda meter: meter.share, reverse=True)


def _subject(per: str, user: str, plan: str, feature: str) -> str:
    subjects = {"user": user, "user_feature": f"{user}, {feature}", "feature": feature, "plan": plan}
    return subjects.get(per, "everyone")


def checks(stage: Stage, played: Played, meters: Iterable[Meter]) -> list[Check]:
    """What was promised. Compares counters and ledger once all traffic has ended."""
    failures = [exchange for exchange in played.exchanges if exchange.failure or exchange.decision is None]
    first = f"; {failures[0].conversation.id}: {failures[0].failure}" if failures else ""
    enforced = [meter for meter in meters if meter.enforced]
    over = [f"{meter.state.policy} ({meter.subject})" for meter in enforced if meter.share > 1]
    stop = played.vip_stop
    return [
        Check(
            what="every conversation got an answer or a block with a reason",
            found=f"{len(played.exchanges) - len(failures)} of {len(played.exchanges)}{first}",
            ok=not failures,
        ),
        Check(
            what="every answer's usage was reported",
            found=f"{played.unreported} reports missing",
            ok=not played.unreported,
        ),
        _exact("a limit is a limit", played.requests),
        _exact("so is a limit on calls in flight", played.concurrency),
        Check(
            what=f"{VIP}, who has no limit of their own, is stopped by the budget of the environment",
            found=f"after {played.vip_calls} calls by {stop.reason_code if stop else 'nothing'}",
            ok=stop is not None and stop.reason_code == BUDGET_EXCEEDED,
        ),
        Check(
            what="no limit is overshot",
            found=f"{len(enforced)} checked, overshot: {', '.join(over) or 'none'}",
            ok=bool(enforced) and not over,
        ),
        *ledger_checks(recount.check(stage.environment)),
    ]


def ledger_checks(found: CheckReport, *, of: str = "") -> list[Check]:
    return [
        Check(
            what=f"counters agree with the ledger{of}",
            found=f"drift {len(found.drifts)} of {found.complete} counters",
            ok=not found.drifts,
        ),
        Check(
            what=f"nothing stays held{of}",
            found=f"held {found.open_reservations} calls, {format_usd(found.held.cost_nano)} USD",
            ok=found.open_reservations == 0 and found.held == Amounts(),
        ),
    ]


def _exact(what: str, burst: Burst) -> Check:
    return Check(
        what=what,
        found=f"{burst.allowed} of {burst.sent} at once allowed, limit {burst.limit}",
        ok=burst.allowed == burst.limit,
    )


def story(site: Site, stage: Stage, played: Played, meters: Iterable[Meter]) -> Iterator[str]:
    answered = sum(exchange.result is not None for exchange in played.exchanges)
    yield (
        f"\n{len(played.exchanges)} conversations in {played.elapsed_s:.1f} s: {answered} answered, "
        f"{len(played.exchanges) - answered} blocked"
    )
    yield table(("reason", "calls", "example"), list(_reasons(played.exchanges)))
    shadows = list(_shadows(played.exchanges))
    if shadows:
        yield "\nAllowed, but policies on trial (mode: monitor) would have blocked"
        yield table(("reason", "calls", "policy"), shadows)
    yield "\nThen, on purpose"
    yield table(("act", "sent", "allowed", "then"), list(_acts(played)))
    yield f"\nSpend by feature and model (GET /v1/usage/summary), environment {stage.environment}"
    yield table(("feature", "model", "calls", "input", "output", "USD"), list(_spend(site, stage)))
    yield "\nThe tightest limits (GET /v1/limits)"
    yield table(("limit", "of", "used", "held", "limit", "full"), list(_tightest(meters)))


def _reasons(exchanges: Iterable[Exchange]) -> Iterator[tuple[str, int, str]]:
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for exchange in exchanges:
        code = exchange.decision.reason_code if exchange.decision else exchange.failure
        counts[code] += 1
        if exchange.decision and not exchange.decision.allowed:
            examples.setdefault(code, exchange.decision.message)
    for code, count in sorted(counts.items(), key=lambda item: (item[0] != Reason.ALLOWED, item)):
        yield code, count, examples.get(code, "")


def _shadows(exchanges: Iterable[Exchange]) -> Iterator[tuple[str, int, str]]:
    shadows = [exchange.result.decision.shadow for exchange in exchanges if exchange.result]
    blocked = [
        (shadow["reason_code"], shadow["policy"]["name"])
        for shadow in shadows
        if shadow and not shadow["allowed"]
    ]
    for (code, policy), count in sorted(Counter(blocked).items()):
        yield code, count, policy


def _acts(played: Played) -> Iterator[tuple[str, int, int, str]]:
    for act, burst in (
        ("one user, all at once", played.requests),
        ("one user, none reported", played.concurrency),
    ):
        yield act, burst.sent, burst.allowed, burst.blocked.message if burst.blocked else ""
    stop = played.vip_stop
    yield (
        f"{VIP}, no own limit",
        played.vip_calls + (stop is not None),
        played.vip_calls,
        stop.message if stop else "",
    )


def _spend(site: Site, stage: Stage) -> Iterator[tuple[str, str, int, int, int, str]]:
    summary = _get(f"{site.url}/v1/usage/summary?group_by=feature,model", stage.api_key)
    for group in summary["groups"]:
        yield group["feature"] or "(none)", group["model"], *_totals(group)
    yield "all", "", *_totals(summary["total"])


def _totals(group: dict[str, Any]) -> tuple[int, int, int, str]:
    return group["requests"], group["input_tokens"], group["output_tokens"], group["cost_usd"]


def _get(url: str, api_key: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {api_key}"})  # noqa: S310 (our own server)
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
    return found


def _tightest(meters: Iterable[Meter]) -> Iterator[tuple[str, str, str, str, str, str]]:
    for meter in list(meters)[:TIGHTEST_SHOWN]:
        state = meter.state
        what = f"{state.policy}: {state.metric} per {state.per} and {state.window}"
        mark = "" if meter.enforced else " (on trial)"
        yield (
            what + mark,
            meter.subject,
            str(state.used),
            str(state.held),
            str(state.limit),
            f"{100 * meter.share:.0f} %",
        )


def trace_story(trace: Trace, outcome: Outcome, environment: str) -> Iterator[str]:
    yield f"\n{trace.file.name}: {outcome.rows} requests into {environment}"
    yield f"  Source: {trace.format.source} (as the columns say)."
    yield f"  Assigned: {ASSIGNMENT}."
    rows = [
        (reason, count, outcome.messages.get(reason, ""))
        for reason, count in sorted(outcome.reasons.items(), key=lambda item: -item[1])
    ]
    yield table(("reason", "calls", "example"), rows)
    yield (
        f"  {outcome.input_tokens:,} input and {outcome.output_tokens:,} output tokens, "
        f"{format_usd(outcome.cost_nano)} USD"
        + (f", {outcome.unpriced} without a price" if outcome.unpriced else "")
        + (f"; {outcome.cut} answers cut at the cap of their decision" if outcome.cut else "")
    )
    yield (
        f"  {outcome.elapsed_s:.1f} s, {outcome.rows / max(outcome.elapsed_s, 1e-9):.0f} requests/s; "
        f"evaluate {outcome.evaluate_ms(0.5):.1f} ms median, {outcome.evaluate_ms(0.99):.1f} ms p99"
    )


def where_to_look(site: Site, stage: Stage) -> str:
    path, manage = stage.environment, running.manage()
    return f"""
Look around
  Admin      {site.url}/admin/    {site.admin_login}
  API docs   {site.url}/docs/
  Blocked    curl -s {site.url}/v1/decisions -H "Authorization: Bearer {stage.api_key}"
  Rules      {manage} export_policies {path}
  Counters   {manage} check_counters {path}
  Audit      {manage} verify_audit"""


def how_to_call(site: Site, visitor: Stage, provider_url: str) -> str:
    """What the README's quick start needs, to be pasted into a shell."""
    return f"""
Call it yourself, by the same rules, in {visitor.environment}; the AI provider is local,
answers with filler, and ends with this demo
  export TOKVIGIL_BASE_URL={site.url} TOKVIGIL_API_KEY={visitor.api_key}
  export OPENAI_BASE_URL={provider_url} OPENAI_API_KEY={PROVIDER_KEY}
  Then run the quick start of sdk/python/README.md."""
