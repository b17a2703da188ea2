"""Calls of open months that were priced wrongly, or not at all: re-priced once, by adjustments, right everywhere."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from threading import Event
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections

from audit.models import Entry
from policies import budgets, month_report, repricing
from policies.models import ClosedMonth, HourlySpend
from policies.replaying import past_calls
from tenants import missed
from tenants.models import Environment
from tokvigil_site.testing import (
    Api,
    apply_policies,
    assert_settled,
    at_once,
    later,
    ledger,
    limits,
    set_price,
)
from usage import wording
from usage.amounts import Amounts
from usage.analytics import charged_days, reported_costs
from usage.counting.store import StoreUnavailable, store
from usage.ledger import adjustments, sums
from usage.ledger.models import Status
from usage.ledger.reading import entries
from usage.models import ModelPrice, UsageEvent
from usage.prices import overrides
from usage.settling import adjusting, catching_up, recount
from usage.settling import repricing as engine
from usage.settling.expiry import settle_expired
from usage.tests.rolling import roll_all

pytestmark = pytest.mark.django_db(transaction=True)

BUDGETS = (
    '{metric: cost_usd, window: month, amount: "1000", per: user}',
    '{metric: cost_usd, window: day, amount: "1000", per: feature}',
    '{metric: cost_usd, window: total, amount: "1000", per: environment}',
    "{metric: tokens, window: minute, amount: 1000000, per: environment}",
)
# By the prices that `dear` and `price_new` set: 1,000 in and 100 out.
USED: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 100}
COST = 1_000 * 2_000 + 100 * 10_000


@pytest.fixture
def prod(environment: Environment) -> Environment:
    apply_policies(environment, limits(*BUDGETS))
    return environment


def reprice(environment: Environment, *options: str) -> Any:
    out = StringIO()
    call_command("reprice", str(environment), "--json", *options, stdout=out)
    return json.loads(out.getvalue())


def said(environment: Environment, *options: str) -> str:
    out = StringIO()
    call_command("reprice", str(environment), *options, stdout=out)
    return out.getvalue()


def use(api: Api, request_id: str, user: str = "ann", **fields: Any) -> None:
    """Evaluated and reported."""
    found = api.evaluate(user, request_id=request_id, feature="chat", model=fields.get("model", "new-model"))
    assert found["allowed"]
    assert api.report(request_id, user, **{"model": "new-model", **USED, **fields}).status == 201


def price_new(model: str = "new-model", **fields: Any) -> ModelPrice:
    """After its calls, and in force before them."""
    price = ModelPrice(
        provider="openai", model=model, effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        input_per_million=Decimal(2), output_per_million=Decimal(10), source="test", **fields,
    )  # fmt: skip
    overrides.save(price, actor="test")
    return price


def why(row: UsageEvent) -> adjustments.Why:
    found = adjustments.why_of(row)
    assert found is not None
    return found


def in_sql(environment: Environment) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(cost_nano), 0)::bigint, coalesce(sum(requests), 0)::bigint,"
            " coalesce(sum(input_tokens), 0)::bigint FROM usage_event WHERE environment_id = %s",
            [environment.pk],
        )
        return dict(zip(("cost_nano", "requests", "input_tokens"), cursor.fetchone(), strict=True))


def in_sums(environment: Environment) -> dict[str, int]:
    """Rollups and tail."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = sums.used(environment.pk, [start, datetime.now(UTC) + timedelta(days=2)], ("user_id",))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT sum(cost_nano), sum(requests), sum(input_tokens), sum(unpriced) FROM ({rows.sql}) AS used",  # noqa: S608
            rows.values,
        )
        return {
            name: int(value or 0)
            for name, value in zip(
                ("cost_nano", "requests", "input_tokens", "unpriced"), cursor.fetchone(), strict=True
            )
        }


def assert_equal_everywhere(environment: Environment, *, unpriced: int = 0) -> None:
    """Ledger, sums before and after a roll, and counters."""
    for _ in range(2):
        assert in_sums(environment) == {**in_sql(environment), "unpriced": unpriced}
        roll_all(environment.pk)
    assert_settled(environment)


class TestACallWithoutAPrice:
    def test_it_is_charged_by_an_adjustment_and_counts_as_priced(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        use(api, "r-2", user="ben")
        roll_all(prod.pk)
        assert in_sums(prod) == {"cost_nano": 0, "requests": 2, "input_tokens": 2000, "unpriced": 2}
        price = price_new()

        found = reprice(prod)

        assert (found["calls"], found["changed"], found["unpriced"]) == (2, 2, {})
        assert (
            found["models"][0] | {"model": "new-model", "cost_usd_before": "0.00", "cost_usd": "0.006"}
            == (found["models"][0])
        )
        before, after = ledger(prod, request_id="r-1")
        assert (before.cost_nano, before.status, before.amounts.requests) == (None, "succeeded", 1)
        assert (after.status, after.amounts) == ("adjustment", Amounts(cost_nano=COST))
        assert (after.charged_at, after.user_id, after.feature) == (before.charged_at, "ann", "chat")
        assert after.price_id == price.pk
        assert why(after) == adjustments.Why(
            cost_nano_before=None, cost_nano=COST, unpriced_before=(), price_id_before=None, requests=1,
            by="cli:reprice", run=why(after).run,
        )  # fmt: skip
        assert_equal_everywhere(prod)

    def test_the_counters_have_it_at_once_and_nothing_is_left_to_be_made_good(
        self, api: Api, prod: Environment
    ) -> None:
        use(api, "r-1")
        price_new()
        reprice(prod)
        assert missed.noted(prod.pk) == []
        checked = recount.check(prod)
        assert checked.drifts == ()
        assert checked.cold == 0, "they were charged, not rebuilt"
        state = api.get("/v1/limits?user_id=ann&feature=chat&model=new-model").json
        used = {each["window"]: each["used"] for each in state["limit_state"] if each["metric"] == "cost_usd"}
        assert used == dict.fromkeys(("month", "day", "total"), "0.003")

    def test_a_second_time_changes_nothing(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        price_new()
        reprice(prod)
        rows, entries = ledger(prod), Entry.objects.count()
        assert reprice(prod)["changed"] == 0
        assert ledger(prod) == rows
        assert Entry.objects.count() == entries, "nothing was done, so nothing is said"

    def test_a_dry_run_says_the_same_and_changes_nothing(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        price_new()
        rows, entries = ledger(prod), Entry.objects.count()
        would = reprice(prod, "--dry-run")
        assert ledger(prod) == rows
        assert Entry.objects.count() == entries
        assert reprice(prod) == {**would, "dry_run": False}

    def test_one_entry_says_what_was_done(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        use(api, "r-2")
        price_new()
        entries = Entry.objects.count()
        reprice(prod)
        assert Entry.objects.count() == entries + 1
        entry = Entry.objects.latest("pk")
        assert (entry.action, entry.actor, entry.data["calls"]) == ("usage.repriced", "cli:reprice", 2)
        assert entry.data["difference_usd"] == "0.006"
        assert {why(row).run for row in ledger(prod, status="adjustment")} == {entry.data["run"]}

    def test_what_has_no_price_now_either_is_said_with_why(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        use(api, "r-2", model="nowhere")
        price = price_new()
        price.effective_from = datetime.now(UTC) + timedelta(hours=1)
        overrides.save(price, actor="test")
        text = said(prod)
        assert "new-model: 1 call not or not wholly priced: its first price is in force from" in text
        assert "nowhere: 1 call not or not wholly priced: no price in the book for this name" in text
        assert "2 calls looked at, 0 re-priced" in text
        assert in_sums(prod)["unpriced"] == 2

    def test_only_the_models_that_are_named(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        use(api, "r-2", model="other-model")
        price_new()
        price_new("other-model")
        found = reprice(prod, "--model", "other-model")
        assert (found["calls"], found["changed"]) == (1, 1)
        assert [row.request_id for row in ledger(prod, status="adjustment")] == ["r-2"]


class TestAWrongPrice:
    def test_a_call_that_cost_too_much_gets_a_difference_below_zero(
        self, api: Api, prod: Environment
    ) -> None:
        price = set_price("new-model", input_usd="20", output_usd="100")
        use(api, "r-1")
        price.input_per_million, price.output_per_million = Decimal(2), Decimal(10)
        overrides.save(price, actor="test")
        assert reprice(prod)["difference_usd"] == "-0.027"
        assert [row.cost_nano for row in ledger(prod)] == [10 * COST, -9 * COST]
        assert_equal_everywhere(prod)

    def test_it_can_be_mended_again(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        price = price_new()
        for factor in (3, 2, 5):
            price.input_per_million, price.output_per_million = Decimal(2 * factor), Decimal(10 * factor)
            overrides.save(price, actor="test")
            reprice(prod)
            assert in_sql(prod)["cost_nano"] == factor * COST
        assert_equal_everywhere(prod)

    def test_each_call_is_charged_by_the_price_in_force_when_it_was_made(
        self, api: Api, prod: Environment
    ) -> None:
        now = datetime.now(UTC)
        before = (now - timedelta(minutes=30)).isoformat()
        assert api.report("r-old", "ann", model="new-model", **USED, occurred_at=before).status == 201
        use(api, "r-new")
        price_new()
        dearer = ModelPrice(
            provider="openai", model="new-model", effective_from=now - timedelta(minutes=10),
            input_per_million=Decimal(4), output_per_million=Decimal(20), source="test",
        )  # fmt: skip
        overrides.save(dearer, actor="test")
        reprice(prod, "--from", f"{now - timedelta(days=2):%Y-%m-%d}")
        found = {row.request_id: row.cost_nano for row in ledger(prod, status="adjustment")}
        assert found == {"r-old": COST, "r-new": 2 * COST}

    def test_a_call_whose_price_is_gone_stays_as_it_was_charged(self, api: Api, prod: Environment) -> None:
        price = set_price("new-model", input_usd="2", output_usd="10")
        use(api, "r-1")
        price.active = False
        overrides.save(price, actor="test")
        found = reprice(prod)
        assert (found["changed"], found["left_as_charged"], found["cost_usd"]) == (0, 1, "0.003")
        assert "1 call would have no price or rate now: left as charged" in said(prod)

    def test_a_call_is_priced_as_it_was_served_with_all_that_it_used(
        self, api: Api, prod: Environment
    ) -> None:
        use(api, "r-1", service_tier="priority", quantities={"web_searches": 2})
        price_new(
            other_rates={"web_searches": "10"},
            service_tiers={"priority": {"input_tokens": "4", "output_tokens": "20"}},
        )
        reprice(prod)
        assert in_sql(prod)["cost_nano"] == 2 * COST + 20_000_000
        (adjustment,) = ledger(prod, status="adjustment")
        assert adjustment.service_tier == "priority"

    def test_a_failed_call_that_used_nothing_costs_nothing_and_is_not_unpriced_any_more(
        self, api: Api, prod: Environment
    ) -> None:
        assert (
            api.report(
                "r-1", "ann", model="new-model", input_tokens=0, output_tokens=0, status="failed"
            ).status
            == 201
        )
        price_new()
        assert reprice(prod)["changed"] == 1
        assert_equal_everywhere(prod)


class TestPartlyPriced:
    def test_a_rate_that_is_added_takes_the_mark_off(self, api: Api, prod: Environment) -> None:
        price = set_price("new-model", input_usd="2", output_usd="10")
        use(api, "r-1", quantities={"web_searches": 2})
        assert in_sums(prod)["unpriced"] == 1
        price.other_rates = {"web_searches": "10"}
        overrides.save(price, actor="test")
        reprice(prod)
        assert in_sql(prod)["cost_nano"] == COST + 20_000_000
        assert_equal_everywhere(prod)

    def test_a_call_that_gets_a_price_of_a_part_keeps_the_mark_until_all_has_one(
        self, api: Api, prod: Environment
    ) -> None:
        use(api, "r-1", quantities={"web_searches": 2})
        price = price_new()
        found = reprice(prod)
        assert found["unpriced"] == {"no rate for web searches": 1}
        assert_equal_everywhere(prod, unpriced=1)
        assert reprice(prod)["changed"] == 0
        price.other_rates = {"web_searches": "10"}
        overrides.save(price, actor="test")
        assert reprice(prod)["unpriced"] == {}
        assert_equal_everywhere(prod)

    def test_a_rate_that_is_taken_away_changes_nothing(self, api: Api, prod: Environment) -> None:
        price = set_price("new-model", input_usd="2", output_usd="10")
        price.other_rates = {"web_searches": "10"}
        overrides.save(price, actor="test")
        use(api, "r-1", quantities={"web_searches": 2})
        price.other_rates = {}
        overrides.save(price, actor="test")
        found = reprice(prod)
        assert (found["changed"], found["left_as_charged"]) == (0, 1)


class TestMonths:
    def test_a_closed_month_is_refused_and_the_open_ones_are_named(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        this = datetime.now(UTC).date().replace(day=1)
        closed = (this - timedelta(days=40)).replace(day=1)
        ClosedMonth.objects.create(environment=prod, month=closed)
        with pytest.raises(CommandError, match=f"{closed:%Y-%m} is closed and stays as it is. Open are "):
            reprice(prod, "--month", f"{closed:%Y-%m}")
        with pytest.raises(CommandError, match="is closed"):
            reprice(prod, "--from", f"{closed + timedelta(days=3)}")
        assert reprice(prod, "--month", f"{this:%Y-%m}")["calls"] == 1

    def test_a_month_that_is_closed_meanwhile_ends_it(
        self, api: Api, prod: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(api, "r-1")
        use(api, "r-2")
        price_new()
        monkeypatch.setattr(engine, "BATCH", 1)
        this = datetime.now(UTC).astimezone().date().replace(day=1)
        charged = adjusting.charge

        def close(*args: Any) -> None:
            charged(*args)
            ClosedMonth.objects.create(environment=prod, month=this)

        monkeypatch.setattr(adjusting, "charge", close)
        with pytest.raises(CommandError, match="is closed"):
            reprice(prod)
        assert len(ledger(prod, status="adjustment")) == 1
        assert_settled(prod)

    def test_a_month_ahead_and_days_the_wrong_way_round_are_refused(self, prod: Environment) -> None:
        for options, says in (
            (("--month", "2099-01"), "2099-01-01 lies ahead. Open is"),
            (("--from", "2026-02-02", "--to", "2026-02-01"), "give the first day first"),
            (("--to", "2026-02-01"), "Give --from too"),
            (("--month", "2026-02", "--from", "2026-02-01"), "not both"),
        ):
            with pytest.raises(CommandError, match=says):
                reprice(prod, *options)

    def test_a_month_that_is_closed_later_has_what_was_adjusted(self, api: Api, prod: Environment) -> None:
        use(api, "r-1")
        price_new()
        reprice(prod)
        budgets.close_over(prod, datetime.now(UTC) + timedelta(days=70))
        closed = {each.spent_usd for month in ClosedMonth.objects.all() for each in month.budgets.all()}
        assert closed == {Decimal("0.003")}
        assert not any(each.unpriced for month in ClosedMonth.objects.all() for each in month.budgets.all())


class TestWhatElseHappens:
    def test_other_environments_are_left_alone(
        self, api: Api, prod: Environment, other_api: Api, other_environment: Environment
    ) -> None:
        dev = prod.tenant.environments.get(slug="dev")
        for each in (api, other_api, Api(dev)):
            assert each.report("r-1", "ann", model="new-model", **USED).status == 201
        price_new()
        reprice(prod)
        assert [len(ledger(each)) for each in (prod, dev, other_environment)] == [2, 1, 1]

    def test_it_is_ended_between_ledger_and_counters_and_all_is_made_good(
        self, api: Api, prod: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(5):
            use(api, f"r-{number}")
        price_new()
        monkeypatch.setattr(engine, "BATCH", 2)
        with monkeypatch.context() as broken:
            broken.setattr(adjusting, "charge", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                reprice(prod)
        assert len(ledger(prod, status="adjustment")) == 2
        assert recount.check(prod).drifts, "the counters do not have it yet"

        assert reprice(prod)["changed"] == 3
        catching_up.catch_up()

        assert in_sql(prod)["cost_nano"] == 5 * COST
        use(api, "r-last")
        assert_equal_everywhere(prod)

    def test_without_the_counter_store_the_ledger_has_it_and_the_counters_follow(
        self, api: Api, prod: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(api, "r-1")
        price_new()

        def away() -> int:
            raise StoreUnavailable("away")

        with monkeypatch.context() as broken:
            broken.setattr(store, "now_ms", away)
            assert reprice(prod)["changed"] == 1
        catching_up.catch_up()
        use(api, "r-2")
        assert_equal_everywhere(prod)

    def test_two_runs_at_once_adjust_each_call_once(
        self, api: Api, prod: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(20):
            use(api, f"r-{number}", user=f"user_{number % 3}")
        price_new()
        monkeypatch.setattr(engine, "BATCH", 3)
        days = repricing.of_month(datetime.now(UTC).date().replace(day=1))
        question = repricing.asked(prod, days)
        found = at_once(4, lambda n: engine.apply(question, by="test", run=str(n)).total.changed)
        assert sum(found) == 20
        assert in_sql(prod)["cost_nano"] == 20 * COST
        catching_up.catch_up()
        assert_equal_everywhere(prod)

    def test_reports_that_come_meanwhile_are_charged_once(
        self, api: Api, prod: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(20):
            use(api, f"r-{number}")
        price_new()
        monkeypatch.setattr(engine, "BATCH", 2)
        begun = Event()

        def report_on() -> int:
            try:
                begun.wait(10)
                for number in range(20, 60):
                    use(api, f"r-{number}", user=f"user_{number % 3}")
                return 40
            finally:
                connections.close_all()

        with ThreadPoolExecutor(1) as pool:
            reporting = pool.submit(report_on)
            begun.set()
            reprice(prod)
            assert reporting.result() == 40
        assert in_sql(prod) == {"cost_nano": 60 * COST, "requests": 60, "input_tokens": 60_000}
        catching_up.catch_up()
        use(api, "r-last")
        assert_equal_everywhere(prod)

    def test_a_report_that_is_repeated_after_it_is_answered_as_before_and_charged_no_more(
        self, api: Api, prod: Environment
    ) -> None:
        use(api, "r-1")
        price_new()
        reprice(prod)
        again = api.report("r-1", "ann", model="new-model", **USED)
        assert (again.status, again.json["cost_usd"], again.json["duplicate"]) == (200, None, True)
        assert_equal_everywhere(prod)
        # Long after, when the counter store has forgotten what it charged, the time of the report tells.
        found, (call, _) = entries(prod.pk, ["r-1"])["r-1"], ledger(prod)
        assert found.recorded_at == call.recorded_at
        assert [movement.xid for movement in found.movements] == [call.xid]

    def test_a_late_report_is_re_priced_and_its_estimate_is_not(self, api: Api, prod: Environment) -> None:
        apply_policies(prod, limits(*BUDGETS, on_unsettled="charge"))
        for name in ("r-late", "r-never"):
            assert api.evaluate("ann", request_id=name, feature="chat", model="new-model")["allowed"]
        later(minutes=11)
        settle_expired(prod)
        assert api.report("r-late", "ann", model="new-model", **USED).status == 201
        price_new()
        found = reprice(prod)
        assert found["unpriced"] == {"never reported: charged what was held": 1}
        assert [row.request_id for row in ledger(prod, status="adjustment")] == ["r-late"]
        assert_equal_everywhere(prod, unpriced=1)
        assert api.report("r-never", "ann", model="new-model", **USED).status == 201
        assert_equal_everywhere(prod)


class TestWhereItIsSeen:
    @pytest.fixture
    def repriced(self, api: Api, prod: Environment) -> Environment:
        use(api, "r-1", reported_cost_usd="0.003")
        price_new()
        reprice(prod)
        return prod

    def test_the_list_of_calls_and_files_name_it(self, api: Api, repriced: Environment) -> None:
        adjustment, call = api.get("/v1/usage").json["events"]
        assert (call["adjustment"], call["cost_usd"]) == (None, None)
        assert (adjustment["status"], adjustment["cost_usd"], adjustment["metadata"]) == (
            "adjustment", "0.003", None,
        )  # fmt: skip
        assert (
            adjustment["adjustment"] | {"cost_usd_before": None, "cost_usd": "0.003", "by": "cli:reprice"}
            == (adjustment["adjustment"])
        )
        lines = api.get("/v1/usage?format=jsonl").content.decode().splitlines()
        assert [json.loads(line).get("adjustment") for line in lines[1:]] == [adjustment["adjustment"], None]
        assert b"cli:reprice" in api.get("/v1/usage?format=csv").content

    def test_the_summary_has_its_cost_and_no_call_more(self, api: Api, repriced: Environment) -> None:
        total = api.get("/v1/usage/summary").json["total"]
        assert (total["requests"], total["cost_usd"]) == (1, "0.003")

    def test_the_month_report_has_it(self, repriced: Environment) -> None:
        now = datetime.now(UTC)
        found = month_report.report([repriced], now.date().replace(day=1), now)
        rows = {row["section"]: row for row in month_report.rows(found) if row["section"] == "total"}
        assert rows["total"]["cost_usd"] == Decimal("0.003")
        assert rows["total"]["unpriced_calls"] == 0

    def test_a_reconcile_knows_no_call_without_a_price_any_more(self, repriced: Environment) -> None:
        today = datetime.now(UTC).date()
        (row,) = charged_days.charged(repriced.pk, today - timedelta(days=1), today)
        assert (row.cost_nano, row.unpriced, row.partly_priced) == (COST, 0, 0)

    def test_what_the_provider_said_is_compared_with_what_it_costs_now(self, repriced: Environment) -> None:
        (model,) = reported_costs.reported(repriced.pk).models
        assert (model.calls, model.difference_nano, model.unpriced) == (1, 0, 0)

    def test_a_replay_takes_the_call_once_at_its_new_cost(self, repriced: Environment) -> None:
        now = datetime.now(UTC)
        (call,) = past_calls.read(repriced, now - timedelta(hours=1), now + timedelta(hours=1))
        assert (call.request_id, call.priced, call.unpriced) == ("r-1", True, False)
        assert call.amounts is not None
        assert (call.amounts.requests, call.amounts.cost_nano) == (1, COST)

    def test_a_month_as_it_stands_has_it(self, repriced: Environment) -> None:
        found = budgets.as_it_stands(repriced, datetime.now(UTC).date().replace(day=1))
        assert {each.spent_nano for each in found} == {COST}


def test_partly_priced_calls_of_a_day_are_told_from_those_without_a_price(
    api: Api, prod: Environment
) -> None:
    use(api, "r-1", quantities={"web_searches": 1})
    price = price_new()
    today = datetime.now(UTC).date()

    def counted() -> tuple[int, int]:
        (row,) = charged_days.charged(prod.pk, today - timedelta(days=1), today)
        return row.unpriced, row.partly_priced

    assert counted() == (1, 0)
    reprice(prod)
    assert counted() == (0, 1)
    price.other_rates = {"web_searches": "10"}
    overrides.save(price, actor="test")
    reprice(prod)
    assert counted() == (0, 0)


def test_every_status_has_a_word() -> None:
    assert all(wording.status(status) for status in Status.values)


def test_a_deployment_that_named_the_wrong_model_is_corrected_at_the_provider_of_the_right_one(
    api: Api, prod: Environment
) -> None:
    """Nobody said the provider of the first: it was that of its price."""
    price_new()
    right = ModelPrice(
        provider="anthropic", model="right-model", effective_from=datetime(2020, 1, 1, tzinfo=UTC),
        input_per_million=Decimal(200), output_per_million=Decimal(10), source="test",
    )  # fmt: skip
    overrides.save(right, actor="test")
    named = "deployments: {{team-chat: {0}}}\n".format
    apply_policies(prod, limits(*BUDGETS) + named("new-model"))
    use(api, "r-1", model="team-chat")
    assert api.report("r-2", "ann", **{"model": "team-chat", "provider": "somewhere", **USED}).status == 201
    apply_policies(prod, limits(*BUDGETS) + named("right-model"))

    reprice(prod)

    assert [row.status for row in ledger(prod, request_id="r-1")] == ["succeeded", "adjustment"]
    assert [row.status for row in ledger(prod, request_id="r-2")] == ["succeeded"], (
        "somewhere is not in the book"
    )
    assert_settled(prod)


def test_what_hours_cost_is_summed_anew_for_alerts(api: Api, prod: Environment) -> None:
    use(api, "r-1")
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    of = {"environment": prod, "of": "feature", "name": "chat", "cost_nano": 0, "calls": 1}
    HourlySpend.objects.create(hour=hour, **of)
    HourlySpend.objects.create(hour=hour - timedelta(days=70), **of)
    price_new()

    reprice(prod)

    assert HourlySpend.objects.count() == 1, "that of a month that was not looked at"
