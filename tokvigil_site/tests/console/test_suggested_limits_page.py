"""Suggest a limit: the page says what the amounts would have blocked, and what it cannot tell."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from policies.admin import suggested_limits
from policies.replaying import suggesting
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, set_price

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = reverse("admin:suggested_limits")


@pytest.fixture(autouse=True)
def traffic(prod: Environment, empty_store: None) -> None:
    """user_1 makes one call of a cent, user_2 two, and so on to user_8."""
    set_price("test-model", input_usd="10000")
    apply_policies(prod, "policies:\n  - {name: Everyone}\n")
    api = Api(prod)
    for number in range(1, 9):
        for _ in range(number):
            api.use(f"user_{number}", input_tokens=1)


def read(client: Client, **asked: str) -> str:
    response = client.get(PAGE, asked)
    assert response.status_code == 200
    return response.content.decode()


def amounts(text: str) -> list[list[str]]:
    """Each row of the table: its cells in words."""
    _, _, table = text.partition('id="suggested"')
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", table, re.DOTALL)
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.split(r"</t[hd]>", row)][:-1] for row in rows
    ]


def test_amounts_are_said_with_how_many_they_would_have_blocked(mia: Client, prod: Environment) -> None:
    found = amounts(read(mia, environment=str(prod)))
    assert found[-2:] == [
        ["25 %", "6 requests a day, each user", "2 of 8"],
        ["50 %", "4 requests a day, each user", "4 of 8"],
    ]


def test_a_share_of_the_money_says_what_would_not_have_been_spent(mia: Client, prod: Environment) -> None:
    found = amounts(read(mia, environment=str(prod), metric="cost_usd", of="money"))
    assert [row[0] for row in found] == ["1 %", "5 %", "10 %", "25 %", "50 %"]
    # What six users made above 2.5 calls: 18 of 36.
    assert found[-1] == ["50 %", "$0.025 a day, each user", "6 of 8", "$0.18"]


def test_a_share_of_the_money_needs_a_limit_on_cost(mia: Client, prod: Environment) -> None:
    text = read(mia, environment=str(prod), of="money")
    assert "Choose a limit on cost, or a share of those it counts for." in text
    assert amounts(text) == []


def test_calls_of_no_such_feature_are_nobodys(mia: Client, prod: Environment) -> None:
    text = read(mia, environment=str(prod), feature="<b>none</b>")
    assert "Nobody used anything of this in the period" in text
    assert "<b>none" not in text


def test_what_takes_too_long_says_what_to_do(
    mia: Client, prod: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(1)")

    monkeypatch.setattr(suggested_limits, "LEDGER_MS_MAX", 1)
    monkeypatch.setattr(suggesting, "of_subjects", slow)
    assert "It takes too long to add up" in read(mia, environment=str(prod))


def test_an_unknown_limit_is_an_error_beside_its_field(mia: Client, prod: Environment) -> None:
    assert "Select a valid choice" in read(mia, environment=str(prod), window="minute")
