"""The page of an API key says what became of its calls."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from policies.blocked import decision_log
from policies.models import BlockedDecision
from tenants.models import ApiKey, Environment, Tenant
from tokvigil_site.console import key_calls
from tokvigil_site.testing import Api, apply_policies, later, limits
from tokvigil_site.tests.console.conftest import SignIn
from usage.models import UsageEvent
from usage.settling.expiry import settle_expired

pytestmark = pytest.mark.django_db(transaction=True)

ONE_A_DAY = "{metric: requests, window: day, amount: 1, per: user}"


@pytest.fixture
def api(prod: Environment) -> Api:
    return Api(prod)


def numbers(found: key_calls.KeyCalls) -> dict[str, list[str]]:
    rows = [each for row in (found.recorded, found.blocked) for each in (row, *row.parts)]
    return {row.title: [cell.number for cell in row.cells] for row in rows}


def calls_of(key: ApiKey, now: datetime | None = None) -> dict[str, list[str]]:
    return numbers(key_calls.of(key, now or timezone.now()))


def block(key: ApiKey, count: int, at: datetime, mark: str = "") -> None:
    decision_log.store([
        BlockedDecision(
            environment=key.environment, stream_id=f"{mark}{n}", decided_at=at, request_id=f"r{n}", user_id="u",
            model="m", reason_code="NO_POLICY", reason_class="forbidden", limit_state=[], api_key_id=key.pk,
        )
        for n in range(count)
    ])  # fmt: skip


def test_a_new_key_has_no_calls(api: Api) -> None:
    assert calls_of(api.key) == {"Recorded": ["0", "0"], "Blocked": ["0", "0"]}


def test_calls_are_counted_by_what_became_of_them(api: Api, prod: Environment) -> None:
    apply_policies(prod, limits(ONE_A_DAY))
    api.use("ana")
    api.report("failed", "ben", status="failed")
    api.evaluate("ana")
    other = Api(prod)
    other.use("cyd")
    other.evaluate("cyd")
    other.evaluate("cyd")

    assert calls_of(api.key) == {
        "Recorded": ["2", "2"],
        "Succeeded": ["1", "1"],
        "Failed": ["1", "1"],
        "Blocked": ["1", "1"],
        "Daily request limit exceeded": ["1", "1"],
    }
    assert calls_of(other.key)["Blocked"] == ["2", "2"]


def test_what_was_never_reported_is_the_keys_too_until_its_report_comes(api: Api, prod: Environment) -> None:
    apply_policies(prod, limits(ONE_A_DAY, on_unsettled="charge"))
    request_id = api.evaluate("ana")["request_id"]
    later(minutes=11)
    settle_expired(prod)

    assert calls_of(api.key)["Not reported"] == ["1", "1"]

    api.report(request_id, "ana")

    found = calls_of(api.key)
    assert "Not reported" not in found
    assert (found["Recorded"], found["Succeeded"]) == (["1", "1"], ["1", "1"])


def test_older_calls_are_in_the_longer_period_alone(api: Api) -> None:
    # The months to come have their partitions.
    now = timezone.now() + timedelta(days=32)
    block(api.key, 2, now - timedelta(hours=1), "a")
    block(api.key, 3, now - timedelta(days=3), "b")
    block(api.key, 4, now - timedelta(days=31), "c")

    assert calls_of(api.key, now)["Blocked"] == ["2", "5"]


def test_where_not_all_were_looked_at_the_numbers_say_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    monkeypatch.setattr(key_calls, "BLOCKED_LOOKED_AT_MAX", 4)
    monkeypatch.setattr(key_calls, "EVENTS_LOOKED_AT_MAX", 2)
    earlier = now - timedelta(hours=30)
    block(api.key, 3, earlier, "b")
    block(api.key, 2, now - timedelta(hours=1), "a")
    for _ in range(3):
        api.use("ana")

    found = key_calls.of(api.key, now + timedelta(seconds=1))

    assert numbers(found)["Blocked"] == ["2", "4 or more"]
    assert numbers(found)["Recorded"] == ["2 or more", "2 or more"]
    assert found.blocked_since == earlier


def test_the_page_leads_to_the_blocked_calls_it_counts(mia: Client, api: Api, prod: Environment) -> None:
    now = datetime.now(UTC)
    block(api.key, 2, now - timedelta(hours=1))
    Api(prod)
    page = unescape(mia.get(reverse("admin:tenants_apikey_change", args=[api.key.pk])).content.decode())

    links = re.findall(r'<a href="([^"]*blockeddecision[^"]*)">2</a>', page)

    assert len(links) == 4
    for link in links:
        listed = unescape(mia.get(link).content.decode())
        assert len(re.findall(r"blockeddecision/\d+/change", listed)) == 2, link
    assert "reason=NO_POLICY" in links[-1]


def test_the_page_names_the_calls_in_flight_of_this_key_alone(
    mia: Client, api: Api, prod: Environment
) -> None:
    other = Api(prod)
    other.evaluate("ana")
    request_id = api.evaluate("ana", input_tokens=40)["request_id"]
    url = reverse("admin:tenants_apikey_change", args=[api.key.pk])

    assert "1 call in flight, holds 40 tokens until" in mia.get(url).content.decode()

    api.report(request_id, "ana")
    assert "in flight" not in mia.get(url).content.decode()


def test_nobody_else_sees_them(sign_in: SignIn, other: Tenant, api: Api) -> None:
    block(api.key, 2, timezone.now())
    url = reverse("admin:tenants_apikey_change", args=[api.key.pk])
    assert "Its calls by outcome" not in sign_in("sam", other).get(url, follow=True).content.decode()


def test_the_page_costs_the_same_however_many_there_are(mia: Client, api: Api) -> None:
    url = reverse("admin:tenants_apikey_change", args=[api.key.pk])
    mia.get(url)
    with CaptureQueriesContext(connection) as few:
        mia.get(url)
    block(api.key, 300, timezone.now())
    api.use("ana")
    assert UsageEvent.objects.exists()
    with CaptureQueriesContext(connection) as many:
        mia.get(url)
    assert len(many) == len(few)
