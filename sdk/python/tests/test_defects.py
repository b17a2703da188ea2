"""A defect of the SDK's own never reaches the application: its AI call ends as without the SDK, and is charged."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tokvigil import TokVigil, containing

from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import CHAT, RESPONSE, Books, plain

# Each is called on the way of a call, before it goes out or while its answer is read.
BEFORE = [
    "tokvigil.wrapping.gate.read_call",
    "tokvigil.dialects.openai.ChatCall._count_input",
    "tokvigil.dialects.provider_call.ProviderCall.outgoing",
    "tokvigil.telemetry._begun",
]
DURING = [
    "tokvigil.dialects.answers.Tally.take_answer",
    "tokvigil.dialects.answers.read_usage",
    "tokvigil.dialects.openai.ChoicesTally.read_event",
    "tokvigil.dialects.openai.read_usage",
    "tokvigil.dialects.answers.Whole.finish",
    "tokvigil.dialects.answers.Events.feed",
    "tokvigil.dialects.answers.Tally.end",
    "tokvigil.dialects.answers.json_values.parse_object",
    "tokvigil.dialects.sse.EventParser.feed",
    "tokvigil.decisions.remember",
]


@pytest.fixture
def bare(wire_provider: WireProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=wire_provider.url + "/v1", api_key="sk", max_retries=0) as client:
        yield client


def fail(*args: Any, **kwargs: Any) -> Any:
    raise KeyError("a defect")


@pytest.fixture(autouse=True)
def said_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containing, "_said", set())


@pytest.mark.parametrize("where", [*BEFORE, *DURING])
@pytest.mark.parametrize("stream", [False, True])
def test_the_application_gets_its_answer_and_the_call_is_charged(
    tv: TokVigil, bare: openai.OpenAI, books: Books, monkeypatch: pytest.MonkeyPatch, where: str, stream: bool
) -> None:
    def ask(client: openai.OpenAI) -> Any:
        answer = client.chat.completions.create(**CHAT, stream=stream, **usage)
        return [plain(chunk) for chunk in answer] if stream else plain(answer)

    usage: Any = {"stream_options": {"include_usage": True}} if stream else {}
    expected = ask(bare)
    monkeypatch.setattr(where, fail)
    answered = ask(tv.wrap(bare, user_id="ada"))
    monkeypatch.undo()
    assert without_ids(answered) == without_ids(expected)
    (report,) = books.settled()
    assert report.status in ("succeeded", "partial")
    assert report.usage.output_tokens in (90, 100)


def test_an_error_of_the_applications_own_on_decision_is_not_called_tokvigils(
    control_plane: Any, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with TokVigil(api_key="key", base_url=control_plane.url, on_decision=fail) as tv:
        assert not tv.evaluate(user_id="ada", model="gpt-4o-mini").degraded
    (line,) = [record.getMessage() for record in caplog.records if record.exc_info]
    assert line == "on_decision raised; the call goes on"


@pytest.mark.parametrize("where", ["tokvigil.question.Question.report", "tokvigil.journal.Journal._write"])
def test_a_report_that_cannot_be_made_costs_no_answer(
    tv: TokVigil, bare: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(where, fail)
    assert tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT).usage is not None
    monkeypatch.undo()


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_ids(item) for name, item in value.items() if name not in ("id", "created")}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("where", DURING)
def test_an_awaited_stream_passes_whole(
    tv: TokVigil, wire_provider: WireProvider, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    wire_provider.fragment_bytes = 7

    async def texts() -> str:
        async with openai.AsyncOpenAI(base_url=wire_provider.url + "/v1", api_key="sk") as bare:
            stream = await tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT, stream=True)
            chunks = [chunk async for chunk in stream]
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    whole = asyncio.run(texts())
    monkeypatch.setattr(where, fail)
    assert asyncio.run(texts()) == whole


@pytest.mark.parametrize("where", ["tokvigil.evaluation.Evaluation._ask", "httpcore2.ConnectionPool.request"])
def test_what_cannot_be_asked_is_decided_as_without_tokvigil(
    tv: TokVigil, bare: openai.OpenAI, books: Books, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(where, fail)
    assert tv.wrap(bare, user_id="ada").responses.create(**RESPONSE).id
    monkeypatch.undo()
    assert [event.status for event in books.settled()] == ["succeeded"]


def test_a_defect_is_said_with_its_traceback_once(
    tv: TokVigil, bare: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tokvigil.dialects.answers.Tally.take_answer", fail)
    client = tv.wrap(bare, user_id="ada")
    for _ in range(5):
        client.chat.completions.create(**CHAT)
    said = [record for record in caplog.records if "defect of tokvigil" in record.getMessage()]
    assert len(said) == 1
    assert said[0].exc_info is not None


class TimeLimit(Exception):
    """As Celery's SoftTimeLimitExceeded."""


class Interruption(BaseException):
    pass


@pytest.mark.parametrize("error", [TimeLimit, Interruption])
@pytest.mark.parametrize(
    "where",
    [
        "tokvigil.evaluation.Evaluation._ask",
        "tokvigil.wrapping.gate.read_call",
        "tokvigil.dialects.openai.ChatCall._count_input",
        "tokvigil.dialects.provider_call.ProviderCall.outgoing",
        "tokvigil.journal.Journal.asks",
        "tokvigil.reporting.Reporter.begin",
    ],
)
def test_what_a_signal_handler_raises_in_the_middle_of_it_is_no_defect(
    tv: TokVigil,
    bare: openai.OpenAI,
    books: Books,
    wire_provider: WireProvider,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: type[BaseException],
) -> None:
    """The call does not go out, and nothing is held for it."""

    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGUSR1)

    def over(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, over)
    try:
        monkeypatch.setattr(where, interrupted)
        with pytest.raises(error):
            tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT)
    finally:
        signal.signal(signal.SIGUSR1, before)
        monkeypatch.undo()
    assert wire_provider.seen == []
    assert tv._reporter._holds.open_calls() == []
    settled = books.settled()
    assert {event.status for event in settled} <= {"cancelled"}
    assert {asked["request_id"] for asked in books.asked} <= {event.request_id for event in settled}
    assert tv._reporter.journal._open == {}


@pytest.mark.parametrize(
    ("where", "charged"),
    [
        ("tokvigil.telemetry.CallSpan.decided", ("cancelled", 0)),
        ("tokvigil.wrapping.gate.Attempt.answered", ("partial", 100)),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_an_interruption_between_two_steps_leaves_nothing_held(
    tv: TokVigil,
    bare: openai.OpenAI,
    books: Books,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    charged: tuple[str, int],
    is_async: bool,
) -> None:
    def interrupt(*_: Any) -> None:
        raise Interruption

    async def call() -> None:
        async with openai.AsyncOpenAI(base_url=bare.base_url, api_key="sk", max_retries=0) as client:
            await tv.wrap(client, user_id="ada").chat.completions.create(**CHAT)

    monkeypatch.setattr(where, interrupt)
    with pytest.raises(Interruption):
        asyncio.run(call()) if is_async else tv.wrap(bare, user_id="ada").chat.completions.create(**CHAT)
    assert (books.only().status, books.only().usage.output_tokens) == charged
