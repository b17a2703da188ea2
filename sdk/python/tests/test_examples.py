"""The examples as a reader starts them: processes of their own, which know no more than their environment says."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tokvigil import AIUsageBlockedError, Decision

from sdk.python.tests.broker import running_broker
from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.content import TEXT, TOOL_TRIGGER
from sdk.python.tests.wrapped import check_answers_block, wait_for

EXAMPLES = Path(__file__).parents[1] / "examples"
LINES_MAX = 80
RUN_S_MAX = 60.0
QUESTION = "Say hello to Ada"
ASK = {"text": QUESTION}
ANA = {"X-User": "ana"}
# TokVigil's verdict, and what a web application makes of it.
BLOCKS = [
    ({}, 429, "3600"),
    ({"reason_class": "transient", "retry_after": 2}, 429, "2"),
    ({"reason_class": "exhausted", "retry_after": None}, 403, None),
    ({"reason_class": "forbidden", "retry_after": None}, 403, None),
    ({"reason_class": "too_large", "retry_after": None}, 403, None),
]


@pytest.fixture
def variables(control_plane: Any, wire_provider: WireProvider, tmp_path: Path) -> dict[str, str]:
    """All that an example needs."""
    return {
        "PATH": os.environ["PATH"],
        "TOKVIGIL_API_KEY": "tv_dev_id_secret",
        "TOKVIGIL_BASE_URL": control_plane.url,
        "TOKVIGIL_JOURNAL": str(tmp_path / "journal"),
        "OPENAI_API_KEY": "sk-caller",
        "OPENAI_BASE_URL": wire_provider.url + "/v1",
    }


@dataclass
class Told:
    """What TokVigil was asked and told of an example's calls."""

    control_plane: Any

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [seen.body for seen in self.control_plane.calls("/v1/evaluate")]

    def reports(self, count: int) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.control_plane.charged) >= count)
        found = list(self.control_plane.charged.values())
        assert len(found) == count
        assert {report["request_id"] for report in found} <= {asked["request_id"] for asked in self.asked}
        return found


@pytest.fixture
def told(control_plane: Any) -> Told:
    return Told(control_plane)


def run(name: str, *arguments: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env=variables,
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
    )


@contextmanager
def served(variables: dict[str, str], *command: str) -> Iterator[httpx2.Client]:
    """A web example that listens at the port which is its last argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, *(part.format(port=port) for part in command)]
    with subprocess.Popen(arguments, env=variables, cwd=EXAMPLES, start_new_session=True) as process:
        try:
            wait_for(lambda: process.poll() is not None or _listens(port))
            assert process.poll() is None
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=RUN_S_MAX) as http:
                yield http
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Site:
    """A web example, and how it wants to be asked."""

    http: httpx2.Client
    end: str
    form: str

    def ask(self, headers: dict[str, str] = ANA) -> httpx2.Response:
        return self.http.post(f"/ask{self.end}", headers=headers, **{self.form: ASK})

    def stream(self) -> Any:
        return self.http.stream("POST", f"/stream{self.end}", headers=ANA, **{self.form: ASK})


@pytest.fixture(params=["fastapi", "django"])
def site(request: pytest.FixtureRequest, variables: dict[str, str]) -> Iterator[Site]:
    if request.param == "fastapi":
        server = ("-m", "granian", "--interface", "asgi", "fastapi_app:app", "--port", "{port}")
        with served(variables, *server) as http:
            yield Site(http, "", "json")
    else:
        with served(variables, "django_app.py", "runserver", "--noreload", "127.0.0.1:{port}") as http:
            yield Site(http, "/", "data")


def test_the_script_prints_both_answers(
    variables: dict[str, str], told: Told, wire_provider: WireProvider
) -> None:
    done = run("plain_script.py", "ana", QUESTION, variables=variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{TEXT}\n{TEXT}\n", "")
    assert [(a["user_id"], a["feature"], a["plan"]) for a in told.asked] == [("ana", "ask", "free")] * 2
    assert [seen.body.get("stream", False) for seen in wire_provider.seen] == [False, True]
    used = [(report["status"], report["output_tokens"]) for report in told.reports(2)]
    assert used == [("succeeded", wire_provider.openai.USAGE.output_tokens)] * 2


@pytest.mark.parametrize("name", ["plain_script.py", "langchain_chat.py", "celery_app.py"])
def test_a_script_without_its_arguments_says_what_they_are(name: str, variables: dict[str, str]) -> None:
    done = run(name, "ana", variables=variables)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"usage: python {name} USER QUESTION\n")


def test_the_script_ends_where_it_is_blocked(
    variables: dict[str, str], told: Told, control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    done = run("plain_script.py", "ana", QUESTION, variables=variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "You have used what you have for now. There is more in 1:00:00.\n"
    assert len(told.asked) == 1
    assert wire_provider.seen == told.reports(0) == []


@pytest.mark.parametrize(
    ("reason_class", "retry_after", "said"),
    [
        ("transient", 2, "in a moment"),
        ("degraded", None, "in a moment"),
        ("exhausted", 3600, "more in 1:00:00"),
        ("exhausted", None, "all you have"),
        ("too_large", None, "ask for less"),
        ("frozen", None, "switched off"),
        ("forbidden", None, "does not include"),
    ],
)
def test_the_script_tells_the_person_what_they_can_do(
    wire: Any, reason_class: str, retry_after: int | None, said: str
) -> None:
    verdict = wire.blocked() | {"reason_class": reason_class, "retry_after": retry_after}
    explain = runpy.run_path(str(EXAMPLES / "plain_script.py"))["explain"]
    assert said in explain(AIUsageBlockedError(Decision.from_wire(verdict)))


def test_the_chain_is_one_run(variables: dict[str, str], told: Told, wire_provider: WireProvider) -> None:
    done = run("langchain_chat.py", "ana", f"Please {TOOL_TRIGGER}", variables=variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{TEXT}\n", "")
    assert [seen.body["messages"][-1]["role"] for seen in wire_provider.seen] == ["user", "tool"]
    assert "Sunny in" in wire_provider.seen[1].body["messages"][-1]["content"]
    assert len({asked["run_id"] for asked in told.asked}) == 1
    assert {(report["user_id"], report["feature"], report["run_id"]) for report in told.reports(2)} == {
        ("ana", "agent", told.asked[0]["run_id"])
    }


def test_a_chain_that_is_blocked_half_way_says_so(
    variables: dict[str, str], told: Told, control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.script(
        "/v1/evaluate",
        wire.Answer(200, wire.decision("first")),
        wire.Answer(200, wire.blocked()),
    )
    done = run("langchain_chat.py", "ana", f"Please {TOOL_TRIGGER}", variables=variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Daily request limit of 50 reached for user user_123.\n"
    assert (len(told.asked), len(wire_provider.seen)) == (2, 1)
    assert list(control_plane.charged) == [told.asked[0]["request_id"]]


def test_a_request_is_answered_for_its_user(site: Site, told: Told, wire_provider: WireProvider) -> None:
    assert site.ask().json() == {"text": TEXT}
    assert site.ask({"X-User": "ben"}).json() == {"text": TEXT}
    assert [(a["user_id"], a["feature"], a["plan"]) for a in told.asked] == [
        ("ana", "ask", "free"),
        ("ben", "ask", "free"),
    ]
    assert [report["input_tokens"] for report in told.reports(2)] == [
        wire_provider.openai.USAGE.input_tokens
    ] * 2


def test_a_request_of_nobody_goes_nowhere(site: Site, told: Told, wire_provider: WireProvider) -> None:
    assert site.ask({}).is_error
    assert told.asked == wire_provider.seen == []


def test_a_stream_is_reported_once_whole(site: Site, told: Told) -> None:
    with site.stream() as response:
        assert response.read().decode() == TEXT
    (report,) = told.reports(1)
    assert (report["status"], report["user_id"]) == ("succeeded", "ana")


def test_a_reader_who_leaves_ends_the_stream(site: Site, told: Told, wire_provider: WireProvider) -> None:
    wire_provider.pause_after(4)
    with site.stream() as response:
        next(response.iter_bytes())
        wire_provider.paused.wait(RUN_S_MAX)
    if site.form == "data":
        # Django's server notices when it writes.
        wire_provider.resume()
    (report,) = told.reports(1)
    assert report["user_id"] == "ana"
    if site.form == "json":
        assert report["status"] == "partial"
        assert report["output_tokens"] > 0
        wait_for(lambda: len(wire_provider.aborted) == 1)


@pytest.mark.parametrize("way", ["ask", "stream"])
def test_a_block_is_a_response(
    site: Site, told: Told, control_plane: Any, wire: Any, wire_provider: WireProvider, way: str
) -> None:
    call: Callable[[], httpx2.Response] = site.ask
    if way == "stream":

        def call() -> httpx2.Response:
            with site.stream() as response:
                response.read()
            return response

    for changes, status, retry_after in BLOCKS:
        control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked() | changes))
        response = call()
        check_answers_block(response, status, retry_after)
    assert len(told.asked) == len(BLOCKS)
    assert wire_provider.seen == told.reports(0) == []


@pytest.fixture
def celery_variables(variables: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """All that the example of Celery needs, and a worker of it."""
    command = [sys.executable, "-m", "celery", "--app", "celery_app", "worker", "--concurrency", "1"]
    with running_broker(tmp_path) as broker:
        needed = variables | {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": broker}
        with subprocess.Popen(command, env=needed, cwd=EXAMPLES, start_new_session=True) as worker:
            yield needed
            worker.terminate()


def test_a_task_is_for_the_user_who_asked_and_waits_until_a_block_has_passed(
    celery_variables: dict[str, str], told: Told, control_plane: Any, wire: Any
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked() | {"retry_after": 1}))
    done = run("celery_app.py", "ana", QUESTION, variables=celery_variables)
    assert (done.returncode, done.stdout) == (0, f"{TEXT}\n")
    assert [(a["user_id"], a["feature"], a["plan"]) for a in told.asked] == [("ana", "ask", "free")] * 2
    assert [(report["user_id"], report["status"]) for report in told.reports(1)] == [("ana", "succeeded")]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_tested(example: Path) -> None:
    text = example.read_text()
    assert len(text.splitlines()) < LINES_MAX
    assert example.stem in Path(__file__).read_text()
