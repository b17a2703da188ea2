"""From the list of boosts to the end of one: asked first, with what the boost is and what happens then."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import Entry
from policies import boosts
from policies.models import Boost
from tenants.models import Environment, Role, Tenant
from tokvigil_site.tests.console.conftest import SignIn

pytestmark = pytest.mark.django_db

HOSTILE = "<script>alert(1)</script>"
LIST = reverse("admin:policies_boost_changelist")


def given(environment: Environment, **fields: Any) -> Boost:
    boost = Boost(
        environment=environment,
        **{"per": "user", "subject": HOSTILE, "metric": "requests", "window": "day", "extra": Decimal(20)}
        | {"reason": HOSTILE, "ends_at": timezone.now() + timedelta(days=2)}
        | fields,
    )
    return boosts.give(boost, actor="admin:bo")


@pytest.fixture
def boost(prod: Environment) -> Boost:
    return given(prod)


def address(boost: Boost, what: str = "end") -> str:
    return reverse(f"admin:policies_boost_{what}", args=[boost.pk])


def listed(client: Client, environment: Environment) -> str:
    return client.get(LIST, {"environment": str(environment)}).content.decode()


def ends() -> list[tuple[str, str]]:
    entries = Entry.objects.filter(action="boost.ended").order_by("seq")
    return [(entry.actor, str(entry.data["subject"])) for entry in entries]


def test_the_list_leads_to_each_boost_and_to_ending_those_that_are_not_over(
    mia: Client, prod: Environment, boost: Boost, sign_in: SignIn, acme: Tenant
) -> None:
    coming, over = given(prod, starts_at=timezone.now() + timedelta(days=1)), given(prod)
    boosts.end_now(over.pk, prod, actor="test")
    page, looked_at = listed(mia, prod), listed(sign_in("vic", acme, role=Role.VIEWER), prod)
    assert [f'href="{address(each)}"' in page for each in (boost, coming, over)] == [True, True, False]
    assert [address(each) in looked_at for each in (boost, coming, over)] == [False] * 3
    for each in (boost, coming, over):
        assert f'<a href="{address(each, "change")}">+20 requests a day</a>' in page
        assert f'<a href="{address(each, "change")}">+20 requests a day</a>' in looked_at
    assert "<script>alert" not in page


def test_ending_asks_first_and_says_what_happens_then(mia: Client, prod: Environment, boost: Boost) -> None:
    page = mia.get(address(boost)).content.decode()
    assert "<b>+20 requests a day</b> for <a " in page
    assert "in acme/prod" in page
    assert "policies' again from the very next call on" in page
    assert "of the same limits" not in page
    assert f'href="{LIST}" class="tv-button">Keep it' in page
    assert "Given by <bdi>bo</bdi>" in page
    assert "<script>alert" not in page
    assert ends() == [], "asking changes nothing"
    said = mia.post(address(boost), {"post": "yes"}, follow=True).content.decode()
    assert "The boost +20 requests a day is ended, from the very next call on." in said
    assert not boosts.current(prod.pk).exists()
    assert ends() == [("admin:mia", HOSTILE)]


def test_one_that_is_over_is_not_ended_again(mia: Client, prod: Environment, boost: Boost) -> None:
    boosts.end_now(boost.pk, prod, actor="test")
    assert "This boost is over." in mia.get(address(boost)).content.decode()
    assert "Over already." in mia.post(address(boost), follow=True).content.decode()
    assert ends() == [("test", HOSTILE)]


def test_one_to_come_never_starts_and_others_of_the_same_limits_are_counted(
    mia: Client, prod: Environment, boost: Boost
) -> None:
    coming = given(prod, starts_at=timezone.now() + timedelta(days=1))
    given(prod, window="month")
    given(prod, subject="bo")
    page = mia.get(address(coming)).content.decode()
    assert (
        "It never starts. The limits stay those of the policies. 1 other boost of the same limits stays."
        in page
    )
    everybody = given(prod, per="environment", subject="")
    assert "for everybody in acme/prod" in mia.get(address(everybody)).content.decode()


def test_who_may_not_change_boosts_ends_none(
    sign_in: SignIn, acme: Tenant, other: Tenant, prod: Environment, boost: Boost
) -> None:
    viewer, stranger = sign_in("vic", acme, role=Role.VIEWER), sign_in("sam", other)
    for client, status in ((viewer, 403), (stranger, 404)):
        assert client.get(address(boost)).status_code == status
        assert client.post(address(boost), {"post": "yes"}).status_code == status
    assert boosts.current(prod.pk).get() == boost
    assert ends() == []
