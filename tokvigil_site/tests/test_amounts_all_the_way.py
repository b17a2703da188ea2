"""One call's amounts, from the question to every place where they are said.

All are different numbers, so that one that is taken for another is seen.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policies.deciding.evaluation import HOLD_MS
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, assert_settled, later, ledger, limits, set_price
from usage.amounts import Amounts, Pair, Per, Subjects
from usage.counting.distrust import distrust
from usage.counting.reservations import amounts_of
from usage.counting.store import store
from usage.ledger import subject_sums
from usage.limit_state import present
from usage.metrics import COLUMNS, METRICS, WINDOWED, Metric
from usage.money import format_usd
from usage.settling import expiry
from usage.tests.rolling import roll_all
from usage.tests.test_counters import standing
from usage.windows import Window

USER = Subjects(user_id="ann")
EVER = Pair(Per.USER, Window.TOTAL)
# USD per million tokens.
INPUT_USD, OUTPUT_USD = 2, 3
ASKED = Amounts(
    requests=1, input_tokens=101, output_tokens=211, cost_nano=1000 * (101 * INPUT_USD + 211 * OUTPUT_USD)
)
USED = Amounts(
    requests=1, input_tokens=83, output_tokens=151, cost_nano=1000 * (83 * INPUT_USD + 151 * OUTPUT_USD)
)
NOTHING = Amounts()
A_DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def everything_limited(environment: Environment) -> None:
    set_price("test-model", input_usd=str(INPUT_USD), output_usd=str(OUTPUT_USD))
    rows = [
        f"{{metric: {row.metric}, window: total, amount: {1_000_000 + place}, per: user}}"
        for place, row in enumerate(WINDOWED)
    ]
    apply_policies(environment, limits(*rows, on_unsettled="charge"))


def evaluate(api: Api) -> dict[str, Any]:
    return api.evaluate(
        "ann", request_id="r-1", input_tokens=ASKED.input_tokens, max_output_tokens=ASKED.output_tokens
    )


def report(api: Api) -> dict[str, Any]:
    answer = api.report("r-1", "ann", input_tokens=USED.input_tokens, output_tokens=USED.output_tokens)
    assert answer.status == 201, answer
    receipt: dict[str, Any] = answer.json
    return receipt


def said(amounts: Amounts) -> dict[str, Any]:
    """As answers list them."""
    named = dict(zip(COLUMNS, amounts, strict=True))
    cost_nano = named.pop("cost_nano")
    return {**named, "cost_usd": format_usd(cost_nano)}


def of_limits(states: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return {state["metric"]: state[name] for state in states}


def of_metrics(amounts: Amounts) -> dict[str, Any]:
    """What each metric counts of them: the sum of the columns that the table names."""
    named = dict(zip(COLUMNS, amounts, strict=True))
    return {row.metric: present(row.metric, sum(named[column] for column in row.columns)) for row in WINDOWED}


def meter(api: Api) -> list[dict[str, Any]]:
    answer = api.get("/v1/limits?user_id=ann")
    assert answer.status == 200, answer
    states: list[dict[str, Any]] = answer.json["limit_state"]
    return states


def summary(api: Api) -> list[dict[str, Any]]:
    """The total and the only group."""
    answer = api.get("/v1/usage/summary?group_by=user").json
    (group,) = answer["groups"]
    assert group.pop("user_id") == "ann"
    return [answer["total"], group]


def summed_up(environment: Environment) -> Amounts:
    now = datetime.now(UTC)
    return subject_sums.of_subject(environment.pk, Per.USER, USER, now - A_DAY, now + A_DAY)[1]


def test_no_amount_can_be_taken_for_another() -> None:
    # But for `requests`, of which a call is always one.
    told_apart = [*list(ASKED)[1:], *list(USED)[1:]]
    assert len(set(told_apart)) == len(told_apart)
    assert all(told_apart)
    assert {row.metric for row in METRICS.values()} == {*of_metrics(USED), Metric.CONCURRENCY}


def test_what_is_asked_for_is_held(api: Api, environment: Environment) -> None:
    decision = evaluate(api)

    assert decision["reserved"] == said(ASKED)
    assert of_limits(decision["limit_state"], "held") == of_metrics(ASKED)
    assert of_limits(decision["limit_state"], "used") == of_metrics(NOTHING)
    assert of_limits(meter(api), "held") == of_metrics(ASKED)
    assert standing(environment, EVER, USER) == (NOTHING, ASKED)
    assert evaluate(api) == decision, "the stored assessment says the same"
    (kept,) = store.client.keys(f"tv:{{{environment.pk}}}:r:*")
    assert amounts_of(store.client.hget(kept, "am")) == ASKED


def test_what_is_reported_is_charged_and_listed_and_summed_up(api: Api, environment: Environment) -> None:
    evaluate(api)
    receipt = report(api)

    assert receipt["cost_usd"] == format_usd(USED.cost_nano)
    assert of_limits(receipt["limit_state"], "used") == of_metrics(USED)
    assert of_limits(receipt["limit_state"], "held") == of_metrics(NOTHING)
    assert of_limits(meter(api), "used") == of_metrics(USED)
    assert standing(environment, EVER, USER) == (USED, NOTHING)
    assert [row.amounts for row in ledger(environment)] == [USED]
    (listed,) = api.get("/v1/usage").json["events"]
    assert {name: listed[name] for name in said(USED)} == said(USED)
    expected = {**said(USED), "unpriced": 0, "quantities": {}}
    assert (summed_up(environment), summary(api)) == (USED, [expected, expected])
    roll_all(environment.pk)
    assert (summed_up(environment), summary(api)) == (USED, [expected, expected])
    assert_settled(environment)


def test_counters_that_are_rebuilt_say_the_same(api: Api, environment: Environment) -> None:
    evaluate(api)
    report(api)
    distrust(environment.pk)

    assert of_limits(meter(api), "used") == of_metrics(USED)
    assert standing(environment, EVER, USER) == (USED, NOTHING)


def test_what_expires_is_charged_as_held_and_taken_back_by_its_report(
    api: Api, environment: Environment
) -> None:
    evaluate(api)
    later(milliseconds=HOLD_MS + 1)
    assert expiry.settle_expired(environment) == (0, 1)
    assert standing(environment, EVER, USER) == (ASKED, NOTHING)
    roll_all(environment.pk)
    report(api)

    opposite = Amounts(*(-amount for amount in ASKED))
    assert {row.status: row.amounts for row in ledger(environment)} == {
        "unsettled": ASKED,
        "reversal": opposite,
        "succeeded": USED,
    }
    assert standing(environment, EVER, USER) == (USED, NOTHING)
    assert summary(api)[0] == {**said(USED), "unpriced": 0, "quantities": {}}
    roll_all(environment.pk)
    assert summary(api)[0] == {**said(USED), "unpriced": 0, "quantities": {}}
