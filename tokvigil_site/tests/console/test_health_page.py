"""The page of health: counters against the ledger and the way to mend them, rollups, holds, costs, both stores."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import Entry
from tenants.models import Environment, Role, Tenant
from tokvigil_site.testing import Api, apply_policies, later, limits, set_price
from tokvigil_site.tests.console.conftest import SignIn
from usage.amounts import Amounts
from usage.analytics import holds, reported_costs, rollup_lag
from usage.counting import inspection
from usage.counting.store import StoreUnavailable, store
from usage.settling import recount
from usage.tests.rolling import roll_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_store")]

HEALTH = reverse("admin:health")
REBUILD = reverse("admin:health_rebuild")
EXPORT = reverse("admin:health_export")
QUERIES_MAX = 60


@pytest.fixture
def api(prod: Environment) -> Api:
    set_price("gpt-test", input_usd="1", output_usd="2")
    apply_policies(
        prod,
        limits(
            "{metric: requests, window: day, amount: 500, per: user}",
            "{metric: requests, window: day, amount: 500, per: user_feature}",
            "{metric: cost_usd, window: month, amount: '500', per: environment}",
        ),
    )
    return Api(prod)


def look(client: Client, environment: Environment) -> Any:
    answer = client.get(HEALTH, {"environment": str(environment)})
    assert answer.status_code == 200
    return answer


def text(answer: Any) -> str:
    return " ".join(unescape(answer.content.decode()).split())


def compare(client: Client, environment: Environment) -> str:
    answer = client.post(HEALTH, {"environment": environment.pk}, follow=True)
    assert answer.status_code == 200
    return text(answer)


def file(client: Client, environment: Environment, table: str, kind: str = "json") -> Any:
    answer = client.get(EXPORT, {"environment": str(environment), "table": table, "format": kind})
    assert answer.status_code == 200, answer.content
    content = answer.getvalue().decode()
    return json.loads(content) if kind == "json" else content


def spoil(environment: Environment, *, field: str = "ur") -> str:
    """A counter of calls holds one more than it should."""
    key = next(key for key, _ in inspection.scan(environment.pk) if ":user:day:" in key)
    store.client.hincrby(key, field, 1)
    return key


class TestCounters:
    def test_until_they_are_compared_nothing_is_claimed(
        self, mia: Client, prod: Environment, api: Api
    ) -> None:
        api.use("ana", model="gpt-test")
        said = text(look(mia, prod))
        assert "Nobody compared them yet, or the counter store was emptied after that." in said
        assert "Whether the counters hold the same was not looked at yet" in said
        assert "Everything is counted" not in said

    def test_equal_is_said_and_kept_with_its_time(self, mia: Client, prod: Environment, api: Api) -> None:
        api.use("ana", model="gpt-test", feature="chat")
        recount.rebuild(prod)

        assert "Equal: 3 counters hold what the ledger says." in compare(mia, prod)

        later(minutes=5)
        answer = look(mia, prod)
        assert "All 3 counters held what the ledger says" in text(answer)
        assert "Everything is counted: the ledger has every reported call" in text(answer)
        assert "without a price are" not in text(answer)
        assert store.now_ms() - answer.context["checked"].at_ms >= 300_000

    def test_a_counter_that_differs_is_named_with_both_amounts(
        self, mia: Client, prod: Environment, api: Api
    ) -> None:
        call = api.evaluate("ana", model="gpt-test", feature="chat", input_tokens=10)["request_id"]
        api.report(call, "ana", "gpt-test", feature="chat", input_tokens=10)
        recount.rebuild(prod)
        spoil(prod)

        said = compare(mia, prod)

        assert "Not equal to the ledger: 1 of 3 counters." in said
        assert "but 1 of 3 counters held something else when they were compared last." in said
        assert "Everything is counted" not in said
        assert "each user, a day" in said
        assert "2 requests, 10 tokens, $0.00001" in said
        assert "1 request, 10 tokens, $0.00001" in said
        (row,) = file(mia, prod, "drifts")["rows"]
        assert (row["counter"], row["counted_requests"], row["ledger_requests"]) == ("ana", 2, 1)
        assert row["ledger_usd"] == "0.00001"

    def test_a_counter_of_some_models_is_named_with_them(
        self, mia: Client, prod: Environment, api: Api
    ) -> None:
        apply_policies(
            prod, limits("{metric: requests, window: day, amount: 9, per: user, models: [gpt-*, o3]}")
        )
        api.use("ana", model="gpt-test")
        recount.rebuild(prod)
        spoil(prod)

        assert "each user, a day with gpt-* and o3" in compare(mia, prod)
        (row,) = file(mia, prod, "drifts")["rows"]
        assert row["models"] == "gpt-*, o3"

    def test_a_user_of_a_feature_is_named_by_both(self, mia: Client, prod: Environment, api: Api) -> None:
        api.use("ana:1", model="gpt-test", feature="chat")
        recount.rebuild(prod)
        key = next(key for key, _ in inspection.scan(prod.pk) if ":user_feature:" in key)
        store.client.hincrby(key, "ui", 7)
        assert "ana:1 in chat" in compare(mia, prod)

    def test_the_rebuild_asks_first_then_mends_and_is_audited_once(
        self, mia: Client, prod: Environment, api: Api
    ) -> None:
        api.use("ana", model="gpt-test")
        recount.rebuild(prod)
        spoil(prod)
        compare(mia, prod)
        before = Entry.objects.count()

        asked = mia.get(REBUILD, {"environment": str(prod)})
        assert "1 of 2 counters differed" in text(asked)
        assert len(recount.check(prod).drifts) == 1
        said = text(mia.post(REBUILD, {"environment": prod.pk}, follow=True))

        assert "2 counters rebuilt from the ledger." in said
        assert "Equal: 2 counters hold what the ledger says." in said
        assert recount.check(prod).drifts == ()
        assert Entry.objects.count() == before + 1
        entry = Entry.objects.latest("pk")
        assert (entry.action, entry.actor, entry.target_id) == ("counters.rebuilt", "admin:mia", str(prod.pk))

    def test_who_may_only_look_can_do_neither(
        self, acme: Tenant, prod: Environment, sign_in: SignIn, api: Api
    ) -> None:
        eve = sign_in("eve", acme, role=Role.VIEWER)
        said = text(look(eve, prod))
        assert "Compare now" not in said
        assert "Who may change environments can compare and rebuild them." in said
        assert eve.post(HEALTH, {"environment": prod.pk}).status_code == 403
        assert eve.get(REBUILD, {"environment": str(prod)}).status_code == 403
        assert eve.post(REBUILD, {"environment": prod.pk}).status_code == 403
        assert not Entry.objects.filter(action="counters.rebuilt").exists()

    def test_a_store_that_is_away_leaves_no_entry(
        self, mia: Client, prod: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*arguments: Any) -> Any:
            raise StoreUnavailable

        monkeypatch.setattr(store, "run", away)
        answer = mia.post(REBUILD, {"environment": prod.pk}, follow=True)
        assert "The rebuild did not end." in text(answer)
        assert not Entry.objects.filter(action="counters.rebuilt").exists()


class TestRollups:
    def test_rows_in_the_tail_and_how_long_they_wait(self, mia: Client, prod: Environment, api: Api) -> None:
        for number in range(3):
            api.report(f"r-{number}")
        lag = rollup_lag.lag(prod.pk)
        assert (lag.rows, lag.restored) == (3, False)
        assert "3 rows to roll up, the oldest for 0 s" in text(look(mia, prod))

        roll_all(prod.pk)

        assert rollup_lag.lag(prod.pk).rows == 0
        assert "Up to date: every row is rolled up." in text(look(mia, prod))

    def test_of_more_than_are_counted_it_says_so(
        self, mia: Client, prod: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(3):
            api.report(f"r-{number}")
        monkeypatch.setattr(rollup_lag, "ROWS_COUNTED_MAX", 2)
        assert "More than 2 rows to roll up" in text(look(mia, prod))


class TestHolds:
    def test_what_is_held_now_against_what_calls_used(self, mia: Client, prod: Environment, api: Api) -> None:
        asked: dict[str, Any] = {
            "model": "gpt-test",
            "feature": "chat",
            "input_tokens": 100,
            "max_output_tokens": 450,
        }
        decision = api.evaluate("ana", **asked)
        api.report(
            decision["request_id"], "ana", "gpt-test", feature="chat", input_tokens=100, output_tokens=50
        )
        for _ in range(2):
            api.evaluate("ana", **asked)

        answer = look(mia, prod)

        found = answer.context["held"]
        assert (found.open, found.expired, found.summed) == (2, 0, 2)
        assert found.held == Amounts(2, 200, 900, 2_000_000)
        (kind,) = found.kinds
        assert (kind.feature, kind.model, kind.holds) == ("chat", "gpt-test", 2)
        # A hold of 1,000 nano-dollars a token against a call of 200.
        assert kind.ratio == 5.0
        assert "550 tokens, $0.001000" in text(answer)
        assert "150 tokens, $0.000200" in text(answer)
        assert "5.0 times" in text(answer)
        (row,) = file(mia, prod, "holds")["rows"]
        assert (row["open_holds"], row["held_usd"], row["used_usd"]) == (2, "0.002", "0.0002")

    def test_expired_holds_are_told_apart(self, mia: Client, prod: Environment, api: Api) -> None:
        api.evaluate("ana", model="gpt-test", input_tokens=10)
        later(minutes=30)
        answer = look(mia, prod)
        found = answer.context["held"]
        assert (found.open, found.expired) == (1, 1)
        assert found.held_by_expired == Amounts(1, 10, 0, 10_000)
        assert "not ended yet: 1 request, 10 tokens, $0.00001" in text(answer)

    def test_of_more_holds_than_are_read_it_says_which(
        self, mia: Client, prod: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for user in ("ana", "bob", "cy"):
            api.evaluate(user, model="gpt-test")
        monkeypatch.setattr(holds, "HOLDS_READ_MAX", 2)
        said = text(look(mia, prod))
        assert "held by the 2 that expire first" in said
        assert "the 2 of 3 that expire first" in said


class TestCosts:
    def test_what_was_reported_stands_beside_what_we_charged(
        self, mia: Client, prod: Environment, api: Api
    ) -> None:
        for number, cost in enumerate(["0.5", "0.25"]):
            api.report(f"r-{number}", model="gpt-test", input_tokens=300_000, reported_cost_usd=cost)
        api.report("r-2", model="gpt-test", input_tokens=300_000)
        api.report("r-3", model="strange", reported_cost_usd="0.125")

        answer = look(mia, prod)

        found = {each.model: each for each in answer.context["costs"].models}
        assert found["gpt-test"].calls == 2
        assert (found["gpt-test"].reported_nano, found["gpt-test"].charged_nano) == (750_000_000, 600_000_000)
        assert found["strange"].unpriced == 1
        assert "−$0.150000" in text(answer)
        assert "−20.0 %" in text(answer)
        rows = {row["model"]: row for row in file(mia, prod, "costs")["rows"]}
        assert rows["gpt-test"]["difference_usd"] == "-0.15"
        assert sum(Decimal(row["reported_usd"]) for row in rows.values()) == Decimal("0.75")

    def test_it_says_since_when_if_not_all_rows_were_read(
        self, mia: Client, prod: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(3):
            api.report(f"r-{number}", model="gpt-test", reported_cost_usd="1")
        monkeypatch.setattr(reported_costs, "ROWS_READ", 2)
        answer = look(mia, prod)
        assert "Of the newest 2 rows of the ledger, since" in text(answer)
        assert answer.context["costs"].models[0].calls == 2

    def test_models_without_a_price_say_what_they_were_used_for(
        self, mia: Client, prod: Environment, api: Api
    ) -> None:
        api.report("r-1", model="strange", feature="chat")
        api.report("r-2", model="strange", feature="chat")
        answer = look(mia, prod)
        assert "2 calls of chat" in text(answer)
        assert file(mia, prod, "unpriced")["rows"][0]["calls"] == 2


def test_without_the_counter_store_the_page_says_what_is_not_known(
    mia: Client, prod: Environment, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.report("r-1", model="gpt-test", reported_cost_usd="1")

    def away(*arguments: Any) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(store, "call", away)
    said = text(look(mia, prod))
    assert "Does not answer" in said
    assert "What is held is not known" in said
    assert "1 row to roll up" in said


def test_a_file_says_what_is_in_it(mia: Client, prod: Environment, api: Api) -> None:
    api.report("r-1", model="=1+1", reported_cost_usd="1")
    lines = list(csv.reader(file(mia, prod, "costs", "csv").splitlines()))
    about = {line[1]: line[2] for line in lines if line[0] == "#"}
    assert about["environment"] == "acme/prod"
    assert about["time_zone"] == "Europe/Berlin"
    assert about["rolled_up_before_transaction"] == "0"
    assert about["newest_rows"] == "1"
    assert lines[-1][0] == "'=1+1"


@pytest.mark.parametrize("asked", [{}, {"table": "holds"}, {"table": "users", "format": "csv"}])
def test_a_file_that_there_is_not_is_refused(mia: Client, asked: dict[str, str]) -> None:
    assert mia.get(EXPORT, asked).status_code == 400


def test_the_page_costs_a_bounded_number_of_queries(mia: Client, prod: Environment, api: Api) -> None:
    for number in range(20):
        api.report(f"r-{number}", f"user-{number}", f"model-{number}", feature=f"f-{number}")
    look(mia, prod)
    with CaptureQueriesContext(connection) as captured:
        look(mia, prod)
    assert len(captured) < QUERIES_MAX
