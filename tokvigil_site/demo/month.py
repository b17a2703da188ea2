"""The past of a made-up product, in an environment of its own, so that the pages of analytics have a story to tell.

A feature named agent was launched nine days ago, and last week cost more for it. The free plan is limited, so its
busiest users are blocked each day; a draft halves it. The budget of the month is nearly used up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_UP, Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

from django.db.models import Sum
from tokvigil import TokVigil

from audit.log import acting_as
from policies import budgets
from policies.alert_events import Event
from policies.alerting import rules, watching
from policies.blocked import counts
from policies.blocked.counts import Question
from policies.changing import drafts, publishing
from policies.files import policy_file
from policies.models import AlertRule, Draft, Policy, PolicyReplay, PolicyVersion
from policies.replaying import jobs, made_up_past, named_periods
from policies.replaying.jobs import Candidate
from policies.replaying.made_up_past import Past
from policies.replaying.named_periods import Named
from policies.rules import Kind, LimitRule, Mode, PolicyRule
from policies.standing.standings import rank, standings
from tenants.models import ApiKey, Environment
from tenants.scopes import PRESETS
from tokvigil_site.demo.stage import ACTOR, Stage, beside
from tokvigil_site.demo.summary import Check, ledger_checks
from tokvigil_site.running import Site
from usage.amounts import Amounts, Per, Subjects
from usage.analytics import saved_views
from usage.counting.distrust import distrust
from usage.instants import from_ms, to_ms
from usage.ledger import rollups, subject_sums
from usage.ledger.buckets import Range
from usage.ledger.synthetic import FEATURES, Feature, Plan
from usage.metrics import Metric
from usage.models import UsageEvent
from usage.money import NANO, format_usd, to_nano
from usage.settling import recount
from usage.windows import Span, Window, span

POLICIES = Path(__file__).with_name("month_policies.yaml")
# Twice 30 days and a little, so that 30 days have as many before them to be compared with.
CALLS, USERS, DAYS, SEED = 30_000, 300, 62, 1
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
PUBLISHED_BEFORE = timedelta(days=1)
LAUNCHED_BEFORE = timedelta(days=9)
AGENT = "agent"
FREE, BUDGET = "Free plan", "Monthly budget"
DRAFT = "Half the free plan"
VIEW, VIEW_QUERY = "Cost by feature, week by week", "period=30d&by=feature&step=week"
THRESHOLDS = [50, 80, 100]
# How much of the budget is used: more late in the month, so that it ends before the month does.
USED_MIN, USED_MAX, AHEAD = Decimal("0.78"), Decimal("0.93"), Decimal("0.03")
DOLLAR, CENT, FEW = Decimal(1), Decimal("0.01"), 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """`stage` has its environment; `replay` asks what its draft would have decided."""

    stage: Stage
    past: Past
    replay: PolicyReplay

    @property
    def environment(self) -> Environment:
        return self.stage.environment


def set_up(stage: Stage, now: datetime) -> Month:
    """Raises MadeAlready, DatabaseError, StoreUnavailable."""
    with acting_as(ACTOR):
        environment = beside(stage, "month")
        policies = policy_file.parse(POLICIES.read_text())
        plan = _plan(environment, now)
        publishing.publish(environment, policies, actor=ACTOR, note="The rules of the made-up past")
        _date(environment, plan.first - PUBLISHED_BEFORE)
        key, text = ApiKey.issue(environment, "demo", PRESETS["server"])
        past = made_up_past.write(key, plan)
        rollups.roll(environment.pk)
        with_budget = replace(policies, policies=(*policies.policies, _budget(environment, now)))
        publishing.publish(
            environment, with_budget, actor=ACTOR, note="A budget, from what the month has cost so far"
        )
        budgets.close_over(environment)
        # The counters know nothing of this past yet.
        distrust(environment.pk)
        _watch(environment)
        _save_view(environment)
        asked = _ask(environment, _draft(environment), now)
    return Month(stage=Stage(environment=environment, api_key=text), past=past, replay=asked)


def call(client: TokVigil, month: Month) -> None:
    """A call of each user who is nearest to a limit of their own, and taken back: it has the counters read the past."""
    for standing in standings(month.environment):
        fullest = standing.fullest
        if fullest is None or not fullest.subject.user_id or rank(fullest, standing.limit) >= 1:
            continue
        decision = client.evaluate(
            user_id=fullest.subject.user_id,
            plan=standing.policy.scope_plan,
            feature=FEATURES[0].name,
            model=FEATURES[0].models[0][0],
            input_tokens=1,
            max_output_tokens=1,
        )
        if decision.allowed:
            client.release(decision.request_id)


def _plan(environment: Environment, now: datetime) -> Plan:
    return Plan(
        environment_id=environment.pk,
        calls=CALLS,
        until=now,
        days=DAYS,
        users=USERS,
        seed=SEED,
        features=_features(now),
    )


def _date(environment: Environment, published_at: datetime) -> None:
    """As if its policies had been published before its calls were made: pages look up which were in force then."""
    Policy.objects.filter(environment=environment).update(created_at=published_at)
    PolicyVersion.objects.filter(policy__environment=environment).update(created_at=published_at)


def _features(now: datetime) -> tuple[Feature, ...]:
    """Those of a product as usual, and an agent that came later and reads much."""
    agent = Feature(
        AGENT,
        8,
        (("claude-sonnet-4-5", "anthropic", 100),),
        12_000,
        1_200,
        has_runs=True,
        launched_at=now - LAUNCHED_BEFORE,
    )
    return *(feature for feature in FEATURES if feature.name != AGENT), agent


def _budget(environment: Environment, now: datetime) -> PolicyRule:
    """Tried out only, if the month before would not have kept to it: then the past would not be what it allows."""
    zone = ZoneInfo(environment.tenant.timezone)
    month = span(Window.MONTH, to_ms(now), zone)
    before = span(Window.MONTH, month.start - 1, zone)
    amount = _amount(_spent(environment, month), _passed(month, now))
    kept = to_nano(amount) >= _spent(environment, before)
    limit = LimitRule(
        metric=Metric.COST_USD, window=Window.MONTH, amount=to_nano(amount), per=Per.ENVIRONMENT
    )
    return PolicyRule(
        name=BUDGET, kind=Kind.GUARDRAIL, mode=Mode.ENFORCE if kept else Mode.MONITOR, limits=(limit,)
    )


def _spent(environment: Environment, window: Span) -> int:
    assert window.end is not None
    return _used(environment, from_ms(window.start), from_ms(window.end)).cost_nano


def _passed(window: Span, now: datetime) -> Decimal:
    assert window.end is not None
    return Decimal(to_ms(now) - window.start) / (window.end - window.start)


def _amount(spent_nano: int, passed: Decimal) -> Decimal:
    """Of which the share that is to be used is spent; in whole dollars, unless it is only a few."""
    amount = Decimal(spent_nano) / NANO / min(USED_MAX, max(USED_MIN, passed + AHEAD))
    step = DOLLAR if amount > FEW * DOLLAR else CENT
    return max(CENT, amount.quantize(step, rounding=ROUND_UP))


def _watch(environment: Environment) -> None:
    """No endpoint: what fires stands in the list, and is sent to nobody."""
    budget = Policy.objects.in_force(environment.pk).get(name=BUDGET)
    for rule in (
        AlertRule(name="Budget used", event=Event.LIMIT_THRESHOLD, policy=budget, thresholds=THRESHOLDS),
        AlertRule(name="Budget ends early", event=Event.LIMIT_RUNS_OUT, policy=budget),
    ):
        rule.environment = environment
        rules.add(rule, actor=ACTOR)
    watching.watch(environment)


def _save_view(environment: Environment) -> None:
    """For all of the tenant. An earlier run may have saved it."""
    if not saved_views.seen_by(ACTOR, environment.tenant).filter(name=VIEW).exists():
        saved_views.save(environment.tenant, VIEW, VIEW_QUERY, shared=True, actor=ACTOR)


def _draft(environment: Environment) -> Draft:
    free = drafts.live_of(environment)[FREE]
    halved = replace(free, limits=tuple(replace(limit, amount=limit.amount // 2) for limit in free.limits))
    return drafts.begin(environment, DRAFT, actor=ACTOR, rule=halved, instead_of=FREE)


def _ask(environment: Environment, draft: Draft, now: datetime) -> PolicyReplay:
    """The worker runs it meanwhile."""
    start, end = named_periods.named(Named.LAST_30_DAYS, now, ZoneInfo(environment.tenant.timezone))
    return jobs.ask(environment, Candidate.of_draft(draft), start, end, actor=ACTOR)


def story(month: Month) -> str:
    past = month.past
    return (
        f"\nTwo months of a made-up product in {month.environment}: {past.calls + past.blocked:,} calls in {DAYS} "
        f"days, {past.blocked:,} of them blocked"
    )


def checks(month: Month) -> list[Check]:
    """Once all is written: the sums that pages show are those of the rows, and of the counters."""
    environment = month.environment
    of_rows = UsageEvent.objects.filter(environment=environment)
    of_rollups = _used(environment, LONG_AGO, datetime.now(UTC) + timedelta(days=1))
    calls = of_rows.aggregate(calls=Sum("requests"), cost=Sum("cost_nano"))
    counted = _counted(environment)
    return [
        Check(
            what="sums of the month are those of the ledger",
            found=f"{of_rollups.requests} calls, {format_usd(of_rollups.cost_nano)} USD",
            ok=(of_rollups.requests, of_rollups.cost_nano) == (calls["calls"], calls["cost"]),
        ),
        Check(
            what="its blocked calls are counted once each",
            found=f"{counted} of {month.past.blocked}",
            ok=counted == month.past.blocked > 0,
        ),
        *ledger_checks(recount.check(environment), of=f" in {environment}"),
    ]


def where_to_look(site: Site, month: Month) -> str:
    """The last that is said: a page to begin with, and what the others answer."""
    at, of = f"{site.url}/admin/", f"environment={month.environment}"
    return f"""
Open first: {at}?{of}&period=30d    ({site.admin_login})
  What 30 days of a made-up product cost, who used it, and which limits are near. Then:
  {at}explorer/?{of}&period=7d&by=feature
    What did last week cost, and why more than the week before: its feature {AGENT} was launched nine days ago.
    Which feature is dearest per call?
  When does the budget end?  {at}budgets/?{of}
  Who is blocked most?       {at}blocked/?{of}&period=30d
  Half the free plan?        {at}replays/{month.replay.pk}/
  What was warned of?        {at}policies/alert/?{of}"""


def _used(environment: Environment, start: datetime, end: datetime) -> Amounts:
    return subject_sums.of_subject(environment.pk, Per.ENVIRONMENT, Subjects(user_id=""), start, end)[1]


def _counted(environment: Environment) -> int:
    now = datetime.now(UTC)
    period = Range(now - timedelta(days=DAYS + 1), now)
    return sum(calls for _, calls in counts.most(Question(environment.pk, period), "reason_code", 100))
