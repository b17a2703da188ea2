"""What must never break (DESIGN.md section 10), whatever happens in whatever order, on real Valkey and PostgreSQL.

Hypothesis calls the API, moves the clock, changes policies and loses the store; beside it a model in plain Python
counts holds and ledger rows by itself and says what each answer must be. TOKVIGIL_INVARIANT_EXAMPLES asks for more.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from policies.deciding import evaluation
from policies.end_users import remove_end_user, set_end_user
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Answer, Api, apply_policies, at_once, ledger, limits, set_price
from usage.amounts import Amounts, Models, Pair, Per, Subjects, digest
from usage.counting import inspection, reserve, rules
from usage.counting.keys import environment_prefix, reservation_key
from usage.counting.reservations import open_count
from usage.counting.store import store
from usage.counting.tracked import TrackedPairs
from usage.ledger.models import UsageEvent
from usage.metrics import LETTERS, Metric
from usage.money import NANO
from usage.prices.book import PriceBook
from usage.prices.model_groups import ModelGroups
from usage.settling import expiry, recount
from usage.windows import Span, Window, span

EXAMPLES = int(os.environ.get("TOKVIGIL_INVARIANT_EXAMPLES", "20"))
STEPS = 30
ZONE = ZoneInfo("Europe/Berlin")
GROUPS = ModelGroups(lambda: PriceBook.build(()))
HOLD_MS = 600_000
# This process reckons the counter store's clock; the store reads it.
CLOCKS_APART_MS = 100
# More would not all be swept by one evaluate.
OPEN_MAX = 10
PATIENCE_S = 10
SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
NANO_PER_INPUT_TOKEN, NANO_PER_OUTPUT_TOKEN = NANO // 1000, NANO // 500

# The last: names of the models that it counts, or a beginning and `*`; none: all.
Limit = tuple[Metric, Window, Per, int, Models]


@dataclass
class Policy:
    name: str
    limits: list[Limit]
    plan: str = ""
    guardrail: bool = False
    charge: bool = False

    def text(self) -> str:
        listed = ", ".join(
            f"{{metric: {metric}, window: {window}, per: {per}, amount: {shown(metric, amount)}"
            f"{f', models: {list(models)}' if models else ''}}}"
            for metric, window, per, amount, models in self.limits
        )
        scope = f"{{plan: {self.plan}}}" if self.plan else "{}"
        kind = "guardrail" if self.guardrail else "override"
        unsettled = "charge" if self.charge else "release"
        return (
            f"  - {{name: {self.name}, scope: {scope}, kind: {kind}, unknown_price: allow, "
            f"on_unsettled: {unsettled}, limits: [{listed}]}}\n"
        )


def shown(metric: Metric, amount: int) -> str:
    return f'"{Decimal(amount) / NANO:f}"' if metric is Metric.COST_USD else str(amount)


def default_policies() -> list[Policy]:
    return [
        Policy(
            "Default",
            [
                (Metric.REQUESTS, Window.MINUTE, Per.USER, 4, ()),
                (Metric.TOKENS, Window.DAY, Per.USER, 150, ()),
                (Metric.TOKENS, Window.DAY, Per.USER, 60, ("unpriced",)),
            ],
        ),
        Policy(
            "Pro",
            [
                (Metric.REQUESTS, Window.MINUTE, Per.USER, 6, ()),
                (Metric.TOKENS, Window.DAY, Per.USER, 300, ()),
            ],
            plan="pro",
            charge=True,
        ),
        Policy(
            "Guard",
            [
                (Metric.REQUESTS, Window.HOUR, Per.ENVIRONMENT, 12, ()),
                (Metric.COST_USD, Window.MONTH, Per.ENVIRONMENT, NANO, ()),
                (Metric.OUTPUT_TOKENS, Window.DAY, Per.FEATURE, 200, ()),
                (Metric.CONCURRENCY, Window.TOTAL, Per.USER, 5, ()),
                (Metric.REQUESTS, Window.HOUR, Per.ENVIRONMENT, 9, ("test-*",)),
                (Metric.CONCURRENCY, Window.TOTAL, Per.USER, 4, ("test-*", "other")),
            ],
            guardrail=True,
        ),
    ]


@dataclass
class Hold:
    """What the model knows of a call: as asked, and what its hold stands in."""

    body: dict[str, Any]
    subjects: Subjects
    amounts: Amounts
    # Decided between the two, however long the machine took.
    at_ms: int
    answered_ms: int
    deadline_ms: int
    pairs: frozenset[Pair]
    in_flight_of: frozenset[tuple[Per, Models]]
    charge: bool
    # open, settled, released, expired; lost: the store was flushed while it was open.
    state: str = "open"
    # The report as sent first.
    report: dict[str, Any] | None = None
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        return str(self.body["request_id"])

    def decided_at(self, at_ms: int) -> bool:
        return self.at_ms - CLOCKS_APART_MS <= at_ms <= self.answered_ms + CLOCKS_APART_MS


@dataclass(frozen=True)
class Row:
    """What the model knows of the ledger: the charge that stands for a request."""

    subjects: Subjects
    at_ms: int
    amounts: Amounts
    model: str
    estimate: bool = False


def charged_at_ms(row: UsageEvent) -> int:
    return int(row.charged_at.timestamp() * 1000)


def cost(model: str, input_tokens: int, output_tokens: int) -> int:
    if model != "test-model":
        return 0
    return input_tokens * NANO_PER_INPUT_TOKEN + output_tokens * NANO_PER_OUTPUT_TOKEN


def counts(models: Models, model: str) -> bool:
    return not models or any(
        model.startswith(each[:-1]) if each.endswith("*") else model == each for each in models
    )


def span_at(window: Window, at_ms: int) -> Span:
    return span(window, at_ms, ZONE)


def add(total: Amounts, more: Amounts) -> Amounts:
    return Amounts(
        total.requests + more.requests,
        total.input_tokens + more.input_tokens,
        total.output_tokens + more.output_tokens,
        total.cost_nano + more.cost_nano,
    )


def dump(environment: Environment) -> dict[str, Any]:
    """All that the store holds of an environment, but for what it copies from PostgreSQL.

    Nor which evaluate made a hold: another that is answered with it shares it from then on, and changes no amount.
    """
    prefix = environment_prefix(environment.pk)
    client, found = store.client, {}
    for key in client.scan_iter(match=f"{prefix}*", count=1000):
        name = key.decode().removeprefix(prefix)
        if name == "env" or name.startswith("eu:"):
            continue
        kind = client.type(key)
        if kind == b"hash":
            found[name] = client.hgetall(key)
            found[name].pop(b"by", None)
        elif kind == b"zset":
            found[name] = client.zrange(key, 0, -1, withscores=True)
        elif kind == b"stream":
            found[name] = client.xlen(key)
        else:
            found[name] = client.get(key)
    return found


_numbers = itertools.count()
names = st.sampled_from
tokens = st.integers(0, 30)
which = st.integers(0, 99)
STATUSES = ["succeeded", "succeeded", "partial", "failed", "cancelled"]
MODELS = ["test-model", "unpriced", "other"]
# Evaluates and reports in one step of traffic.
TRAFFIC = 6


class Accounts(RuleBasedStateMachine):
    """The rules are what applications, staff and accidents do."""

    @initialize(calm=st.booleans(), seed=st.integers(0, 2**32))
    def begin(self, calm: bool, seed: int) -> None:
        """A calm run does nothing that could carry use over a limit, so that I1 can be read off the counters."""
        number = next(_numbers)
        self.calm = calm
        evaluation.forget_all()
        store.clock_offset_ms = 0
        tenant = Tenant.create_with_environments(f"acme-{number}", timezone=ZONE.key)
        self.environment = tenant.environments.get(slug="prod")
        self.api = Api(self.environment)
        rival = Tenant.create_with_environments(f"rival-{number}").environments.get(slug="prod")
        self.rival = Api(rival)
        apply_policies(rival, limits("{metric: requests, window: total, amount: 3, per: user}"))
        self.rival_calls = 0
        self.holds: list[Hold] = []
        self.rows: dict[str, Row] = {}
        self.plans: dict[str, str] = {}
        self.policies = default_policies()
        self.publish()
        self.call_rival()
        self.traffic(seed)

    # What the model says.

    def now_ms(self) -> int:
        """Never so close to the end of a minute or of a hold that a slow test could pass it on the way."""
        while True:
            now = store.now_ms()
            into_minute = now % MINUTE_MS
            if into_minute > 40 * SECOND_MS:
                store.clock_offset_ms += MINUTE_MS - into_minute + SECOND_MS
            elif any(abs(hold.deadline_ms - now) < 2 * SECOND_MS for hold in self.open()):
                store.clock_offset_ms += 5 * SECOND_MS
            else:
                return now

    def open(self) -> list[Hold]:
        return [hold for hold in self.holds if hold.state == "open"]

    def tracked(self) -> frozenset[Pair]:
        return frozenset(
            Pair(per, window, models)
            for policy in self.policies
            for metric, window, per, _, models in policy.limits
            if metric is not Metric.CONCURRENCY
        )

    def in_force(self, plan: str) -> list[Policy]:
        override = next(
            (policy for policy in self.policies if policy.plan and policy.plan == plan), self.policies[0]
        )
        return [override, *(policy for policy in self.policies if policy.guardrail)]

    def used(self, pair: Pair, subject: str | None, at_ms: int) -> Amounts:
        window, total = span_at(pair.window, at_ms), Amounts()
        for row in self.rows.values():
            inside = window.start <= row.at_ms and (window.end is None or row.at_ms < window.end)
            if inside and row.subjects.name(pair.per) == subject and counts(pair.models, row.model):
                total = add(total, row.amounts)
        return total

    def held(self, pair: Pair, subject: str | None, at_ms: int) -> Amounts:
        total = Amounts()
        for hold in self.open():
            same = hold.subjects.name(pair.per) == subject and counts(pair.models, hold.body["model"])
            if (
                pair in hold.pairs
                and same
                and span_at(pair.window, hold.at_ms) == span_at(pair.window, at_ms)
            ):
                total = add(total, hold.amounts)
        return total

    def expected(
        self, subjects: Subjects, model: str, amounts: Amounts, now: int
    ) -> tuple[bool, list[tuple[int, int]]]:
        """Whether the call fits, and how each of its limits stands before it."""
        fits, readings = True, []
        for policy in self.in_force(subjects.plan):
            for metric, window, per, amount, models in policy.limits:
                subject = subjects.name(per)
                if subject is None or not counts(models, model):
                    continue
                if metric is Metric.CONCURRENCY:
                    used, held = (
                        0,
                        sum(
                            (per, models) in hold.in_flight_of
                            and counts(models, hold.body["model"])
                            and hold.subjects.name(per) == subject
                            and hold.deadline_ms > now
                            for hold in self.open()
                        ),
                    )
                else:
                    pair = Pair(per, window, models)
                    used, held = (
                        self.used(pair, subject, now).of(metric),
                        self.held(pair, subject, now).of(metric),
                    )
                needed = amounts.of(metric)
                fits = fits and not (amount == 0 or (needed > 0 and used + held + needed > amount))
                readings.append((used, held))
        return fits, readings

    def sweep(self, now: int) -> int:
        swept = [hold for hold in self.open() if not hold.charge and hold.deadline_ms <= now]
        for hold in swept:
            hold.state = "expired"
        return len(swept)

    # What applications do.

    @rule(seed=st.integers(0, 2**32))
    def traffic(self, seed: int) -> None:
        """What an application does all day, so that the other rules have something to disturb."""
        drawn = random.Random(seed)
        for _ in range(TRAFFIC):
            if drawn.random() < 0.6:
                self.evaluate(
                    user=drawn.choice(["ann", "ann", "bob"]),
                    feature=drawn.choice([None, "chat"]),
                    plan=drawn.choice([None, "free", "pro"]),
                    run_id=drawn.choice([None, "run"]),
                    model=drawn.choice(["test-model", "test-model", *MODELS]),
                    input_tokens=drawn.randint(0, 30),
                    output_tokens=drawn.randint(0, 30),
                )
            else:
                self.report(
                    which=drawn.randrange(100),
                    status=drawn.choice(STATUSES),
                    share=drawn.choice([0, 50, 100, 100]),
                )

    @rule(
        user=names(["ann", "bob"]),
        feature=names([None, "chat"]),
        plan=names([None, "free", "pro"]),
        run_id=names([None, "run"]),
        model=names(MODELS),
        input_tokens=tokens,
        output_tokens=tokens,
    )
    def call(self, **asked: Any) -> None:
        self.evaluate(**asked)

    def evaluate(
        self,
        user: str,
        feature: str | None,
        plan: str | None,
        run_id: str | None,
        model: str,
        input_tokens: int,
        output_tokens: int,
    ) -> None:
        if len(self.open()) >= OPEN_MAX:
            return
        now = self.now_ms()
        body: dict[str, Any] = {
            "user": user,
            "feature": feature,
            "plan": plan,
            "run_id": run_id,
            "model": model,
            "input_tokens": input_tokens,
            "max_output_tokens": output_tokens,
            "request_id": f"r-{len(self.holds)}-{next(_numbers)}",
        }
        subjects = Subjects(
            user_id=user, feature=feature or "", plan=self.plans.get(user) or plan or "", run_id=run_id or ""
        )
        amounts = Amounts(1, input_tokens, output_tokens, cost(model, input_tokens, output_tokens))
        self.sweep(now)
        fits, readings = self.expected(subjects, model, amounts, now)

        answer = self.api.evaluate(**body)

        assert answer["allowed"] is fits, (answer, readings)
        told = [(as_integer(state["used"]), as_integer(state["held"])) for state in answer["limit_state"]]
        mine = iter(answer["limit_state"])
        before = [
            (used, held + (amounts.of(Metric(next(mine)["metric"])) if fits else 0))
            for used, held in readings
        ]
        assert told == before
        if fits:
            concurrency = {
                (per, models)
                for policy in self.policies
                for metric, _, per, _, models in policy.limits
                if metric is Metric.CONCURRENCY
            }
            hold = Hold(
                body=body,
                subjects=subjects,
                amounts=amounts,
                at_ms=now,
                answered_ms=store.now_ms(),
                deadline_ms=now + HOLD_MS,
                pairs=self.tracked(),
                in_flight_of=frozenset(concurrency),
                charge=any(policy.charge for policy in self.in_force(subjects.plan)),
                answer=answer,
            )
            self.holds.append(hold)

    @precondition(lambda self: self.holds)
    @rule(which=which)
    def evaluate_again(self, which: int) -> None:
        """I5: an open one is answered the same; a reported one is refused; nothing changes."""
        now = self.now_ms()
        hold = self.holds[which % len(self.holds)]
        past = hold.deadline_ms <= now
        if hold.state == "open" and not past:
            with self.nothing_changes():
                assert self.api.evaluate(**hold.body) | {"expires_at": 0} == hold.answer | {"expires_at": 0}
            with self.nothing_changes():
                other = hold.body | {"input_tokens": hold.body["input_tokens"] + 1}
                assert self.post_evaluate(other).status == 409
        elif (hold.state == "settled" and hold.request_id in self.remembered()) or (
            hold.state == "open" and hold.charge
        ):
            with self.nothing_changes():
                assert self.post_evaluate(hold.body).status == 409

    def remembered(self) -> set[str]:
        """The requests that the store knows."""
        return {
            hold.request_id
            for hold in self.holds
            if store.client.exists(reservation_key(self.environment.pk, hold.request_id))
        }

    def post_evaluate(self, body: dict[str, Any]) -> Answer:
        sent = {name: value for name, value in body.items() if value is not None}
        return self.api.post("/v1/evaluate", {"user_id": sent.pop("user"), **sent})

    @rule(which=which, status=names(STATUSES), share=names([0, 50, 100]), answered=names([None, *MODELS]))
    def report_one(self, which: int, status: str, share: int, answered: str | None) -> None:
        # What another model takes was not held against its limits.
        self.report(which, status, share, None if self.calm else answered)

    def report(self, which: int, status: str, share: int, answered: str | None = None) -> None:
        """Of any call that was not reported: in flight, expired, charged by estimate, released or forgotten."""
        unreported = [
            hold
            for hold in self.holds
            if hold.report is None
            # In a calm run only what was held for: what comes unheld may carry use over a limit.
            and (hold.state == "open" or hold.request_id in self.rows or not self.calm)
        ]
        if not unreported:
            return
        self.now_ms()
        hold = unreported[which % len(unreported)]
        used_input = hold.amounts.input_tokens * share // 100
        used_output = hold.amounts.output_tokens * share // 100
        hold.report = {
            name: hold.body[name]
            for name in ("model", "feature", "plan", "run_id")
            if hold.body[name] is not None
        }
        model = hold.report["model"] = answered or hold.body["model"]
        hold.report |= {"input_tokens": used_input, "output_tokens": used_output, "status": status}
        estimate = self.rows.get(hold.request_id)
        # What was evaluated is remembered of a hold that expired; else the plan is the one that is stored by now.
        evaluated = hold.state == "expired" and hold.request_id in self.remembered()
        stored_plan = self.plans.get(hold.body["user"])

        sent_ms = time.time() * 1000
        answer = self.send(hold)

        assert answer.status == 201, answer
        is_call = not (used_input == used_output == 0 and status in ("failed", "cancelled"))
        amounts = Amounts(int(is_call), used_input, used_output, cost(model, used_input, used_output))
        rows = ledger(self.environment, request_id=hold.request_id)
        assert [row.status for row in rows].count(status) == 1
        written = next(row for row in rows if row.status == status)
        at_ms = charged_at_ms(written)
        if estimate is not None:
            assert at_ms == estimate.at_ms
            subjects = estimate.subjects
        elif hold.state == "open":
            assert hold.decided_at(at_ms)
            subjects = hold.subjects
        else:
            assert sent_ms - CLOCKS_APART_MS <= at_ms <= time.time() * 1000 + CLOCKS_APART_MS
            said = Subjects(
                user_id=hold.body["user"],
                feature=hold.body["feature"] or "",
                plan=stored_plan or hold.body["plan"] or "",
                run_id=hold.body["run_id"] or "",
            )
            subjects = hold.subjects if evaluated else said
        assert written.amounts == amounts
        assert (written.user_id, written.feature, written.plan, written.run_id) == (
            subjects.user_id,
            subjects.feature,
            subjects.plan,
            subjects.run_id,
        )
        self.rows[hold.request_id] = Row(subjects, at_ms, amounts, model)
        hold.state = "settled"

    def send(self, hold: Hold, **change: Any) -> Answer:
        assert hold.report is not None
        return self.api.report(hold.request_id, hold.body["user"], **(hold.report | change))

    @rule(
        user=names(["ann", "bob"]),
        plan=names(["free", "pro"]),
        share=names([0, 50, 100]),
        worked=st.booleans(),
    )
    def report_late(self, user: str, plan: str, share: int, worked: bool) -> None:
        """After the hold expired; the worker has released or charged it by then, or not."""
        self.evaluate(
            user=user,
            feature="chat",
            plan=plan,
            run_id=None,
            model="test-model",
            input_tokens=9,
            output_tokens=9,
        )
        store.clock_offset_ms += HOLD_MS + 5 * SECOND_MS
        if worked:
            self.work()
        self.report(-1, "succeeded", share)

    @precondition(lambda self: any(hold.report for hold in self.holds))
    @rule(which=which)
    def report_again(self, which: int) -> None:
        """I5: the same report is a duplicate, another a conflict; neither changes anything."""
        reported = [hold for hold in self.holds if hold.report]
        hold = reported[which % len(reported)]
        assert hold.report is not None
        # A store that was flushed has forgotten the request, and then learns of it again.
        if hold.request_id in self.remembered():
            with self.nothing_changes():
                assert self.send(hold).status == 200
            with self.nothing_changes():
                assert self.send(hold, output_tokens=hold.report["output_tokens"] + 1).status == 409
        else:
            assert self.send(hold).status == 200

    @precondition(lambda self: self.holds)
    @rule(which=which)
    def release(self, which: int) -> None:
        now = self.now_ms()
        hold = self.holds[which % len(self.holds)]
        if hold.state == "settled" and hold.request_id not in self.remembered():
            return
        # Expired and to be charged: it is as good as charged.
        is_due = hold.state == "open" and hold.charge and hold.deadline_ms <= now
        path = f"/v1/reservations/{hold.request_id}"

        status = self.api.request("DELETE", path).status

        wanted = {"open": 204, "released": 204, "expired": 204, "settled": 409, "lost": 404}
        if hold.request_id in self.remembered():
            assert status == (409 if is_due else wanted[hold.state])
        else:
            assert status == 404
        if hold.state == "open" and not is_due:
            hold.state = "released"
        with self.nothing_changes():
            assert self.api.request("DELETE", path).status == status

    @precondition(lambda self: self.holds)
    @rule(which=which, seconds=names([1, 900, 7200]))
    def extend(self, which: int, seconds: int) -> None:
        now = self.now_ms()
        hold = self.holds[which % len(self.holds)]

        answer = self.api.post(f"/v1/reservations/{hold.request_id}/extend", {"seconds": seconds})

        if hold.state == "open" and hold.deadline_ms > now:
            assert answer.status == 200
            hold.deadline_ms = max(hold.deadline_ms, now + seconds * SECOND_MS)
        else:
            assert answer.status == 404

    # What time and staff do.

    @rule(seconds=names([21, 61, 301, 660, 3601, 86_400]))
    def pass_time(self, seconds: int) -> None:
        store.clock_offset_ms += seconds * SECOND_MS
        self.now_ms()

    @rule()
    def settle_expired(self) -> None:
        self.work()

    def work(self) -> None:
        """As the worker does every few seconds."""
        now = self.now_ms()
        due = [hold for hold in self.open() if hold.charge and hold.deadline_ms <= now]
        freed = self.sweep(now)

        assert expiry.settle_expired(self.environment) == (freed, len(due))

        for hold in due:
            hold.state = "settled"
            (row,) = ledger(self.environment, request_id=hold.request_id)
            assert (row.status, row.amounts) == ("unsettled", hold.amounts)
            assert hold.decided_at(charged_at_ms(row))
            self.rows[hold.request_id] = Row(
                hold.subjects, charged_at_ms(row), hold.amounts, hold.body["model"], estimate=True
            )
        with self.nothing_changes():
            assert expiry.settle_expired(self.environment) == (0, 0)

    @rule()
    def rebuild_counters(self) -> None:
        self.now_ms()
        recount.rebuild(self.environment)

    @precondition(lambda self: not self.calm)
    @rule(user=names(["ann", "bob"]), plan=names(["free", "pro", None]))
    def set_plan(self, user: str, plan: str | None) -> None:
        if plan is None:
            remove_end_user(self.environment, user, actor="test")
            self.plans.pop(user, None)
        else:
            set_end_user(self.environment, user, plan_name=plan, blocked=False, actor="test")
            self.plans[user] = plan

    @precondition(lambda self: not self.calm)
    @rule(
        policy=st.integers(0, 2),
        limit=st.integers(0, 5),
        change=names(["raise", "lower", "none", "charge", "add", "drop"]),
        per=names(list(Per)),
        window=names(list(Window)),
        models=names([(), ("unpriced",), ("test-*",)]),
    )
    def change_policies(
        self, policy: int, limit: int, change: str, per: Per, window: Window, models: Models
    ) -> None:
        changed = self.policies[policy]
        place = limit % max(1, len(changed.limits))
        if change == "charge":
            changed.charge = not changed.charge
        elif change == "add":
            kind = (Metric.TOKENS, window, per)
            if not any((*each[:3], each[4]) == (*kind, models) for each in changed.limits):
                changed.limits.append((*kind, 120, models))
        elif changed.limits and change == "drop":
            del changed.limits[place]
        elif changed.limits:
            metric, window, per, amount, models = changed.limits[place]
            amount = {"raise": amount * 2, "lower": amount // 2, "none": 0}[change]
            changed.limits[place] = (metric, window, per, amount, models)
        self.publish()

    def publish(self) -> None:
        text = "plans: [free, pro]\npolicies:\n" + "".join(policy.text() for policy in self.policies)
        apply_policies(self.environment, text)

    # Accidents.

    @precondition(lambda self: not self.calm)
    @rule()
    def lose_the_store(self) -> None:
        store.client.flushdb()
        for hold in self.open():
            hold.state = "lost"
        self.rival_dump = dump(self.rival.environment)

    @rule()
    def call_rival(self) -> None:
        """I8: another tenant's call, of the same user and with the same ids, moves nothing here."""
        before = dump(self.environment) if self.holds else None
        request_id = (
            self.holds[0].request_id if self.holds and self.rival_calls == 0 else f"own-{self.rival_calls}"
        )
        answer = self.rival.evaluate("ann", request_id=request_id)
        if answer["allowed"]:
            self.rival_calls += self.rival.report(request_id, "ann").status == 201
        assert before is None or dump(self.environment) == before
        self.rival_dump = dump(self.rival.environment)
        assert self.rival_calls <= 3

    def nothing_changes(self) -> Unchanged:
        return Unchanged(self.environment)

    # What must hold after each step.

    @invariant()
    def i1_used_and_held_stay_within_every_limit(self) -> None:
        if not self.calm:
            return
        tracked, stored = TrackedPairs(self.environment.pk, ZONE, self.tracked(), GROUPS), self.stored()
        for slot in tracked.at(store.now_ms()).slots:
            for key, fields in stored.items():
                if not key.startswith(slot.key_prefix):
                    continue
                total = add(stored_amounts(fields, "u"), stored_amounts(fields, "h"))
                for metric, amount in self.bounds(slot.pair).items():
                    assert total.of(metric) <= amount, (key, metric)

    def bounds(self, pair: Pair) -> dict[Metric, int]:
        """The largest amount that a policy in force gives; each call met one of them."""
        found: dict[Metric, int] = {}
        for policy in self.policies:
            for metric, window, per, amount, models in policy.limits:
                if metric is not Metric.CONCURRENCY and Pair(per, window, models) == pair:
                    found[metric] = max(amount, found.get(metric, 0))
        return found

    @invariant()
    def i2_each_hold_is_in_the_state_it_ended_in(self) -> None:
        for hold in self.holds:
            found = store.client.hget(reservation_key(self.environment.pk, hold.request_id), "st")
            if found is None:
                assert hold.state in ("lost", "settled", "released", "expired")
            else:
                assert found.decode() == hold.state

    @invariant()
    def i3_what_is_held_is_what_open_holds_hold(self) -> None:
        wanted: dict[str, Amounts] = {}
        tracked = TrackedPairs(self.environment.pk, ZONE, frozenset(), GROUPS)
        for hold in self.open():
            for pair in hold.pairs:
                subject = hold.subjects.name(pair.per)
                if subject is not None and counts(pair.models, hold.body["model"]):
                    slot = tracked.slot(pair, span_at(pair.window, hold.at_ms))
                    key = slot.key_prefix + digest(subject)
                    wanted[key] = add(wanted.get(key, Amounts()), hold.amounts)
        for key, fields in self.stored().items():
            assert stored_amounts(fields, "h") == wanted.pop(key, Amounts()), key
        assert not wanted
        assert open_count(self.environment.pk) == len(self.open())

    @invariant()
    def i4_counters_are_the_ledger(self) -> None:
        self.now_ms()
        assert recount.check(self.environment).drifts == ()

    @invariant()
    def i5_each_request_is_in_the_ledger_once(self) -> None:
        rows = ledger(self.environment)
        net = Counter({row.request_id: 0 for row in rows})
        for row in rows:
            net[row.request_id] += 1 if row.status != "reversal" else -1
        assert set(net.values()) <= {1}
        assert net.keys() == self.rows.keys()

    @invariant()
    def i8_the_other_tenant_never_moves(self) -> None:
        assert dump(self.rival.environment) == self.rival_dump
        assert len(ledger(self.rival.environment)) == self.rival_calls

    def stored(self) -> dict[str, dict[bytes, bytes]]:
        return dict(inspection.scan(self.environment.pk))

    def teardown(self) -> None:
        """I3: when all holds have ended, nothing is held."""
        if not hasattr(self, "rival_dump"):
            return
        store.clock_offset_ms += 3 * 3600 * SECOND_MS
        expiry.settle_expired(self.environment)
        for key, fields in self.stored().items():
            assert stored_amounts(fields, "h") == Amounts(), key
        assert open_count(self.environment.pk) == 0
        store.clock_offset_ms = 0


class Unchanged:
    """I5: neither store nor ledger is another afterwards."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def state(self) -> Any:
        return dump(self.environment), [(row.pk, row.xid) for row in ledger(self.environment)]

    def __enter__(self) -> None:
        self.before = self.state()

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            assert self.state() == self.before


def as_integer(value: int | str) -> int:
    return int(Decimal(value) * NANO) if isinstance(value, str) else value


def stored_amounts(fields: dict[bytes, bytes], kind: str) -> Amounts:
    return Amounts(*(int(fields.get(f"{kind}{metric}".encode(), 0)) for metric in LETTERS))


@pytest.fixture
def _patient_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A busy machine is no outage, which is another test's matter."""
    pool = store.client.connection_pool
    monkeypatch.setitem(pool.connection_kwargs, "socket_timeout", PATIENCE_S)
    monkeypatch.setattr(reserve, "ANSWER_AWAITED_MS", PATIENCE_S * 1000)
    pool.reset()
    store._lines._idle.clear()
    yield
    pool.reset()
    store._lines._idle.clear()


@pytest.mark.usefixtures("_patient_store")
def test_the_invariants_hold_whatever_happens(environment: Environment) -> None:
    set_price("test-model", input_usd="1000", output_usd="2000")
    bounded = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize="TOKVIGIL_INVARIANT_EXAMPLES" not in os.environ,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )

    run_state_machine_as_test(Accounts, settings=bounded)


def test_a_change_while_an_environment_is_read_leaves_no_half_of_it(
    api: Api, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is committed between two reads, by another process."""
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    api.use(feature="chat")
    original, changes = rules.read, iter(["{metric: tokens, window: month, amount: 50, per: feature}"])

    def then_change(environment_id: int) -> rules.CountingRules:
        read = original(environment_id)
        for change in changes:
            at_once(1, lambda _: apply_policies(environment, limits(change)))  # noqa: B023
        return read

    evaluation.forget_all()
    monkeypatch.setattr(rules, "read", then_change)

    for used in (1, 2):
        decision = api.evaluate(feature="chat")
        assert [(state["window"], state["used"]) for state in decision["limit_state"]] == [("month", used)]
        api.report(decision["request_id"], feature="chat")
    assert recount.check(environment).drifts == ()
