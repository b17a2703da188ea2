"""Chargeback in FOCUS columns: to the nano-dollar what the ledger says, and as the specification wants it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from audit import roles
from audit.models import Entry
from tenants.exporting import Format
from tenants.models import Environment
from usage.amounts import Amounts, Subjects
from usage.analytics import exports
from usage.analytics.focus import COLUMNS, By, Focus
from usage.ledger import partitions
from usage.ledger.periods import of_month
from usage.ledger.writing import record
from usage.tests.rolling import roll_all
from usage.tests.test_ledger import estimate, one, report

pytestmark = pytest.mark.django_db(transaction=True)

BERLIN = ZoneInfo("Europe/Berlin")
# The clocks went back on its last Sunday.
OCTOBER = date(2012, 10, 1)
COSTS = (
    "BilledCost",
    "EffectiveCost",
    "ListCost",
    "ContractedCost",
)
NOT_NULL = (
    *COSTS,
    *("BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd"),
    *("ChargePeriodStart", "ChargePeriodEnd", "ChargeCategory", "ChargeDescription", "ChargeFrequency"),
    *("ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName"),
    *("InvoiceIssuerName", "ServiceName", "ServiceCategory", "ServiceSubcategory", "SkuId"),
)


def at(day: int, hour: int = 12, minute: int = 0, *, month: int = 10, fold: int = 0) -> datetime:
    return datetime(2012, month, day, hour, minute, fold=fold, tzinfo=BERLIN).astimezone(UTC)


@pytest.fixture
def berlin(environment: Environment) -> Environment:
    partitions.ensure([at(1, month=9), at(1), at(5, month=11)])
    return environment


def use(
    environment: Environment,
    name: str,
    when: datetime,
    cost_nano: int | None,
    user: str = "ann",
    **fields: Any,
) -> None:
    subjects = Subjects(user_id=user, feature=fields.pop("feature", "chat"), plan="pro", run_id=name)
    one(report(environment, name, charged_at=when, cost_nano=cost_nano, subjects=subjects, **fields))


@pytest.fixture
def used(berlin: Environment) -> Environment:
    """A month whose edges, change of clocks, late report and reversal are all used; half of it rolled up."""
    use(berlin, "before", at(30, 23, 59, month=9), 1)
    use(berlin, "first", at(1, 0), 20)
    use(berlin, "summer", at(28, 2, 30), 300)
    use(berlin, "winter", at(28, 2, 30, fold=1), 4_000)
    use(berlin, "last", at(31, 23, 59), 50_000, user="bob", model="gpt-4o")
    use(berlin, "after", at(1, 0, month=11), 7)
    one(estimate(berlin, "late", charged_at=at(9), cost_nano=900_000_000))
    use(berlin, "unknown", at(10), None, model="nobody-sells-this", provider="", feature="")
    roll_all(berlin.pk)
    # After the roll: its reversal and itself are in the tail.
    use(berlin, "late", at(9), 600_000)
    use(berlin, "tail", at(28, 0, 30), 7_000_000, feature="")
    return berlin


def of(*environments: Environment, by: By = By.MONTH, month: date = OCTOBER) -> Focus:
    return Focus(environments, month, by)


def rows(*environments: Environment, by: By = By.MONTH, month: date = OCTOBER) -> list[dict[str, Any]]:
    return [dict(row) for row in of(*environments, by=by, month=month).rows()]


def plain(environment: Environment, group: str, period: Any) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {group}, sum(coalesce(cost_nano, 0)) FROM usage_event"  # noqa: S608
            " WHERE environment_id = %s AND charged_at >= %s AND charged_at < %s GROUP BY 1",
            [environment.pk, period.start, period.end],
        )
        return {name: int(nano) for name, nano in cursor.fetchall()}


def summed(found: Sequence[dict[str, Any]], name: str) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for row in found:
        sums[row[name]] += int(row["BilledCost"] * 10**9)
    return dict(sums)


@pytest.mark.parametrize("by", list(By))
@pytest.mark.parametrize(
    ("column", "group"), [("x_UserId", "user_id"), ("x_Model", "model"), ("x_Plan", "plan")]
)
def test_every_sum_is_that_of_the_ledger(used: Environment, by: By, column: str, group: str) -> None:
    found = rows(used, by=by)
    assert summed(found, column) == plain(used, group, of_month(OCTOBER, BERLIN))
    assert sum(summed(found, column).values()) == 20 + 300 + 4_000 + 50_000 + 600_000 + 7_000_000
    for name in COSTS:
        assert [row[name] for row in found] == [row["BilledCost"] for row in found]


def test_a_month_and_its_days_are_those_of_the_tenants_zone(used: Environment) -> None:
    (month,) = {(row["BillingPeriodStart"], row["BillingPeriodEnd"]) for row in rows(used)}
    assert month == ("2012-09-30T22:00:00Z", "2012-10-31T23:00:00Z")
    days = summed(rows(used, by=By.DAY), "ChargePeriodStart")
    local = "to_char(date_trunc('day', charged_at AT TIME ZONE 'Europe/Berlin') AT TIME ZONE 'Europe/Berlin'"
    days_of_ledger = plain(
        used, f"{local} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')", of_month(OCTOBER, BERLIN)
    )
    assert days == days_of_ledger
    (longest,) = [row for row in rows(used, by=By.DAY) if row["BilledCost"] == Decimal("0.0000043")]
    assert (longest["ChargePeriodStart"], longest["ChargePeriodEnd"]) == (
        "2012-10-27T22:00:00Z",
        "2012-10-28T23:00:00Z",
    )


def test_unpriced_calls_are_said_and_never_a_cost_of_nothing(used: Environment) -> None:
    unpriced = [row for row in rows(used) if row["x_UnpricedCalls"]]
    (row,) = unpriced
    assert (row["x_Model"], row["BilledCost"], row["x_UnpricedCalls"]) == ("nobody-sells-this", 0, 1)
    assert row["ChargeDescription"].endswith("1 without a price: what they cost is not in this row")
    focus = of(used)
    list(focus.rows())
    assert focus.totals.unpriced == 1


def test_what_was_used_beside_text_tokens_stands_in_columns_and_sums_up_to_the_ledger(
    berlin: Environment,
) -> None:
    """Half rolled up, in the hour that is there twice, and with an estimate that was taken back."""
    spoken = {"web_searches": 2, "input_audio_tokens": 5}
    one(estimate(berlin, "late", charged_at=at(9), quantities={"web_searches": 40}))
    use(berlin, "summer", at(28, 2, 30), 300, quantities=spoken)
    roll_all(berlin.pk)
    use(berlin, "late", at(9), 5, quantities={"web_searches": 4})
    use(berlin, "winter", at(28, 2, 30, fold=1), 4_000, quantities=spoken)
    use(berlin, "after", at(1, 0, month=11), 7, quantities=spoken)
    for by in By:
        found = rows(berlin, by=by)
        assert sum(row["x_WebSearches"] for row in found) == 2 + 4 + 2
        assert sum(row["x_InputAudioTokens"] for row in found) == 5 + 5
        assert sum(row["x_Images"] for row in found) == 0
        assert sum(row["BilledCost"] for row in found) == Decimal("0.000004305")
    days = {row["ChargePeriodStart"]: row["x_WebSearches"] for row in rows(berlin, by=By.DAY)}
    assert days == {"2012-10-08T22:00:00Z": 4, "2012-10-27T22:00:00Z": 4}


@pytest.mark.parametrize(
    ("quantities", "consumed"),
    [
        ({"input_audio_seconds": 600}, ("600.0", "Seconds")),
        ({"input_characters": 900}, ("900.0", "Characters")),
        ({"images": 3}, ("3.0", "Images")),
        ({"rerank_searches": 2}, ("2.0", "Rerank Searches")),
        ({"images": 3, "web_searches": 1}, ("1.0", "Requests")),
        ({}, ("1.0", "Requests")),
    ],
)
def test_a_row_without_tokens_says_what_was_consumed_instead(
    berlin: Environment, quantities: dict[str, int], consumed: tuple[str, str]
) -> None:
    use(berlin, "r", at(3), 5, used=Amounts(1, 0, 0, 5), quantities=quantities)
    (row,) = rows(berlin)
    assert (str(row["ConsumedQuantity"]), row["ConsumedUnit"]) == consumed
    assert (str(row["PricingQuantity"]), row["PricingUnit"]) == consumed


def test_what_was_taken_back_in_full_has_no_row(berlin: Environment) -> None:
    one(estimate(berlin, "late", charged_at=at(9), model="held"))
    use(berlin, "late", at(9), 5, model="used")
    assert [row["x_Model"] for row in rows(berlin)] == ["used"]


def test_a_month_whose_rows_left_the_ledger_is_the_same(used: Environment) -> None:
    use(used, "searched", at(10), 9, quantities={"web_searches": 3})
    before = rows(used)
    try:
        for number in (9, 10):
            partitions.detach(at(15, month=number))
        after = rows(used)
    finally:
        with roles.as_owner(), connection.cursor() as cursor:
            for month in ("09", "10"):
                cursor.execute(f"DROP TABLE IF EXISTS usage_event_2012_{month}")
    same = ("x_UserId", "x_Model", "BilledCost", "x_UnpricedCalls", "x_WebSearches")
    assert [[row[name] for name in same] for row in before] == [[row[name] for name in same] for row in after]
    assert sum(row["x_WebSearches"] for row in after) == 3


def test_the_provider_is_the_one_that_was_reported_else_the_tenant(used: Environment) -> None:
    found = {row["x_Model"]: row for row in rows(used)}
    assert found["gpt-4o"]["HostProviderName"] == found["gpt-4o"]["ServiceProviderName"] == "openai"
    assert found["nobody-sells-this"]["ProviderName"] == used.tenant.name


def test_each_row_is_as_the_specification_wants_it(used: Environment) -> None:
    """The rules of FOCUS 1.2 that a file can break, as far as they are of these columns."""
    text = "".join(exports.focus_lines(of(used, by=By.DAY), Format.CSV, timezone.now()))
    lines = list(csv.reader(io.StringIO(text)))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) > 5
    for line in lines[1:]:
        row = dict(zip(COLUMNS, line, strict=True))
        assert all(row[name].strip() for name in NOT_NULL)
        for name in ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row[name])
        for name in (*COSTS, "ConsumedQuantity", "PricingQuantity"):
            assert re.fullmatch(r"-?\d+(\.\d+)?", row[name])
        assert (row["ChargeCategory"], row["ChargeClass"], row["BillingCurrency"]) == ("Usage", "", "USD")
        assert (row["ResourceId"] == "") == (row["ResourceType"] == "") == (row["ResourceName"] == "")
        assert all(isinstance(value, str) and value for value in json.loads(row["Tags"]).values())
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"]


def test_a_json_file_says_what_it_is_and_the_log_who_took_it(used: Environment) -> None:
    found = json.loads("".join(exports.focus_lines(of(used), Format.JSON, timezone.now())))
    assert found["about"]["month"] == "2012-10"
    assert (found["about"]["time_zone"], found["about"]["final"]) == ("Europe/Berlin", True)
    assert sum(Decimal(row["BilledCost"]) for row in found["rows"]) == Decimal("0.00765432")
    entry = Entry.objects.get(action="usage.exported")
    assert (entry.tenant_id, entry.data["environments"]) == (used.tenant_id, [used.slug])


def test_all_environments_of_a_tenant_are_in_its_file_and_nobody_elses(used: Environment) -> None:
    other = used.tenant.environments.exclude(pk=used.pk).first()
    assert other is not None
    use(other, "other", at(3), 11)
    found = rows(used, other)
    assert summed(found, "SubAccountName")[other.slug] == 11
    assert {row["SubAccountId"] for row in rows(used)} == {str(used)}


def test_a_file_of_a_month_that_may_change_says_so_in_its_name(berlin: Environment) -> None:
    focus, end = of(berlin), of_month(OCTOBER, BERLIN).end
    assert exports.focus_name(focus, end - timedelta(days=3)).endswith("-2012-10-so-far")
    assert exports.focus_name(focus, end + timedelta(days=3)).endswith("-2012-10-not-final")
    assert exports.focus_name(focus, end + timedelta(days=40)).endswith("-2012-10")


def command(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("export_focus", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_command_writes_the_file_and_says_beside_it_what_is_missing(used: Environment) -> None:
    text, said = command(str(used), "--month", "2012-10")
    assert text.startswith(",".join(COLUMNS[:3]))
    assert "0.00765432 USD." in said
    assert "1 call without a price" in said
    assert len(text.splitlines()) == len(command(used.tenant.slug, "--month", "2012-10")[0].splitlines())


@pytest.mark.parametrize("month", ["2012-13", "2012", "Oktober", "2012-10-01", "0001-01"])
def test_what_is_no_month_is_refused(environment: Environment, month: str) -> None:
    with pytest.raises(CommandError, match="is no month: write it such as 2026-11"):
        command(str(environment), "--month", month)


def test_a_tenant_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match="no tenant 'nobody'"):
        command("nobody", "--month", "2012-10")


def test_rows_are_read_a_few_at_a_time(berlin: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usage.analytics.focus.BATCH", 2)
    record([report(berlin, f"r-{n}", charged_at=at(3), subjects=Subjects(user_id=f"u{n}")) for n in range(7)])
    read = of(berlin).rows()
    next(read)
    # What is written meanwhile is not in it.
    use(berlin, "meanwhile", at(4), 1, user="zoe")
    assert len(list(read)) == 6


def test_who_reads_no_further_holds_up_nobody(berlin: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may be let go of amid another statement of the same connection: nothing is asked of it then."""
    monkeypatch.setattr("usage.analytics.focus.BATCH", 1)
    for user in ("ann", "bob", "cy"):
        use(berlin, user, at(3), 1, user=user)
    read = of(berlin).rows()
    next(read)
    connection.ensure_connection()
    with connection.connection.lock:
        read.close()  # type: ignore[attr-defined]
    assert len(rows(berlin)) == 3
