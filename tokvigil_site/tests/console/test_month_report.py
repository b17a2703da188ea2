"""The month report in the console: what it shows, what it says is not final, and its files."""

from __future__ import annotations

import csv
import io
import json
from calendar import monthrange
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit import roles
from audit.models import Entry
from tenants.models import Environment, Tenant
from tokvigil_site.tests.console.conftest import SignIn
from usage.amounts import Subjects
from usage.ledger import partitions
from usage.tests.test_ledger import one, report

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = reverse("admin:month_report")
FILE = reverse("admin:month_file")


@pytest.fixture
def used(prod: Environment) -> Environment:
    last = timezone.localtime().replace(day=1) - timedelta(days=5)
    before = last.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    partitions.ensure([before])
    for name, at, cost in (("now", timezone.now(), 1_234_567_890), ("before", before, 600_000_000)):
        subjects = Subjects(user_id="<b>ann</b>", feature="=1+1", plan="pro")
        one(report(prod, name, charged_at=at, cost_nano=cost, subjects=subjects))
    one(report(prod, "unpriced", cost_nano=None, model="our-own"))
    return prod


def test_this_month_is_shown_so_far_beside_the_month_before(mia: Client, used: Environment) -> None:
    text = mia.get(PAGE).content.decode()
    assert "is not over." in text
    assert 'title="$1.23456789">$1.23' in text
    assert "$0.60" in text
    assert "+106 %" in text
    assert "<b>ann</b>" not in text
    assert "1 call without a price." in text
    assert "our-own" in text


def test_the_month_before_is_named_by_the_days_that_are_compared(mia: Client, used: Environment) -> None:
    answer = mia.get(PAGE)
    assert "beside the same days of the month before: until" in answer.content.decode()
    assert answer.context["before"].startswith("1 ")
    assert f"<dt>{answer.context['before']}</dt>" in answer.content.decode()


def test_beside_a_month_in_which_calls_began_there_are_no_percentages(mia: Client, prod: Environment) -> None:
    month = timezone.localdate().replace(day=1)
    last = datetime.combine(month, datetime.min.time(), UTC) - timedelta(days=3)
    partitions.ensure([last])
    one(report(prod, "now", charged_at=timezone.now(), cost_nano=12 * 10**8))
    one(report(prod, "before", charged_at=last, cost_nano=6 * 10**8))
    before_that = mia.get(PAGE, {"month": f"{last:%Y-%m}"}).content.decode()
    assert "Calls began on" not in before_that
    text = mia.get(PAGE).content.decode()
    assert "Calls began on" in text
    assert "+100 %" not in text


def test_months_before_the_first_call_are_not_offered(mia: Client, used: Environment) -> None:
    offered = mia.get(PAGE).context["months"]
    assert [state for _, state, _ in offered] == ["so far", "not final"]
    assert mia.get(PAGE, {"of": "dev"}).context["months"] == offered
    asked = mia.get(PAGE, {"month": "2020-02"}).context["months"]
    assert asked[-1][1:] == ("no calls", True)


def test_one_environment_is_chosen_and_its_files_are_named_by_it(mia: Client, used: Environment) -> None:
    dev = used.tenant.environments.get(slug="dev")
    one(report(dev, "of dev", charged_at=timezone.now(), cost_nano=5 * 10**9))
    assert "$6.23" in mia.get(PAGE).content.decode()
    text = mia.get(PAGE, {"of": "dev"}).content.decode()
    assert "$5.00" in text
    assert "$6.23" not in text
    assert "of <b><bdi>dev</bdi></b> alone" in text
    assert 'name="of" value="dev"' in text
    for file in ("report-csv", "focus-csv"):
        name, lines = taken(mia, file, of="dev")
        assert name.startswith(f"{file.partition('-')[0]}-acme-dev-")
        assert "our-own" not in lines
    assert mia.get(PAGE, {"of": "nowhere"}).status_code == 404
    assert mia.post(FILE, {"file": "focus-csv", "of": "nowhere"}).status_code == 404


def test_a_month_is_chosen_in_the_address(mia: Client, used: Environment) -> None:
    text = mia.get(PAGE, {"month": "2020-02"}).content.decode()
    assert "February 2020" in text
    assert "Nothing was used in February 2020" in text


def links(client: Client, **asked: str) -> dict[str, list[str]]:
    """By the title of each table, where its lines lead."""
    tables = client.get(PAGE, asked).context["tables"]
    return {table.title: [line.url for line in table.lines if line.url] for table in tables}


def test_lines_lead_to_what_is_behind_them(mia: Client, used: Environment) -> None:
    every = links(mia)
    assert [title for title, urls in every.items() if urls] == ["Environments", "Users who cost most"]
    of_one = links(mia, of="prod")
    assert [title for title, urls in of_one.items() if not urls] == []
    for urls in (*every.values(), *of_one.values()):
        for url in urls:
            assert mia.get(url).status_code == 200, url
    both, _ = of_one["Features by model"]
    asked = mia.get(both).context["asked"]
    assert asked.is_valid()
    assert asked.filters == {"feature": "=1+1", "model": "gpt-5"}
    assert (asked.shown.days.first, asked.shown.days.last.day) == (
        timezone.localdate().replace(day=1),
        monthrange(*timezone.localdate().timetuple()[:2])[1],
    )
    text = mia.get(PAGE, {"of": "prod"}).content.decode()
    assert "in the open format for cost data of the FinOps Foundation" in text


@pytest.mark.parametrize(("query", "status"), [("month=2020-13", 400), ("month=9997-01", 404), ("x=1", 400)])
def test_what_is_no_month_is_refused(mia: Client, prod: Environment, query: str, status: int) -> None:
    assert mia.get(f"{PAGE}?{query}").status_code == status


def taken(client: Client, file: str, month: str = "", of: str = "") -> tuple[str, str]:
    answer = client.post(FILE, {"file": file, "month": month, "of": of})
    assert answer.status_code == 200
    name = answer["Content-Disposition"].partition("filename=")[2].strip('"')
    return name, b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]


def test_the_report_is_a_file_that_sums_up_to_the_page(mia: Client, used: Environment) -> None:
    name, text = taken(mia, "report-csv")
    assert name.endswith("-so-far.csv")
    lines = list(csv.reader(io.StringIO(text)))
    assert ["#", "tenant", "acme"] in lines
    assert ["#", "environments", "dev, staging, prod"] in lines
    header = next(line for line in lines if line[0] == "section")
    costs = [Decimal(line[header.index("cost_usd")]) for line in lines if line[0] == "feature"]
    assert sum(costs) == Decimal("1.23456789")
    assert any(line[1] == "'=1+1" for line in lines), "no spreadsheet may take a name for a formula"


def test_a_focus_file_begins_with_its_columns(mia: Client, used: Environment) -> None:
    name, text = taken(mia, "focus-csv")
    assert name == f"focus-acme-{timezone.localdate():%Y-%m}-so-far.csv"
    assert text.startswith("BillingAccountId,")
    found = json.loads(taken(mia, "focus-json")[1])
    assert sum(Decimal(row["BilledCost"]) for row in found["rows"]) == Decimal("1.23456789")
    entries = Entry.objects.filter(action="usage.exported", tenant_id=used.tenant_id)
    assert [entry.actor for entry in entries] == ["admin:mia"] * 2


@pytest.mark.parametrize("file", ["", "focus", "focus-xml", "report-jsonl", "x-csv"])
def test_a_file_that_is_not_offered_is_refused(mia: Client, prod: Environment, file: str) -> None:
    assert mia.post(FILE, {"file": file}).status_code == 400
    assert not Entry.objects.filter(action="usage.exported").exists()


def test_a_link_takes_no_file_and_nobody_gets_another_tenants(
    mia: Client, sign_in: SignIn, used: Environment, other: Tenant
) -> None:
    assert mia.get(FILE).status_code == 405
    out = sign_in("out", other)
    assert out.post(f"{FILE}?environment={used}", {"file": "focus-csv"}).status_code == 404
    assert "1.23" not in out.get(PAGE, {"environment": str(used)}).content.decode()
    auditor = sign_in("aud", used.tenant, role="auditor")
    assert auditor.get(PAGE).status_code == 403
    assert auditor.post(FILE, {"file": "focus-csv"}).status_code == 403


def test_what_has_left_is_said_where_it_is_missed(mia: Client, prod: Environment, settings: Any) -> None:
    usage = reverse("admin:usage_usageevent_changelist")
    assert "have left the ledger" not in mia.get(usage).content.decode()
    old = datetime(2011, 8, 10, tzinfo=UTC)
    one(report(prod, "old", charged_at=old, cost_nano=2 * 10**9))
    try:
        partitions.detach(old)
    finally:
        with roles.as_owner(), connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS usage_event_2011_08")
    settings.USAGE_KEPT_MONTHS = 13

    text = mia.get(PAGE, {"month": "2011-08"}).content.decode()
    assert "The calls of August 2011 (UTC) are not in the ledger any more." in text
    assert "$2.00" in text
    text = mia.get(usage).content.decode()
    assert "Calls are kept for 13 months before the current one" in text
    assert "Those of August 2011 have left the ledger" in text
    assert ["#", "rows_gone", "2011-08"] in list(
        csv.reader(io.StringIO(taken(mia, "report-csv", "2011-08")[1]))
    )
