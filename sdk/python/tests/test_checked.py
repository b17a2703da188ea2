"""What callers say of a call is checked where they say it."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import openai
import pytest
from tokvigil import ConfigurationError, TokVigil, Usage, UsageEvent

from usage.money import parse_usd

USAGE = Usage(input_tokens=1, output_tokens=1)


class Plan(enum.StrEnum):
    FREE = "free"


@pytest.mark.parametrize(
    ("said", "written"),
    [("ana", "ana"), (123, "123"), (UUID(int=7), str(UUID(int=7))), (Plan.FREE, "free")],
)
def test_the_ids_of_a_database_are_written_out(
    tv: TokVigil, control_plane: Any, said: Any, written: str
) -> None:
    tv.evaluate(user_id=said, model="gpt-4o-mini")
    with (
        tv.context(user_id=said, plan=said),
        tv.guard(user_id=said, feature="chat", model="gpt-4o-mini") as call,
    ):
        call.record(USAGE)
    tv.report(UsageEvent(request_id="r", user_id=said, model="m", usage=USAGE))
    assert tv.flush() == 0
    assert {seen.body["user_id"] for seen in control_plane.calls("/v1/evaluate")} == {written}
    assert {body["user_id"] for body in control_plane.charged.values()} == {written}


@pytest.mark.parametrize("said", [None, "", 1.5, b"ana", True, ["ana"], "a" * 256, "a\0b"])
def test_a_user_that_is_none_is_refused_before_anything_is_asked(
    tv: TokVigil, control_plane: Any, said: Any
) -> None:
    with pytest.raises(ConfigurationError, match="user_id"):
        tv.evaluate(user_id=said, model="gpt-4o-mini")
    with pytest.raises(ConfigurationError, match="user_id"):
        UsageEvent(request_id="r", user_id=said, model="m", usage=USAGE)
    assert control_plane.seen == []


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"when": Decimal(1)}, "when"),
        ({"ratio": 0.5}, "ratio"),
        ({"long": "x" * 513}, "long"),
        ({"huge": 2**53 + 1}, "huge"),
        ({"nul": "a\0"}, "nul"),
        ({"list": []}, "list"),
        ({7: "x"}, "7"),
        ({"k" * 65: 1}, "key"),
        ({f"k{n}": n for n in range(17)}, "16"),
    ],
)
def test_metadata_that_the_server_would_refuse_is_refused_by_its_key(
    tv: TokVigil, control_plane: Any, said: Any, key: str
) -> None:
    with pytest.raises(ConfigurationError, match=key):
        tv.evaluate(user_id="ana", model="gpt-4o-mini", metadata=said)
    with pytest.raises(ConfigurationError, match=key):
        tv.context(metadata=said)
    assert control_plane.seen == []


@pytest.mark.parametrize(
    ("field", "said"),
    [
        *(("model", said) for said in (None, "", 7, object(), "m" * 256, "a\0b", "\ud800")),
        *(("provider", said) for said in (object(), 1.5, "p" * 256, "a\0b")),
        *(("status", said) for said in (None, "finished", "", [], "unsettled")),
        *(("reported_cost_usd", said) for said in (0.1, True, "cheap", Decimal("NaN"), Decimal("Infinity"))),
        *(("reported_cost_usd", Decimal(said)) for said in ("-1", "9000000.1", "1E-41", "1E-999999", 0.1)),
        *(("occurred_at", said) for said in ("now", 1_764_000_000, date(2026, 11, 24))),
        ("occurred_at", datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))),
        *(("usage", said) for said in (None, {"input_tokens": 1, "output_tokens": 1})),
    ],
)
def test_an_event_that_the_server_would_refuse_is_refused_when_it_is_made(field: str, said: Any) -> None:
    fields: dict[str, Any] = {"request_id": "r", "user_id": "ana", "model": "m", "usage": USAGE}
    with pytest.raises(ConfigurationError, match=field):
        UsageEvent(**fields | {field: said})


@pytest.mark.parametrize("text", ["0", "0.25", "9000000", "1E-38", "1e-7", "1E+3", "0.10", "0E-20"])
def test_a_cost_that_the_server_takes_is_taken(tv: TokVigil, control_plane: Any, text: str) -> None:
    tv.report_now(
        UsageEvent(
            request_id="r",
            user_id="ana",
            model="m",
            reported_cost_usd=text,
            usage=Usage(input_tokens=1, output_tokens=1),
        )
    )
    assert parse_usd(control_plane.charged["r"]["reported_cost_usd"]) == parse_usd(text)


def test_a_cost_that_is_no_number_is_refused_by_its_name(tv: TokVigil, control_plane: Any) -> None:
    with pytest.raises(ConfigurationError, match="reported_cost_usd"):
        tv.report_now(
            UsageEvent(
                request_id="r",
                user_id="ana",
                model="m",
                reported_cost_usd="cheap",
                usage=Usage(input_tokens=1, output_tokens=1),
            )
        )
    assert control_plane.seen == []


def test_a_provider_that_says_nothing_and_a_time_without_a_zone_are_taken() -> None:
    event = UsageEvent(
        request_id="r",
        user_id="ana",
        model="m",
        usage=USAGE,
        provider="",
        occurred_at=datetime(2026, 11, 24, 1),  # noqa: DTZ001
    )
    body = event.to_wire()
    assert "provider" not in body
    assert datetime.fromisoformat(body["occurred_at"]) == datetime(2026, 11, 24, 1).astimezone(UTC)


@pytest.mark.parametrize("model", [None, "", 7])
def test_a_model_that_is_none_is_refused_before_anything_is_asked(
    tv: TokVigil, control_plane: Any, model: Any
) -> None:
    with pytest.raises(ConfigurationError, match="model"):
        tv.evaluate(user_id="ana", model=model, input_text="Hello")
    with pytest.raises(ConfigurationError, match="model"):
        tv.guard(user_id="ana", feature="chat", model=model)
    assert control_plane.seen == []


@pytest.mark.parametrize("field", ["input_tokens", "max_output_tokens"])
def test_counts_are_checked_before_anything_is_asked(tv: TokVigil, control_plane: Any, field: Any) -> None:
    for count in (10.0, -1, True, "10"):
        with pytest.raises(ConfigurationError, match=field):
            tv.evaluate(user_id="ana", model="m", **{field: count})
    assert control_plane.seen == []


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"input_text": "Hi", "messages": []}, "input_text and messages"),
        ({"input_text": "", "input_tokens": 3}, "input_tokens and input_text"),
        ({"messages": [], "input_tokens": 0}, "input_tokens and messages"),
    ],
)
def test_an_input_that_is_said_twice_is_refused(
    tv: TokVigil, control_plane: Any, said: Any, named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        tv.evaluate(user_id="ana", model="m", **said)
    with pytest.raises(ConfigurationError, match=named):
        tv.guard(user_id="ana", feature="chat", model="m", **said)
    assert control_plane.seen == []


def test_whoever_says_no_feature_leaves_it_to_the_context(
    tv: TokVigil, chat: Any, control_plane: Any
) -> None:
    @tv.guarded(user_id="ana", model="m")
    def answer() -> Usage:
        return USAGE

    def ask_all_ways(nothing: Any) -> None:
        tv.evaluate(user_id="ana", model="m", feature=nothing)
        with tv.guard(user_id="ana", feature=nothing, model="m") as call:
            call.record(USAGE)
        answer()
        chat(feature=nothing)

    for nothing in (None, ""):
        with tv.context(feature="around"):
            ask_all_ways(nothing)
        ask_all_ways(nothing)
    asked = [seen.body.get("feature") for seen in control_plane.calls("/v1/evaluate")]
    assert asked == [*["around"] * 4, *[None] * 4] * 2


def test_an_event_stays_as_it_was_made(tv: TokVigil, control_plane: Any) -> None:
    with tv.context(user_id="ana", plan="free", run_id="run-1", feature="around", metadata={"a": 1}):
        tv.report_now(UsageEvent(request_id="now", user_id="ben", model="m", usage=USAGE))
        tv.report(UsageEvent(request_id="later", user_id="ben", model="m", usage=USAGE))
    assert tv.flush() == 0
    for event in control_plane.charged.values():
        assert event["user_id"] == "ben"
        assert {"feature", "plan", "run_id", "metadata"}.isdisjoint(event)
    assert control_plane.charged.keys() == {"now", "later"}


def test_a_detail_that_does_not_exist_is_refused_as_python_does(tv: TokVigil, control_plane: Any) -> None:
    with pytest.raises(TypeError, match="feture"):
        tv.evaluate(user_id="ana", model="m", feture="chat")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="feture"):
        tv.report_now(
            UsageEvent(
                request_id="r",
                user_id="ana",
                model="m",
                feture="chat",
                usage=Usage(input_tokens=1, output_tokens=1),
            )
        )  # type: ignore[call-arg]
    assert control_plane.seen == []


def test_a_guard_and_an_evaluate_follow_the_context(tv: TokVigil, control_plane: Any) -> None:
    with tv.context(user_id="ana", plan="free", run_id="run-1", feature="around", metadata={"a": 1}):
        tv.evaluate(user_id="ana", model="gpt-4o-mini")
        with tv.guard(user_id="ana", feature="chat", model="gpt-4o-mini", run_id="run-2") as call:
            call.record(USAGE)
    bare, guarded = (seen.body for seen in control_plane.calls("/v1/evaluate"))
    assert (bare["user_id"], bare["feature"], bare["plan"], bare["run_id"]) == (
        "ana",
        "around",
        "free",
        "run-1",
    )
    assert (guarded["feature"], guarded["plan"], guarded["run_id"]) == ("chat", "free", "run-2")
    assert guarded["metadata"] == {"a": 1}


def test_a_client_that_is_closed_asks_nothing_and_lets_nothing_out(
    control_plane: Any, wire_provider: Any
) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url) as client:
        bare = openai.OpenAI(api_key="sk", base_url=wire_provider.url + "/v1")
        wrapped = client.wrap(bare, user_id="ana")
    with pytest.raises(ConfigurationError, match="closed"):
        wrapped.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(ConfigurationError, match="closed"):
        client.evaluate(user_id="ana", model="gpt-4o-mini")
    assert (control_plane.seen, wire_provider.seen) == ([], [])


def test_an_address_with_a_version_is_the_servers_address(control_plane: Any) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url + "/v1/") as client:
        assert client.evaluate(user_id="ana", model="gpt-4o-mini").allowed
    assert control_plane.seen[0].path == "/v1/evaluate"


def test_a_class_in_place_of_its_client_is_pointed_out(tv: TokVigil) -> None:
    with pytest.raises(ConfigurationError, match=r"wrap\(OpenAI\(\)\)"):
        tv.wrap(openai.OpenAI)
