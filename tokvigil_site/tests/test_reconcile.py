"""The ledger beside a provider's export: what differs is found, nothing else, and what is known about it is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tenants.models import Environment
from tokvigil_site.testing import set_price
from usage.amounts import Amounts
from usage.ledger import partitions
from usage.ledger.models import Status
from usage.tests.test_ledger import estimate, one, report
from usage.tests.test_provider_exports import completions, cost, messages, openai_bucket, page, table

pytestmark = pytest.mark.django_db(transaction=True)

OCTOBER, NOVEMBER = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
NOON = NOVEMBER + timedelta(hours=12)
EVENTS = 100_000
# As OpenAI calls what we report as these.
DATED = {"gpt-4o": "gpt-4o-2024-08-06", "gpt-4o-mini": "gpt-4o-mini-2024-07-18"}
NANO = Decimal(10) ** 9


class Reconciled:
    """What the command said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.status = 0
        self.out = self.err = self.failed = ""

    def run(self, environment: Environment, content: bytes, *options: str) -> Reconciled:
        file = self.folder / "export"
        file.write_bytes(content)
        out, err = StringIO(), StringIO()
        self.status, self.failed = 0, ""
        try:
            call_command("reconcile", str(environment), str(file), *options, stdout=out, stderr=err)
        except CommandError as error:
            self.status, self.failed = error.returncode, str(error)
        self.out, self.err = out.getvalue(), err.getvalue()
        return self

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.out)["rows"]
        return found

    @property
    def differing(self) -> dict[tuple[str, str], list[str]]:
        """Why, by day and model."""
        return {
            (row["day"], row["model"]): [reason["code"] for reason in row["explained_by"]]
            for row in self.rows
            if row["differs"]
        }


@pytest.fixture
def command(tmp_path: Path) -> Reconciled:
    return Reconciled(tmp_path)


@pytest.fixture
def prices(environment: Environment) -> Environment:
    partitions.ensure([OCTOBER, NOON])
    for model, provider in (
        ("gpt-4o", "openai"),
        ("gpt-4o-mini", "openai"),
        ("gpt-4.1", "openai"),
        ("claude-sonnet-4-5", "anthropic"),
    ):
        price = set_price(model, input_usd="1", output_usd="4")
        price.provider = provider
        price.save()
    return environment


def call(environment: Environment, name: str, cost_nano: int | None = 2_000_000_000, **fields: Any) -> None:
    one(
        report(
            environment,
            name,
            **{"cost_nano": cost_nano, "charged_at": NOON, "model": "gpt-4o", **fields},
        )
    )


def tokens(cost_nano: int, used_in: int, used_out: int) -> Amounts:
    return Amounts(1, used_in, used_out, cost_nano)


def why(command: Reconciled, environment: Environment, content: bytes, *options: str) -> list[str]:
    """Of the only row that differs."""
    (found,) = command.run(environment, content, "--json", *options).differing.values()
    assert command.status == 1
    return found


class TestAMonthOfManyCalls:
    def test_exactly_what_was_planted_is_found(self, prices: Environment, command: Reconciled) -> None:
        dev = prices.tenant.environments.get(slug="dev")
        call_command(
            "synthesize_usage",
            str(dev),
            *(f"--events={EVENTS}", "--days=31", "--users=500", f"--until={NOVEMBER.isoformat()}"),
            stdout=StringIO(),
        )
        bill = {key: nano for key, nano in charged(dev) if key[1] in DATED}
        assert len(bill) == 62

        dearer(bill, day(3), "gpt-4o", "1.02")
        dearer(bill, day(4), "gpt-4o-mini", "1.3")
        dearer(bill, day(5), "gpt-4o", "0.9")
        planted = {
            (day(3), "gpt-4o"): [],
            (day(4), "gpt-4o-mini"): [],
            (day(5), "gpt-4o"): [],
            (day(6), "gpt-4o"): ["not_theirs"],
            (day(7), "gpt-4o-mini"): ["not_theirs"],
            (day(8), "gpt-4.1"): ["not_reported"],
            (day(9), "gpt-4o"): ["unpriced"],
            (day(10), "gpt-4o-mini"): ["partly_priced"],
            (day(11), "gpt-4o"): ["not_theirs", "other_name"],
            (day(11), "gpt-next"): ["not_reported", "other_name"],
        }
        del bill[day(6), "gpt-4o"], bill[day(7), "gpt-4o-mini"]
        bill[day(8), "gpt-4.1"] = 3 * 10**9
        call(dev, "dear", None, charged_at=noon(9))
        bill[day(9), "gpt-4o"] += 10**9
        call(
            dev,
            "searched",
            1,
            charged_at=noon(10),
            model="gpt-4o-mini",
            unpriced_quantities=("web_searches",),
        )
        bill[day(10), "gpt-4o-mini"] += 10**9
        bill[day(11), "gpt-next"] = bill.pop((day(11), "gpt-4o"))
        # Too little to be a difference.
        for number in range(12, 20):
            dearer(bill, day(number), "gpt-4o", "1.001")

        found = command.run(dev, page(*costs(bill)), "--json").differing
        assert {key: without_estimates(codes) for key, codes in found.items()} == planted
        assert command.status == 1
        assert json.loads(command.out)["at_other_providers"]["calls"] > 10_000

        command.run(dev, page(*costs(bill)))
        header, *rows, last = command.out.splitlines()
        assert len(rows) == 10
        assert {tuple(row.split()[5:7]) for row in rows} == {("-", "-")}, "the file has no tokens"
        assert header.split()[:2] == ["day", "model"]
        assert last.startswith("10 of 64 rows differ (OpenAI's costs, 2026-10-01 to 2026-10-31 UTC). Ours ")
        amounts = [abs(Decimal(row.split()[4])) for row in rows]
        assert amounts == sorted(amounts, reverse=True)


def day(number: int) -> str:
    return f"2026-10-{number:02}"


def noon(number: int) -> datetime:
    return OCTOBER + timedelta(days=number - 1, hours=12)


def charged(environment: Environment) -> Iterator[tuple[tuple[str, str], int]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (charged_at AT TIME ZONE 'UTC')::date, model, sum(cost_nano) FROM usage_event"
            " WHERE environment_id = %s GROUP BY 1, 2",
            [environment.pk],
        )
        for at, model, nano in cursor.fetchall():
            yield (at.isoformat(), model), int(nano or 0)


def dearer(bill: dict[tuple[str, str], int], at: str, model: str, times: str) -> None:
    """Nothing explains it."""
    bill[at, model] = int(bill[at, model] * Decimal(times))


def costs(bill: dict[tuple[str, str], int]) -> Iterator[dict[str, Any]]:
    """A third for input, the rest for output, as the API answers it."""
    for number in range(31):
        at = OCTOBER + timedelta(days=number)
        items = [
            cost(str(part / NANO), f"{DATED.get(model, model)}, {kind}")
            for (on, model), nano in bill.items()
            if on == at.date().isoformat()
            for kind, part in (("input", nano // 3), ("output", nano - nano // 3))
        ]
        yield {
            "object": "bucket",
            "start_time": int(at.timestamp()),
            "end_time": int(at.timestamp()) + 86400,
            "results": items,
        }


def without_estimates(codes: list[str]) -> list[str]:
    """Some calls of each day were never reported, and are charged what was held: the bill was made from that too."""
    return [code for code in codes if code != "estimated"]


class TestWhy:
    def test_names_of_one_model_meet_and_nothing_differs(
        self, prices: Environment, command: Reconciled
    ) -> None:
        call(prices, "a", model="gpt-4o")
        call(prices, "b", model="openai/GPT-4o-2024-11-20", provider="")
        command.run(prices, page(openai_bucket(cost("4.0001", "gpt-4o-2024-08-06, output"))), "--json")
        (row,) = command.rows
        assert (command.status, row["model"], row["difference_usd"]) == (0, "gpt-4o", "-0.0001")
        assert {*row["ours"]["names"]} == {"gpt-4o", "openai/GPT-4o-2024-11-20"}

    def test_a_difference_within_a_cent_or_the_tolerance_is_none(
        self, prices: Environment, command: Reconciled
    ) -> None:
        call(prices, "a", 1_000_000)
        call(prices, "b", 100 * 10**9, charged_at=NOON + timedelta(days=1))
        content = page(openai_bucket(cost(0.011, "gpt-4o")), openai_bucket(cost(100.4, "gpt-4o"), day=1))
        assert command.run(prices, content).status == 0
        assert command.run(prices, content, "--tolerance", "0.1").status == 1

    def test_a_call_before_midnight_utc_is_of_that_day(
        self, prices: Environment, command: Reconciled
    ) -> None:
        """The tenant is in Berlin, where it is the day after."""
        call(prices, "late", charged_at=NOVEMBER + timedelta(hours=23, minutes=59))
        assert command.run(prices, page(openai_bucket(cost(2, "gpt-4o")))).status == 0

    def test_an_estimate_that_was_never_reported(self, prices: Environment, command: Reconciled) -> None:
        one(estimate(prices, "held", model="gpt-4o", charged_at=NOON, cost_nano=10**9))
        assert why(command, prices, page(openai_bucket(cost(0.5, "gpt-4o")))) == ["estimated"]

    def test_an_estimate_that_was_taken_back_is_none(self, prices: Environment, command: Reconciled) -> None:
        one(estimate(prices, "held", model="gpt-4o", charged_at=NOON, cost_nano=10**9))
        call(prices, "held")
        assert command.run(prices, page(openai_bucket(cost(2, "gpt-4o")))).status == 0

    def test_another_tier(self, prices: Environment, command: Reconciled) -> None:
        call(prices, "a", used=tokens(10**9, 1000, 400), service_tier="")
        call(prices, "b", used=tokens(10**9, 1000, 400), service_tier="batch")
        content = page(
            openai_bucket(
                completions(batch=True, input_tokens=2000, output_tokens=800, input_cached_tokens=0),
            )
        )
        assert why(command, prices, content) == ["other_tier"]
        assert "other tier: theirs batch, ours batch, default" in command.run(prices, content).out
        focus = table(
            "ChargePeriodStart,BilledCost,ProviderName,ServiceName,x_Model,SkuMeter,ConsumedQuantity,ConsumedUnit",
            "2026-11-01,0.5,OpenAI,OpenAI API,gpt-4o,input batch,2,1K tokens",
            "2026-11-01,0.5,OpenAI,OpenAI API,gpt-4o,output batch,800,Tokens",
        )
        assert why(command, prices, focus) == ["other_tier", "other_rates"]

    def test_more_tokens_of_theirs(self, prices: Environment, command: Reconciled) -> None:
        call(prices, "a", used=tokens(10**9, 1000, 400), cached_input_tokens=800)
        content = page(openai_bucket(completions(output_tokens=500)))
        assert why(command, prices, content) == ["other_tokens"]
        command.run(prices, content)
        assert "output_tokens: ours 400, theirs 500" in command.out
        assert "input tokens: ours 1000, theirs 1000; output tokens: ours 400, theirs 500" in command.out

    def test_all_parts_of_claudes_input_and_its_searches(
        self, prices: Environment, command: Reconciled
    ) -> None:
        call(
            prices,
            "a",
            model="claude-sonnet-4-5",
            provider="anthropic",
            used=tokens(10**9, 3200, 700),
            cached_input_tokens=200,
            cache_write_tokens=500,
            quantities={"cache_write_1h_tokens": 1000, "web_searches": 10},
        )
        bucket = {"starting_at": "2026-11-01T00:00:00Z", "results": [messages()]}
        assert command.run(prices, page(bucket)).status == 0
        bucket["results"] = [messages(server_tool_use={"web_search_requests": 11})]
        assert why(command, prices, page(bucket)) == ["other_tokens"]

    def test_a_name_can_be_given(self, prices: Environment, command: Reconciled) -> None:
        call(prices, "a")
        content = page(openai_bucket(cost(2, "Big Model, input")))
        assert command.run(prices, content).status == 1
        assert command.run(prices, content, "--name", "big model=gpt-4o").status == 0

    def test_a_deployment_of_the_environment_is_its_model(
        self, prices: Environment, command: Reconciled
    ) -> None:
        prices.deployments.create(name="our-chat", model="gpt-4o")
        call(prices, "a", model="our-chat")
        assert command.run(prices, page(openai_bucket(cost(2, "gpt-4o")))).status == 0

    def test_a_file_that_names_no_models_is_compared_by_day(
        self, prices: Environment, command: Reconciled
    ) -> None:
        call(prices, "a")
        call(prices, "b", model="gpt-4o-mini")
        call(prices, "c", model="claude-sonnet-4-5", provider="anthropic")
        command.run(prices, page(openai_bucket(cost(4, None))), "--json")
        (row,) = command.rows
        assert (command.status, row["model"], row["ours"]["cost_usd"]) == (0, None, "4.00")
        assert json.loads(command.out)["at_other_providers"] == {"calls": 1, "cost_usd": "2.00"}

    def test_who_sold_a_call_that_names_no_provider_is_who_has_it_in_the_file(
        self, prices: Environment, command: Reconciled
    ) -> None:
        call(prices, "a", provider="")
        focus = table(
            "ChargePeriodStart,BilledCost,ProviderName,ServiceName,x_SkuMeterName",
            "2026-11-01,2,Microsoft,Azure OpenAI,gpt 4o 0806 Inp glbl Tokens",
        )
        assert command.run(prices, focus).status == 0

    def test_our_own_chargeback_file_is_the_ledger(self, prices: Environment, command: Reconciled) -> None:
        prices.tenant.timezone = "UTC"
        prices.tenant.save()
        call(prices, "a")
        call(prices, "b", model="claude-sonnet-4-5", provider="anthropic")
        out = StringIO()
        call_command(
            "export_focus", str(prices), "--month=2026-11", "--by=day", stdout=out, stderr=StringIO()
        )
        command.run(prices, out.getvalue().encode(), "--json")
        assert (command.status, len(command.rows)) == (0, 2)
        assert [row["difference_usd"] for row in command.rows] == ["0.00", "0.00"]


class TestWhatIsRefused:
    def test_a_file_of_nobody(self, prices: Environment, command: Reconciled) -> None:
        command.run(prices, b"a,b\n1,2\n")
        assert command.status == 2
        assert "Expected one of: OpenAI's usage or costs" in command.failed

    def test_a_file_that_is_not_there(self, prices: Environment) -> None:
        with pytest.raises(CommandError, match="cannot be read: No such file") as failed:
            call_command("reconcile", str(prices), "/nowhere/at/all")
        assert failed.value.returncode == 2

    @pytest.mark.parametrize(
        "option", [("--tolerance", "much"), ("--tolerance", "101"), ("--name", "gpt-4o")]
    )
    def test_an_option(self, prices: Environment, command: Reconciled, option: tuple[str, str]) -> None:
        command.run(prices, page(openai_bucket()), *option)
        assert command.status == 2
        assert command.failed.startswith(option[0])

    def test_unknown_columns_are_said(self, prices: Environment, command: Reconciled) -> None:
        command.run(prices, page(openai_bucket(completions(mood="good", input_tokens=0, output_tokens=0))))
        assert command.err.startswith("Columns that are not known, and were not read: mood.")


def test_an_empty_bill_is_of_nothing(prices: Environment, command: Reconciled) -> None:
    call(prices, "a")
    assert command.run(prices, page(openai_bucket()), "--json").status == 1
    (row,) = command.rows
    assert (row["difference_usd"], row["explained_by"][0]["code"]) == ("2.00", "not_theirs")


def test_a_failed_call_that_used_nothing_is_nothing(prices: Environment, command: Reconciled) -> None:
    call(prices, "a", 0, used=Amounts(1, 0, 0, 0), status=Status.FAILED)
    assert command.run(prices, page(openai_bucket())).status == 0
