"""The list of end users with who called lately and their tightest limits; the list of budgets before there is one."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from policies.end_users import set_end_user
from policies.models import EndUser
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies
from usage.counting.store import store

pytestmark = pytest.mark.django_db(transaction=True)

USERS = reverse("admin:policies_enduser_changelist")
BUDGETS = reverse("admin:policies_monthlybudget_changelist")
POLICIES = """
plans: [free]
policies:
  - name: Everyone
    unknown_price: allow
    limits: [{metric: requests, window: day, amount: 10, per: user}]
  - name: Free
    scope: {plan: free}
    unknown_price: allow
    limits:
      - {metric: requests, window: day, amount: 4, per: user}
      - {metric: requests, window: month, amount: 5, per: user}
      - {metric: requests, window: month, amount: 3, per: environment}
"""


@pytest.fixture
def api(prod: Environment) -> Api:
    apply_policies(prod, POLICIES.replace("amount: 3", "amount: 3000"))
    return Api(prod)


def look(client: Client, environment: Environment, **parameters: str) -> Any:
    answer = client.get(USERS, {"environment": str(environment), **parameters})
    assert answer.status_code == 200
    return answer


def callers(answer: Any) -> list[tuple[str, str]]:
    return [(row.caller.user_id, row.caller.plan) for row in answer.context["cl"].callers]


def test_who_called_lately_is_listed_though_nothing_is_stored(
    mia: Client, prod: Environment, api: Api
) -> None:
    set_end_user(prod, "ana", plan_name="free", blocked=False, actor="test")
    api.use("ana")
    api.use("ben", plan="free")
    api.use("cy")

    answer = look(mia, prod)

    assert callers(answer) == [("cy", ""), ("ben", "free")]
    assert [user.user_id for user in answer.context["cl"].result_list] == ["ana"]
    assert "from the latest 500 recorded and 500 blocked calls" in answer.content.decode()
    assert callers(look(mia, prod, q="b")) == [("ben", "free")]
    assert callers(look(mia, prod, blocked__exact="0")) == []


def test_the_tightest_limit_of_their_own_is_a_bar(mia: Client, prod: Environment, api: Api) -> None:
    for user, plan in (("ana", "free"), ("dot", None)):
        set_end_user(prod, user, plan_name=plan, blocked=False, actor="test")
    for _ in range(3):
        api.use("ana")
    api.use("ben", plan="free")
    api.use("dot")

    answer = look(mia, prod)

    text = answer.content.decode()
    assert "3 of 4 requests a day" in text
    assert "1 of 10 requests a day" in text
    (ben,) = answer.context["cl"].callers
    assert "1 of 4 requests a day" in ben.tightest
    assert text.count('role="img"') == 3


def test_a_user_who_used_up_a_limit_is_not_said_to_be_free_to_call(
    mia: Client, prod: Environment, api: Api
) -> None:
    set_end_user(prod, "ana", plan_name="free", blocked=False, actor="test")
    for used in range(1, 5):
        api.use("ana")
        text = look(mia, prod).content.decode()
        assert ("At a limit" in text, "May call" in text) == (used == 4, used < 4), used
    apply_policies(prod, POLICIES.replace("scope: {plan: free}", "scope: {plan: free}\n    mode: monitor"))
    assert "May call" in look(mia, prod).content.decode()


def test_what_the_counters_lost_is_read_from_the_ledger(mia: Client, prod: Environment, api: Api) -> None:
    set_end_user(prod, "ana", plan_name="free", blocked=False, actor="test")
    for _ in range(3):
        api.use("ana")
    store.client.flushdb()
    assert (
        "3 of 4 requests a day; what calls in flight hold is not known yet"
        in look(mia, prod).content.decode()
    )


def test_the_list_costs_the_same_however_many_users_there_are(
    mia: Client, prod: Environment, api: Api
) -> None:
    def queries() -> int:
        look(mia, prod)
        with CaptureQueriesContext(connection) as captured:
            look(mia, prod)
        return len(captured)

    set_end_user(prod, "ana", plan_name="free", blocked=False, actor="test")
    api.use("ben")
    few = queries()
    EndUser.objects.bulk_create(EndUser(environment=prod, user_id=f"u{n}") for n in range(80))
    for n in range(8):
        api.use(f"other{n}")
    assert queries() == few


def test_an_empty_list_of_budgets_says_what_budgets_are(mia: Client, prod: Environment) -> None:
    text = mia.get(BUDGETS, {"environment": str(prod)}).content.decode()
    assert "A budget is a limit on cost per month" in text
    assert "is closed next, on" in text
    assert f"{reverse('admin:limits')}?metric=cost_usd" in text


def test_an_empty_search_does_not_say_that_there_is_nothing(mia: Client, prod: Environment) -> None:
    text = mia.get(BUDGETS, {"environment": str(prod), "q": "nobody"}).content.decode()
    assert "Nothing matches." in text
    assert "A budget is a limit" not in text
