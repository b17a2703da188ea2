"""What people read in the audit log of each kind of change: sentences, without names of fields and without ids."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils import timezone

from audit import wording
from audit.models import Entry

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
FRIDAY = "2026-11-27T22:59:59+00:00"
BOOST = {"per": "user", "subject": "ben", "metric": "requests", "window": "day", "extra": "20.000000000"}
ENDS = {"starts_at": None, "ends_at": FRIDAY, "reason": "A pilot."}


def said(action: str, name: str, **data: Any) -> str:
    entry = Entry(at=NOW, actor="admin:mia", action=action, target_name=name, data=data)
    with timezone.override("Europe/Berlin"):
        return str(wording.sentence(entry)).removeprefix("mia ")


def change(**values: tuple[object, object]) -> dict[str, Any]:
    return {name: {"before": before, "after": after} for name, (before, after) in values.items()}


def test_a_frozen_feature_is_not_a_frozen_environment() -> None:
    one, two = change(frozen_features=([], ["summarize"])), change(frozen_features=(["a"], ["a", "b", "c"]))
    assert said("environment.frozen", "demo/run-1", changes=one, reason="It runs away.") == (
        "froze feature summarize in demo/run-1: It runs away."
    )
    assert said("environment.frozen", "demo/run-1", changes=two) == "froze features b, c in demo/run-1"
    whole = change(frozen=(False, True), frozen_features=([], ["chat"]))
    assert said("environment.frozen", "demo/run-1", changes=whole) == (
        "froze all calls and feature chat in demo/run-1"
    )


def test_what_is_unfrozen_is_named_too_also_beside_what_is_frozen() -> None:
    changes = change(frozen_features=(["summarize"], []))
    assert said("environment.unfrozen", "demo/run-1", changes=changes) == (
        "unfroze feature summarize in demo/run-1"
    )
    assert said("environment.unfrozen", "demo/run-1", changes=change(frozen=(True, False))) == (
        "unfroze all calls in demo/run-1"
    )
    assert said("environment.frozen", "demo/run-1", changes=change(frozen_features=(["a"], ["b"]))) == (
        "froze feature b and unfroze feature a in demo/run-1"
    )


@pytest.mark.parametrize(
    ("boost", "sentence"),
    [
        (BOOST, "gave ben 20 more requests a day in prod until Fri 27 Nov 23:59 CET: A pilot."),
        (
            BOOST | {"per": "plan", "subject": "pro", "metric": "cost_usd", "window": "month", "extra": "5"},
            "gave the plan pro $5.00 more a month in prod until Fri 27 Nov 23:59 CET: A pilot.",
        ),
        (
            BOOST | {"per": "environment", "subject": "", "metric": "concurrency", "extra": "1"},
            "gave everybody together 1 more call at once in prod until Fri 27 Nov 23:59 CET: A pilot.",
        ),
        (
            BOOST | {"starts_at": "2026-11-26T08:00:00+00:00"},
            "gave ben 20 more requests a day in prod from Thu 26 Nov 09:00 CET until Fri 27 Nov 23:59 CET: A pilot.",
        ),
    ],
)
def test_a_boost_says_whom_it_gives_what_until_when_and_why(boost: dict[str, Any], sentence: str) -> None:
    assert said("boost.given", "20 requests for user ben", environment="prod", **ENDS | boost) == sentence


def test_a_boost_that_is_ended_says_which() -> None:
    name = "20 requests for user ben"
    assert said("boost.ended", name, environment="prod", **BOOST) == (
        "ended the boost of 20 more requests a day for ben in prod"
    )


@pytest.mark.parametrize(
    ("action", "data", "sentence"),
    [
        (
            "api_key.rotated",
            {"old_ends_at": FRIDAY},
            "rotated the API key web in prod; the old secret ends Fri 27 Nov 23:59 CET",
        ),
        (
            "api_key.rotated",
            {"old_ends_at": None},
            "rotated the API key web in prod; the old secret ended at once",
        ),
        (
            "api_key.old_secret_ended",
            {"would_end_at": FRIDAY},
            "ended the old secret of the API key web in prod; it would have ended Fri 27 Nov 23:59 CET",
        ),
        ("api_key.revoked", {}, "revoked the API key web in prod"),
        (
            "api_key.issued",
            {"scopes": ["usage:read", "policies:read"], "expires_at": FRIDAY},
            "issued the API key web in prod: rights: Viewer; expires Fri 27 Nov 23:59 CET",
        ),
        (
            "api_key.issued",
            {"scopes": ["evaluate"], "expires_at": None},
            "issued the API key web in prod: rights: ask before calls",
        ),
        (
            "api_key.changed",
            {"changes": change(scopes=(["evaluate"], ["usage:read", "policies:read"]), name=("a", "web"))},
            "changed the API key web in prod: rights: ask before calls → Viewer; name a → web",
        ),
    ],
)
def test_an_api_key_goes_by_its_name(action: str, data: dict[str, Any], sentence: str) -> None:
    assert said(action, "web (SBXUjjnjiH3U)", environment="prod", **data) == sentence


@pytest.mark.parametrize(
    ("action", "name", "data", "sentence"),
    [
        (
            "end_user.changed",
            "ben",
            {"changes": change(blocked=(False, True), blocked_reason=(None, "A stolen card."))},
            "blocked the end user ben: A stolen card.",
        ),
        (
            "end_user.changed",
            "ben",
            {"changes": change(blocked=(False, True), plan=(None, "free"))},
            "blocked the end user ben: and changed the plan: none → free",
        ),
        (
            "end_user.changed",
            "ben",
            {"changes": change(plan=("free", "pro"))},
            "put the end user ben on the plan pro: before: free",
        ),
        (
            "end_user.changed",
            "ben",
            {"changes": change(plan=("free", None))},
            "took the end user ben off the plan free",
        ),
        (
            "end_user.removed",
            "ben",
            {"plan": "free", "blocked": True},
            "removed the end user ben: was on the plan free; was blocked",
        ),
        (
            "policy.added",
            "Free",
            {"version": 1, "changes": {"mode": {"before": "enforce", "after": "monitor"}}},
            "published the new policy Free: mode: monitor",
        ),
        (
            "policy.rolled_back",
            "Free",
            {
                "version": 4,
                "restores": 2,
                "changes": {"priority": {"before": "0", "after": ""}},
                "note": "Too tight",
            },
            "rolled Free back to version 2: priority: no longer 0; Too tight",
        ),
        (
            "alert_rule.added",
            "Budgets",
            {
                "event": "limit.threshold",
                "thresholds": [80, 100],
                "policy": None,
                "metric": "",
                "active": True,
            },
            "added the alert rule Budgets: fires when: a limit or budget reaches a threshold; at 80, 100 %",
        ),
        (
            "alert_endpoint.added",
            "Hook",
            {"kind": "email", "place": "ops@example.com", "events": ["model.unpriced"]},
            "added the alert endpoint Hook: by email to ops@example.com; for: calls of a model that has no price",
        ),
        (
            "alert_endpoint.rotated",
            "Hook",
            {"environment": "prod", "old_signs_until": FRIDAY},
            "rotated the signing secret of the alert endpoint Hook in prod; the old secret signs until "
            "Fri 27 Nov 23:59 CET",
        ),
        (
            "price.added",
            "openai/gpt-4o from 2026-01-01",
            {"provider": "openai", "input_per_million": "2.5", "reason": "Our contract"},
            "added the price openai/gpt-4o from 2026-01-01: $2.5 a million input tokens; Our contract",
        ),
        (
            "price.changed",
            "openai/gpt-4o from 2026-01-01",
            {"changes": change(cached_input_per_million=(None, "1"), active=(True, False))},
            "changed the price openai/gpt-4o from 2026-01-01: a million cached input tokens: none → $1; switched off",
        ),
        (
            "price.loaded",
            "genai-prices 1",
            {"added": 3, "changed": 0, "switched_off": 1},
            "loaded the shared prices of genai-prices 1: 3 added, 1 switched off",
        ),
        (
            "replay.asked",
            "the policies in force",
            {"period": "2026-11-24T23:00:00.5+00:00 to 2026-11-25T23:00:00.5+00:00"},
            "asked what the policies in force would have decided: calls from Wed 25 Nov 00:00 CET to "
            "Thu 26 Nov 00:00 CET",
        ),
        (
            "month.closed",
            "demo/run-1",
            {"month": "2026-10", "budgets": 1, "exceeded": 1},
            "closed 2026-10 of demo/run-1: 1 budget, 1 exceeded",
        ),
        (
            "environment.changed",
            "demo/run-1",
            {"changes": change(default_action=("allow", "block"))},
            "changed the environment demo/run-1: calls that no override policy matches are blocked now, "
            "no longer allowed",
        ),
        (
            "membership.changed",
            "ann",
            {"member": "ann", "role": "owner", "changes": change(role=("viewer", "owner"))},
            "changed the role of ann from viewer to owner",
        ),
        ("user.password_changed", "ann", {"usable": False}, "took the password of ann away"),
        (
            "view.saved",
            "Spend",
            {"query": "show=cost", "shared": False},
            "saved the view Spend: for themselves alone",
        ),
        (
            "audit.exported",
            "acme",
            {"format": "jsonl", "filters": {"Tenant": "7", "Who": "bob"}},
            "exported the audit log of acme as JSON Lines: who bob",
        ),
    ],
)
def test_every_kind_of_change_has_words(action: str, name: str, data: dict[str, Any], sentence: str) -> None:
    assert said(action, name, **data) == sentence


def test_re_priced_calls_say_how_many_of_when_and_by_how_much() -> None:
    data = {
        "days": "2026-11-01 to 2026-11-30",
        "calls": 12,
        "difference_usd": "-0.25",
        "models": [],
        "run": "r",
    }
    assert said("usage.repriced", "acme/prod", **data) == (
        "began to re-price 12 calls of acme/prod 2026-11-01 to 2026-11-30: by −$0.25 in all"
    )
