"""A decision is obeyed, whatever else in the answer cannot be read."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import tokvigil
from tokvigil import Decision, TokVigil, Usage, UsageEvent, models

VERDICT = {"allowed", "reason_code", "request_id"}
OPTIONAL = [
    "reason_class",
    "message",
    "policy",
    "shadow",
    "limit_state",
    "retry_after",
    "estimated_cost_usd",
    "reserved",
    "expires_at",
    "max_output_tokens",
    "suggested_model",
    "degraded",
    "trace",
    *(f"policy.{name}" for name in ("id", "name", "version", "scope")),
    *(
        f"limit_state.{name}"
        for name in ("policy", "metric", "window", "per", "limit", "used", "held", "remaining", "resets_at")
    ),
    "limit_state.exceeded",
]
# As they stand in the JSON.
BROKEN = [
    "null",
    "true",
    "1.5",
    "-1e999999999999999999999",
    "1e99999999999",
    "1e-300000000",
    "0e300000000",
    '"1e300000000"',
    '{"held": 1e300000000, "output_tokens": 1e300000000}',
    "NaN",
    "9" * 400,
    "9" * 5000,
    '"soon"',
    '"~0.1"',
    '""',
    "[7]",
    "[[]]",
    '{"id": []}',
]
PLACE = "the broken one"


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_say_again_from", {})


def decide(control_plane: Any, wire: Any, path: str, broken: str) -> None:
    """From now on all calls are blocked, by an answer with this field broken."""
    control_plane.defaults["/v1/evaluate"] = lambda seen: wire.Answer(
        200, with_broken(wire.blocked(seen.body["request_id"]), path, broken)
    )


def with_broken(answer: dict[str, Any], path: str, broken: str) -> bytes:
    """The answer with one of its fields replaced."""
    part, _, name = path.rpartition(".")
    inner = answer[part] if part else answer
    inner = inner[0] if isinstance(inner, list) else inner
    assert name in inner
    inner[name] = PLACE
    return json.dumps(answer).replace(f'"{PLACE}"', broken).encode()


def test_the_list_of_optional_fields_is_whole(wire: Any) -> None:
    answer = wire.blocked()
    inner = {f"policy.{name}" for name in answer["policy"]}
    inner |= {f"limit_state.{name}" for name in answer["limit_state"][0]}
    assert set(OPTIONAL) == answer.keys() - VERDICT | inner


@pytest.mark.parametrize("on_unreachable", ["allow", "last_known"])
@pytest.mark.parametrize("path", OPTIONAL)
def test_a_block_stays_a_block_whatever_field_is_broken(
    control_plane: Any, wire: Any, path: str, on_unreachable: Any
) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url, on_unreachable=on_unreachable) as tv:
        for broken in BROKEN:
            decide(control_plane, wire, path, broken)
            decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini")
            assert not decision.allowed, broken
            assert len(json.dumps(decision.to_wire()) + repr(decision)) < 20_000
            assert (decision.reason_code, decision.request_id) == (
                "DAILY_REQUEST_LIMIT_EXCEEDED",
                control_plane.seen[-1].body["request_id"],
            )
    assert len(control_plane.calls("/v1/evaluate")) == len(BROKEN)


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("retry_after", {"retry_after": None}),
        ("estimated_cost_usd", {"estimated_cost_usd": None}),
        ("expires_at", {"expires_at": None}),
        ("policy", {"policy": None}),
        ("policy.name", {"policy": None}),
        ("limit_state", {"limit_state": ()}),
        ("limit_state.limit", {"limit_state": ()}),
        ("limit_state.metric", {"limit_state": ()}),
        ("message", {"message": ""}),
        ("reason_class", {"reason_class": "exhausted"}),
        ("degraded", {"degraded": False}),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(
    tv: TokVigil, control_plane: Any, wire: Any, caplog: pytest.LogCaptureFixture, path: str, left: Any
) -> None:
    decide(control_plane, wire, path, "[7]")
    decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini")
    assert {name: getattr(decision, name) for name in left} == left
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line == (
        f"in the decision on request {decision.request_id}, these fields cannot be read and are left out: {path}"
    )


def test_the_rest_of_a_part_stays(tv: TokVigil, control_plane: Any, wire: Any) -> None:
    answer = wire.blocked()
    answer["limit_state"][0] |= {"resets_at": "tomorrow", "per": 7, "exceeded": "yes", "held": []}
    answer["limit_state"] += ["a second one", {"metric": "tokens"}]
    answer["policy"]["version"] = "7a"
    control_plane.script("/v1/evaluate", wire.Answer(200, answer))
    decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini")
    (state,) = decision.limit_state
    assert (state.limit, state.used, state.held, state.remaining) == (50, 49, 0, 0)
    assert (state.resets_at, state.per, state.exceeded) == (None, "", False)
    assert decision.policy == tokvigil.PolicyRef(id="p1", name="Free plan", version=0, scope="plan")


@pytest.mark.parametrize("said", [{"metric": "tokens", "limit": 5, "used": 1, "remaining": 4}, [None]])
def test_parts_are_a_list_of_objects(wire: Any, caplog: pytest.LogCaptureFixture, said: Any) -> None:
    assert Decision.from_wire(wire.blocked() | {"limit_state": said}).limit_state == ()
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["limit_state"]


def test_a_field_is_named_once_a_minute_in_one_line_for_each_decision(
    monkeypatch: pytest.MonkeyPatch, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(models.time, "monotonic", lambda: now)
    broken = wire.blocked() | {"expires_at": "soon", "shadow": "dark"}
    for _ in range(3):
        Decision.from_wire(broken)
    Decision.from_wire(broken | {"trace": None, "retry_after": "soon"})
    now += models.SAY_EVERY_S
    Decision.from_wire(broken)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "expires_at, shadow",
        "retry_after",
        "expires_at, shadow",
    ]


def test_an_answer_that_is_whole_is_not_worth_a_line(
    tv: TokVigil, caplog: pytest.LogCaptureFixture, wire: Any
) -> None:
    Decision.from_wire(wire.decision("r"))
    Decision.from_wire({"allowed": False, "reason_code": "NEW", "request_id": "r"})
    assert caplog.records == []


@pytest.mark.parametrize("missing", sorted(VERDICT))
@pytest.mark.parametrize("broken", [None, 7, [], {}])
def test_without_its_verdict_its_reason_and_its_id_an_allow_is_no_decision(
    wire: Any, missing: str, broken: Any
) -> None:
    with pytest.raises(tokvigil.UnreachableError, match=missing):
        Decision.from_wire(wire.decision("r") | {missing: broken}, "r")


UNREADABLE_VERDICTS = [None, 7, [], {}, "", "maybe", 1, 1.0, "true", "1", "null", "blocked"]


@pytest.mark.parametrize("verdict", UNREADABLE_VERDICTS)
def test_an_answer_without_a_verdict_is_no_decision(wire: Any, verdict: Any) -> None:
    with pytest.raises(tokvigil.UnreachableError, match="allowed"):
        Decision.from_wire(wire.decision("r") | {"allowed": verdict}, "r")


@pytest.mark.parametrize("verdict", UNREADABLE_VERDICTS)
@pytest.mark.parametrize("unsaid", ["", "reason_code", "reason_class"])
def test_the_reason_of_a_block_is_a_verdict_too(wire: Any, verdict: Any, unsaid: str) -> None:
    block = wire.blocked("r") | {"allowed": verdict}
    block.pop(unsaid, None)
    assert not Decision.from_wire(block, "r").allowed


def test_a_block_about_no_request_is_about_the_one_that_was_asked(wire: Any) -> None:
    block = Decision.from_wire(wire.blocked("") | {"request_id": ""}, "r")
    assert (block.allowed, block.request_id) == (False, "r")
    with pytest.raises(tokvigil.UnreachableError, match="request_id"):
        Decision.from_wire(wire.decision("") | {"request_id": ""}, "r")


@pytest.mark.parametrize(
    ("said", "cap"),
    [(50, 50), (50.0, 50), ("50", 50), (0, 0), (50.5, None), (-1, None), (True, None), ("x", None)],
)
def test_a_cap_is_read_in_each_form_of_a_count(wire: Any, said: Any, cap: int | None) -> None:
    assert Decision.from_wire(wire.decision("r") | {"max_output_tokens": said}).max_output_tokens == cap


@pytest.mark.parametrize("said", [-5, True, "many", 1.5])
def test_a_hold_that_is_no_count_is_not_known(wire: Any, said: Any) -> None:
    reserved = {"input_tokens": 5, "output_tokens": said}
    assert Decision.from_wire(wire.decision("r") | {"reserved": reserved}).reserved is None


@pytest.mark.parametrize("verdict", ["false", "0", "0.0", "-0", "0e5", '"false"', '"False"', '" 0 "', '"no"'])
@pytest.mark.parametrize("path", sorted(VERDICT - {"allowed"}))
def test_a_block_needs_nothing_but_its_verdict(
    control_plane: Any, wire: Any, verdict: str, path: str
) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url, on_unreachable="allow") as tv:
        for broken in BROKEN:
            if broken.startswith('"'):
                continue  # it names another reason, or another request

            def answer(seen: Any, broken: str = broken) -> Any:
                body = with_broken(wire.blocked(seen.body["request_id"]), path, broken)
                return wire.Answer(200, body.replace(b'"allowed": false', b'"allowed": ' + verdict.encode()))

            control_plane.defaults["/v1/evaluate"] = answer
            decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini")
            assert (decision.allowed, decision.degraded) == (False, False), broken
            assert decision.request_id == control_plane.seen[-1].body["request_id"]
            assert (decision.reason_class, decision.retry_after) == ("exhausted", 3600)
            assert len(json.dumps(decision.to_wire()) + repr(decision)) < 10_000


def test_a_block_that_says_nothing_else_is_one_nobody_should_wait_for(
    tv: TokVigil, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, {"allowed": False}))
    decision = tv.evaluate(user_id="user_123", model="gpt-4o-mini")
    assert (decision.allowed, decision.reason_code, decision.reason_class) == (
        False,
        "UNREADABLE",
        "forbidden",
    )
    assert Decision.from_wire(decision.to_wire()) == decision


@pytest.mark.parametrize("amount", ["1e300000000", '"1e-300000000"', "1e99999999999"])
def test_an_amount_that_would_fill_the_memory_is_none(
    tv: TokVigil, control_plane: Any, wire: Any, amount: str
) -> None:
    costs = dict.fromkeys(("limit", "used", "remaining"), PLACE) | {"metric": "cost_usd"}
    receipt = json.dumps({"request_id": "r", "cost_usd": PLACE, "priced": True, "limit_state": [costs]})
    control_plane.script("/v1/usage", wire.Answer(201, receipt.replace(f'"{PLACE}"', amount).encode()))
    usage = Usage(input_tokens=1, output_tokens=1)
    read = tv.report_now(UsageEvent(request_id="r", user_id="ada", model="gpt-4o-mini", usage=usage))
    assert (read.cost_usd, read.priced, read.limit_state) == (None, True, ())


def test_receipts_and_limits_are_read_as_far_as_they_can_be(
    tv: TokVigil, control_plane: Any, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    state = wire.blocked()["limit_state"][0]
    receipt = {"request_id": "r", "duplicate": "no", "cost_usd": "~0.1", "limit_state": [state, 7]}
    control_plane.script("/v1/usage", wire.Answer(201, receipt))
    policies = [{"id": "p1"}, {"id": 7, "name": "Pro", "version": 1, "scope": "plan"}]
    control_plane.script("/v1/limits", wire.Answer(200, {"policies": policies, "limit_state": "none"}))
    read = tv.report_now(
        UsageEvent(
            request_id="r", user_id="ada", model="gpt-4o-mini", usage=Usage(input_tokens=1, output_tokens=1)
        )
    )
    assert (read.duplicate, read.cost_usd, read.priced, len(read.limit_state)) == (False, None, False, 1)
    limits = tv.limits(user_id="ada")
    assert [(policy.id, policy.name) for policy in limits.policies] == [("7", "Pro")]
    assert limits.limit_state == ()
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "cost_usd, duplicate, limit_state",
        "policies.name",
    ]
