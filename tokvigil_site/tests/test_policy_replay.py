"""Policy replay: what it says other policies would have done is what they do to the same traffic."""

from __future__ import annotations

import io
import json
import random
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from policies import boosts
from policies.blocked.decision_log import drain
from policies.end_users import block
from policies.models import BlockedDecision, Boost
from tenants.models import Environment, Tenant
from tokvigil_site.testing import Api, apply_policies, limits, set_price
from usage.counting.store import store
from usage.models import UsageEvent
from usage.settling.expiry import settle_expired

pytestmark = pytest.mark.django_db(transaction=True)

OPEN = "policies:\n  - {name: Everyone}\n"
CANDIDATES = {
    "requests": limits("{metric: requests, window: day, amount: 2, per: user}"),
    "money": limits(
        "{metric: cost_usd, window: month, amount: '0.004', per: user}",
        "{metric: cost_usd, window: day, amount: '0.3', per: environment}",
    ),
    "tokens": limits(
        "{metric: tokens, window: total, amount: 3000, per: user_feature}",
        "{metric: output_tokens, window: week, amount: 9000, per: feature}",
    ),
    "models": limits(
        "{metric: input_tokens, window: day, amount: 60000, per: plan}",
        models="{deny: ['claude-*']}",
        per_request="{input_tokens: 1200}",
    ),
}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Calls as a trace has them."""
    chance = random.Random(7)
    rows = [
        f"2023-11-16 18:{minute:02}:{second:02}.000,{chance.randint(1, 1500)},{chance.randint(1, 500)}"
        for minute in range(10)
        for second in range(0, 60, 2)
    ]
    file = tmp_path / "trace.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return file


def live(environment: Environment, trace: Path) -> None:
    call_command("replay_trace", str(trace), str(environment), "--parallel", "1", stdout=io.StringIO())
    drain(environment)


def simulated(environment: Environment, tmp_path: Path, text: str, *options: str) -> dict[str, Any]:
    file = tmp_path / "candidate.yaml"
    file.write_text("version: 1\n" + text)
    out = io.StringIO()
    call_command("simulate_policies", str(environment), str(file), "--json", *options, stdout=out)
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def prices() -> None:
    set_price("gpt-4o-mini", input_usd="0.15", output_usd="0.60")
    set_price("gpt-4o", input_usd="2.50", output_usd="10")
    set_price("claude-haiku-4-5", input_usd="1", output_usd="5")


def other(slug: str) -> Environment:
    return Tenant.create_with_environments(slug, timezone="Europe/Berlin").environments.get(slug="prod")


def test_a_replay_blocks_what_live_traffic_under_the_same_policies_is_blocked(
    environment: Environment, trace: Path, tmp_path: Path
) -> None:
    prices()
    apply_policies(environment, OPEN)
    live(environment, trace)
    assert not BlockedDecision.objects.filter(environment=environment).exists()

    for name, text in CANDIDATES.items():
        report = simulated(environment, tmp_path, text)
        lived = other(f"live-{name}")
        apply_policies(lived, text)
        live(lived, trace)
        blocked = BlockedDecision.objects.filter(environment=lived)
        calls = report["calls"]
        assert (name, calls["newly_blocked"], calls["replayed"]) == (name, blocked.count(), 300)
        assert calls["unchanged"] == 300 - calls["newly_blocked"]
        assert 0 < calls["newly_blocked"] < 300, name
        assert {reason["reason_code"]: reason["calls"] for reason in report["reasons"]} == {
            code: blocked.filter(reason_code=code).count()
            for code in blocked.values_list("reason_code", flat=True).distinct()
        }
        assert report["users"]["newly_blocked"] == blocked.values("user_id").distinct().count()
        by_feature = {
            each["feature"]: (each["newly_blocked"], each["newly_blocked_users"])
            for each in report["features"]
        }
        assert len(by_feature) > 1, name
        assert by_feature == {
            feature or None: (rows.count(), rows.values("user_id").distinct().count())
            for feature in blocked.values_list("feature", flat=True).distinct()
            for rows in [blocked.filter(feature=feature)]
        }


def test_the_same_replay_gives_the_same_report(environment: Environment, trace: Path, tmp_path: Path) -> None:
    prices()
    apply_policies(environment, OPEN)
    live(environment, trace)
    period = ("--from", "2020-01-01", "--to", "2030-01-01")
    first = simulated(environment, tmp_path, CANDIDATES["money"], *period)
    assert first == simulated(environment, tmp_path, CANDIDATES["money"], *period)


def test_looser_policies_let_blocked_calls_pass_until_they_are_used_up(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    api.use("ana")
    for _ in range(4):
        api.evaluate("ana")
    drain(environment)

    report = simulated(environment, tmp_path, limits("{metric: requests, window: day, amount: 3, per: user}"))

    assert report["calls"] == {
        "replayed": 5,
        "unchanged": 3,
        "newly_blocked": 0,
        "newly_allowed": 2,
        "undecidable": 0,
    }
    difference = report["differences"][0]
    assert difference["before"]["reason_code"] == "DAILY_REQUEST_LIMIT_EXCEEDED"
    assert difference["after"]["allowed"]


def test_a_call_that_is_blocked_uses_up_nothing(environment: Environment, api: Api, tmp_path: Path) -> None:
    """The large call does not fit, so the small ones after it do: each call alone would say otherwise."""
    apply_policies(environment, OPEN.replace("Everyone", "Everyone, unknown_price: allow"))
    for tokens in (60, 60, 20, 20, 20):
        api.use("ana", input_tokens=tokens)
    report = simulated(environment, tmp_path, limits("{metric: tokens, window: day, amount: 100, per: user}"))
    assert report["calls"]["newly_blocked"] == 2
    assert [hit["calls"] for hit in report["first_hits"]] == [2]


def test_what_calls_cost_is_what_the_ledger_charged_and_those_without_a_rate_are_said(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    """Each quantity at its own rate; of a call that used what has none, the rest is in the sum."""
    price = set_price("speaker", input_usd="4")
    price.other_rates = {"web_searches": "10"}
    price.save()
    set_price("free")
    used = {"input_tokens": 1_000, "output_tokens": 0}
    for name, model, quantities in (
        ("searched", "speaker", {"web_searches": 2}),
        ("images", "speaker", {"images": 1}),
        ("free", "free", {}),
        ("unknown", "nobody-sells-this", {}),
    ):
        assert api.report(name, "ana", model, quantities=quantities, **used).status == 201
    report = simulated(environment, tmp_path, limits("{metric: requests, window: day, amount: 0, per: user}"))
    charged = {event["request_id"]: event["cost_usd"] for event in api.get("/v1/usage").json["events"]}
    assert charged == {"searched": "0.024", "images": "0.004", "free": "0.00", "unknown": None}
    assert {each["request_id"]: each["cost_usd"] for each in report["differences"]} == charged
    assert report["cost_usd"] == {
        "made": "0.028", "newly_blocked": "0.028", "newly_allowed_at_most": "0.00", "unpriced": 2,
    }  # fmt: skip


def test_calls_that_are_left_less_output_than_they_produced_are_counted(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    apply_policies(environment, OPEN.replace("Everyone", "Everyone, unknown_price: allow"))
    for tokens in (10, 500, 501):
        api.use("ana", max_output_tokens=tokens)
    cap = "policies: [{{name: Everyone, unknown_price: allow, per_request: {{output_tokens: {}}}}}]"
    reports = [simulated(environment, tmp_path, cap.format(most)) for most in (500, 499, 10)]
    assert [(each["calls"]["unchanged"], each["cut_short"]) for each in reports] == [(3, 1), (3, 2), (3, 2)]


def test_a_policy_that_is_in_force_as_it_is_replayed_is_named_with_its_version(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    apply_policies(environment, OPEN.replace("Everyone", "Everyone, unknown_price: allow"))
    api.use("ana")
    api.use("ana")
    one, none = (limits(f"{{metric: requests, window: day, amount: {most}, per: user}}") for most in (1, 0))
    apply_policies(environment, one)
    versions = [
        {each["after"]["policy_version"] for each in simulated(environment, tmp_path, text)["differences"]}
        for text in (one, none)
    ]
    assert versions == [{2}, {None}], "no version says that there are none"


def test_what_the_staff_or_an_outage_blocked_is_not_put_down_to_policies(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 9, per: user}"))
    block(environment, "ana", "Abuse", actor="test")
    api.evaluate("ana")
    drain(environment)
    BlockedDecision.objects.create(
        environment=environment,
        stream_id="x",
        decided_at=BlockedDecision.objects.get().decided_at,
        request_id="r",
        user_id="ben",
        model="test-model",
        reason_code="DEGRADED_BLOCKED",
        reason_class="degraded",
        message="",
        limit_state=[],
    )
    report = simulated(environment, tmp_path, OPEN)
    assert (report["calls"]["unchanged"], report["calls"]["undecidable"]) == (1, 1)
    assert report["undecidable"] == {"the counters could not be read": 1}


def test_a_repeat_of_a_call_that_passes_at_first_is_left_out(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 0, per: user}"))
    for _ in range(3):
        api.evaluate("ana", request_id="again")
    drain(environment)
    apply_policies(environment, limits("{metric: requests, window: day, amount: 5, per: user}"))
    api.use("ana", request_id="again")

    report = simulated(environment, tmp_path, limits("{metric: requests, window: day, amount: 1, per: user}"))

    assert report["calls"]["newly_allowed"] == 1
    assert report["calls"]["newly_blocked"] == 0
    assert report["retries_left_out"] == 1


def test_replaying_what_was_in_force_reproduces_what_was_decided(
    environment: Environment, trace: Path, tmp_path: Path
) -> None:
    """Policies that changed in the period too."""
    prices()
    for text in (OPEN, *CANDIDATES.values()):
        apply_policies(environment, text)
        live(environment, trace)
    check = simulated(environment, tmp_path, OPEN, "--check")["self_check"]
    assert check == {"compared": 1500, "same": 1500, "differing": 0, "why": {}}


def test_what_a_replay_cannot_know_is_counted_by_its_reason(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    apply_policies(environment, limits("{metric: tokens, window: day, amount: 100, per: user}"))
    api.report("never-asked", "ben", input_tokens=500)
    held = api.evaluate("ana", input_tokens=1, max_output_tokens=90)
    assert not api.evaluate("ana", input_tokens=20)["allowed"]
    api.report(held["request_id"], "ana", output_tokens=2)
    drain(environment)
    # Another version recorded the limits in a way that is not known here.
    BlockedDecision.objects.update(limit_state=[{"metric": "tokens"}])

    check = simulated(environment, tmp_path, OPEN, "--check")["self_check"]

    assert check["same"] == 1
    assert check["why"] == {
        "blocked by what calls in flight held, which was more than they used in the end": 1,
        "reported without a policy having allowed it": 1,
    }


@pytest.mark.parametrize(
    ("limit", "raised"),
    [
        ("{metric: tokens, window: day, amount: 100, per: user}", "amount: 200"),
        ("{metric: cost_usd, window: month, amount: '0.0001', per: user}", "amount: '0.0002'"),
        ("{metric: concurrency, window: total, amount: 1, per: user}", "amount: 2"),
    ],
)
def test_what_calls_in_flight_held_stands_against_a_call_in_a_replay_too(
    environment: Environment, api: Api, tmp_path: Path, limit: str, raised: str
) -> None:
    """The first call holds more than it uses in the end, and ends before the second one is asked for again."""
    set_price("test-model", input_usd="1", output_usd="1")
    apply_policies(environment, limits(limit))
    held = api.evaluate("ana", input_tokens=1, max_output_tokens=90)
    assert not api.evaluate("ana", input_tokens=20, max_output_tokens=1)["allowed"]
    api.report(held["request_id"], "ana", output_tokens=2)
    drain(environment)
    BlockedDecision.objects.update(decided_at=timezone.now())

    same = simulated(environment, tmp_path, limits(limit), "--check")
    higher = simulated(environment, tmp_path, limits(re.sub(r"amount: [^,]+", raised, limit)))

    assert same["calls"]["unchanged"] == 2
    assert same["self_check"]["differing"] == 0
    assert (higher["calls"]["unchanged"], higher["calls"]["newly_allowed"]) == (1, 1)


def test_what_was_used_before_the_period_counts_in_windows_that_began_before(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    apply_policies(environment, OPEN.replace("Everyone", "Everyone, unknown_price: allow"))
    for _ in range(3):
        api.use("ana")
    begin = timezone.now().isoformat()
    api.use("ana")
    api.use("ben")
    of_total = limits("{metric: requests, window: total, amount: 3, per: user}")

    report = simulated(environment, tmp_path, of_total, "--from", begin)

    assert report["calls"]["replayed"] == 2
    assert [hit["user_id"] for hit in report["first_hits"]] == ["ana"]


def test_a_boost_counts_while_it_ran(environment: Environment, api: Api, tmp_path: Path) -> None:
    apply_policies(environment, limits("{metric: requests, window: day, amount: 1, per: user}"))
    boost = Boost(
        environment=environment,
        per="user",
        subject="ana",
        metric="requests",
        window="day",
        extra=1,
        ends_at=timezone.now() + timedelta(hours=1),
        reason="A pilot",
    )
    boosts.give(boost, actor="test")
    api.use("ana")
    api.use("ana")
    api.use("ben")
    api.evaluate("ben")
    drain(environment)
    report = simulated(
        environment, tmp_path, limits("{metric: requests, window: day, amount: 1, per: user}"), "--check"
    )
    assert report["calls"]["unchanged"] == 4
    assert report["self_check"]["same"] == 4


def test_a_call_whose_estimate_was_charged_first_is_one_call(
    environment: Environment, api: Api, tmp_path: Path
) -> None:
    apply_policies(
        environment,
        limits("{metric: tokens, window: day, amount: 1000, per: user}", on_unsettled="charge"),
    )
    held = api.evaluate("ana", input_tokens=100)
    store.clock_offset_ms = 11 * 60_000
    settle_expired(environment)
    api.report(held["request_id"], "ana", input_tokens=60)
    assert UsageEvent.objects.filter(environment=environment).count() == 3

    report = simulated(
        environment,
        tmp_path,
        limits("{metric: tokens, window: day, amount: 70, per: user}"),
        *("--from", "2020-01-01", "--to", "2100-01-01"),
    )

    assert report["calls"]["replayed"] == 1
    assert report["calls"]["newly_blocked"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--from", "yesterday"), "--from: 'yesterday' is neither a date"),
        (("--to", "2026-11-01T08:00:00"), "--to: '2026-11-01T08:00:00' is neither a date"),
        (("--from", "2026-11-02", "--to", "2026-11-01"), "--to must be after --from"),
        (("--from", "9999-12-31"), "must lie between 1970 and 9998"),
    ],
)
def test_a_period_that_cannot_be_read_is_refused(
    environment: Environment, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    with pytest.raises(CommandError) as refused:
        simulated(environment, tmp_path, OPEN, *options)
    assert says in str(refused.value)


def test_a_period_without_calls_is_an_empty_report(environment: Environment, tmp_path: Path) -> None:
    report = simulated(environment, tmp_path, OPEN)
    assert report["calls"]["replayed"] == 0
    assert report["period"]["first_call_at"] is None
