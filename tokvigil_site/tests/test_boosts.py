"""Boosts, from giving one to the decisions that it changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from audit.models import Entry
from policies import boosts
from policies.deciding import evaluation
from policies.models import Boost
from tenants.models import Environment
from tokvigil_site.testing import Api, apply_policies, at_once, limits, set_price
from usage.counting import reserve
from usage.counting.store import store
from usage.instants import to_ms

FILE = limits(
    "{metric: requests, window: day, amount: 1, per: user}",
    "{metric: requests, window: day, amount: 100, per: feature}",
    "{metric: requests, window: day, amount: 100, per: environment}",
)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def policies(environment: Environment) -> None:
    apply_policies(environment, FILE)


def give(environment: Environment, per: str = "user", subject: str = "anna", **fields: Any) -> Boost:
    values = {
        "metric": "requests",
        "window": "day",
        "extra": Decimal(2),
        "reason": "Trial week",
        "ends_at": timezone.now() + HOUR,
    } | fields
    return boosts.give(Boost(environment=environment, per=per, subject=subject, **values), actor="admin:bo")


def allowed(api: Api, user: str = "anna", **fields: Any) -> bool:
    return bool(api.evaluate(user, **fields)["allowed"])


@pytest.fixture(params=["same process", "another process"])
def elsewhere(request: pytest.FixtureRequest) -> Any:
    """Between a boost and the call: nothing, or a process that has heard of nothing."""
    return evaluation.forget_all if request.param == "another process" else lambda: None


def test_a_boost_of_a_user_binds_the_very_next_call(
    api: Api, environment: Environment, elsewhere: Any
) -> None:
    assert [allowed(api) for _ in range(2)] == [True, False]
    given = give(environment)
    elsewhere()
    assert [allowed(api) for _ in range(3)] == [True, True, False]
    assert [allowed(api, "bo") for _ in range(2)] == [True, False]

    assert boosts.end_now(given.pk, environment, actor="admin:bo")
    elsewhere()
    assert not allowed(api)


@pytest.mark.parametrize(("per", "subject"), [("feature", "chat"), ("environment", "")])
def test_a_shared_boost_binds_the_very_next_call(
    api: Api, environment: Environment, per: str, subject: str, elsewhere: Any
) -> None:
    def limit() -> Any:
        states = api.evaluate(feature="chat", dry_run=True)["limit_state"]
        (found,) = (state for state in states if state["per"] == per)
        return found["limit"], found.get("boosted_by")

    assert limit() == (100, None)
    given = give(environment, per, subject)
    elsewhere()
    assert limit() == (102, 2)
    boosts.end_now(given.pk, environment, actor="admin:bo")
    elsewhere()
    assert limit() == (100, None)


@pytest.mark.parametrize(("per", "subject"), [("user", "anna"), ("environment", "")])
def test_when_a_boost_is_over_nothing_has_to_be_written(
    api: Api, environment: Environment, per: str, subject: str
) -> None:
    apply_policies(environment, limits(f"{{metric: requests, window: total, amount: 1, per: {per}}}"))
    give(environment, per, subject, window="total")
    for _ in range(2):
        api.use("anna")
    store.clock_offset_ms = 2 * 3600 * 1000
    assert not allowed(api)


@pytest.mark.parametrize(("per", "subject"), [("user", "anna"), ("environment", "")])
def test_a_process_whose_clock_is_behind_cannot_use_a_boost_that_is_over(
    api: Api, environment: Environment, per: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_policies(environment, limits(f"{{metric: requests, window: total, amount: 1, per: {per}}}"))
    give(environment, per, subject, window="total")
    for _ in range(2):
        api.use("anna")
    behind = store.now_ms()
    store.clock_offset_ms = 2 * 3600 * 1000
    monkeypatch.setattr(store, "now_ms", lambda: behind)
    assert not allowed(api)


@pytest.mark.parametrize(("per", "subject"), [("user", "anna"), ("environment", "")])
def test_the_store_refuses_what_was_prepared_with_a_boost_from_its_end_on(
    api: Api, environment: Environment, per: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = give(environment, per, subject, ends_at=timezone.now() + timedelta(seconds=20))
    asked: list[reserve.Request] = []
    real = reserve.reserve

    def heard(request: reserve.Request) -> reserve.Answer:
        asked.append(request)
        return real(request)

    monkeypatch.setattr(reserve, "reserve", heard)
    assert allowed(api)
    assert asked[-1].right_until_ms == to_ms(given.ends_at)


def test_a_boost_begins_at_its_start(api: Api, environment: Environment) -> None:
    give(environment, starts_at=timezone.now() + HOUR, ends_at=timezone.now() + 3 * HOUR, window="total")
    apply_policies(environment, limits("{metric: requests, window: total, amount: 1, per: user}"))
    api.use("anna")
    assert not allowed(api)
    store.clock_offset_ms = 2 * 3600 * 1000
    assert allowed(api)


def test_a_thousand_parallel_calls_use_a_boosted_limit_up_and_no_more(
    api: Api, environment: Environment
) -> None:
    give(environment, extra=Decimal(9))
    assert sum(at_once(100, lambda _: allowed(api))) == 10


def test_a_cost_is_raised_in_usd(api: Api, environment: Environment) -> None:
    set_price("test-model", input_usd="1")
    apply_policies(environment, limits("{metric: cost_usd, window: day, amount: '0.000001', per: user}"))
    give(environment, metric="cost_usd", extra=Decimal("0.000002"))
    (state,) = api.evaluate("anna")["limit_state"]
    assert (state["limit"], state["boosted_by"]) == ("0.000003", "0.000002")


def test_the_meter_shows_the_limit_in_force_and_what_boosts_add(api: Api, environment: Environment) -> None:
    give(environment)
    states = api.get("/v1/limits?user_id=anna").json["limit_state"]
    assert [(state["per"], state["limit"], state.get("boosted_by")) for state in states] == [
        ("user", 3, 2),
        ("environment", 100, None),
    ]


def test_giving_and_ending_are_audited(environment: Environment) -> None:
    given = give(environment)
    assert boosts.end_now(given.pk, environment, actor="admin:eve")
    assert not boosts.end_now(given.pk, environment, actor="admin:eve")
    entries = Entry.objects.filter(action__startswith="boost.").order_by("id")
    assert [(entry.action, entry.actor) for entry in entries] == [
        ("boost.given", "admin:bo"),
        ("boost.ended", "admin:eve"),
    ]
    assert entries[0].data["reason"] == "Trial week"


@pytest.mark.parametrize(("field", "fields"), [
    ("ends_at", {"ends_at": datetime(2020, 1, 1, tzinfo=UTC)}),
    ("ends_at", {"ends_at": datetime(2200, 1, 1, tzinfo=UTC)}),
    ("ends_at", {"starts_at": datetime(2100, 1, 2, tzinfo=UTC), "ends_at": datetime(2100, 1, 1, tzinfo=UTC)}),
    ("extra", {"extra": Decimal(0)}),
    ("extra", {"extra": Decimal("1.5")}),
    ("extra", {"extra": Decimal("NaN")}),
    ("extra", {"metric": "cost_usd", "extra": Decimal(9_000_001)}),
    ("reason", {"reason": " "}),
    ("subject", {"subject": ""}),
    ("subject", {"per": "environment", "subject": "x"}),
    ("subject", {"per": "plan", "subject": "unheard-of"}),
    ("subject", {"subject": "u" * 256}),
    ("subject", {"subject": "a\x00b"}),
    ("per", {"per": "run", "subject": "r1"}),
    ("metric", {"metric": "calls"}),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_by_its_field(
    environment: Environment, field: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as error:
        give(environment, **fields)
    assert list(error.value.message_dict) == [field]
    assert not Boost.objects.exists()


def test_boosts_are_bounded(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosts, "USER_MAX", 1)
    monkeypatch.setattr(boosts, "SHARED_MAX", 1)
    give(environment)
    give(environment, "feature", "chat")
    give(environment, subject="bo")
    for per, subject in (("user", "anna"), ("environment", "")):
        with pytest.raises(ValidationError, match="end one first"):
            give(environment, per, subject)


def test_another_environments_boost_cannot_be_ended(
    environment: Environment, other_environment: Environment
) -> None:
    given = give(environment)
    assert not boosts.end_now(given.pk, other_environment, actor="admin:eve")
