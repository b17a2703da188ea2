"""Attribution in Celery's tasks: real workers, with children and with threads, real messages, and eager."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import chain, chord, group
from celery.app.trace import build_tracer
from celery.exceptions import Retry
from celery.signals import before_task_publish, task_postrun, task_prerun
from tokvigil import AIUsageBlockedError, ConfigurationError, Decision, MissingAttributionError, context
from tokvigil.attribution import AskedLater, Attribution, around
from tokvigil.integrations import celery as integration

from sdk.python.tests.broker import running_broker
from sdk.python.tests.conftest import ControlPlane
from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wrapped import wait_for

HERE = Path(__file__).parent
PATIENTLY: Any = {"timeout": 30.0, "interval": 0.02}
END_S_MAX = 30.0
USERS = 10
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
ADA = {"user_id": "ada", "feature": "search", "plan": "pro", "run_id": "run-1", "metadata": {"team": "a"}}


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    server = ControlPlane()
    yield server
    server.close()


@pytest.fixture(scope="module")
def wire_provider() -> Iterator[WireProvider]:
    server = WireProvider()
    yield server
    server.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with running_broker(tmp_path_factory.mktemp("broker")) as address:
        yield address


@pytest.fixture(scope="module")
def variables(
    control_plane: ControlPlane, wire_provider: WireProvider, broker: str, tmp_path_factory: Any
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("celery")
    return {
        "TOKVIGIL_API_KEY": "tv_dev_id_secret",
        "TOKVIGIL_BASE_URL": control_plane.url,
        "TOKVIGIL_JOURNAL": str(folder / "journal"),
        "OPENAI_API_KEY": "sk-caller",
        "OPENAI_BASE_URL": wire_provider.url + "/v1",
        "CELERY_TEST_BROKER": broker,
        "CELERY_TEST_FOLDER": str(folder),
    }


@pytest.fixture(scope="module")
def tasks(variables: dict[str, str]) -> Iterator[ModuleType]:
    """The tasks as those who send them import them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.syspath_prepend(HERE)
        import celery_tasks

        yield celery_tasks
        celery_tasks.app.close()
        celery_tasks.tv.close()
        # Where this module's tests are run in two parts, the second has servers of its own.
        del sys.modules[celery_tasks.__name__]
    for sent in (before_task_publish, task_prerun, task_postrun):
        # Other tests have tasks too.
        assert sent.disconnect(dispatch_uid=integration.HEADER)


@pytest.fixture(scope="module", params=["prefork", "threads"])
def worker(
    request: pytest.FixtureRequest, variables: dict[str, str], tasks: ModuleType, tmp_path_factory: Any
) -> Iterator[Path]:
    """A running worker with two children or threads. It gives the file of its log."""
    log = tmp_path_factory.mktemp("worker") / "log"
    command = ["worker", *QUIET, "--pool", request.param, "--concurrency", "2", "--loglevel", "INFO"]
    with started(command, variables, log):
        assert tasks.look.delay().get(**PATIENTLY) == {}
        yield log


class started:
    """A process of Celery, as long as it is wanted. It ends as it does in a deployment, or is killed."""

    def __init__(self, command: list[str], variables: dict[str, str], log: Path) -> None:
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "--app", "celery_tasks", *command],
                env={"PATH": os.environ["PATH"], **variables},
                cwd=HERE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            assert self.process.wait(END_S_MAX) == 0
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def books(control_plane: ControlPlane) -> ControlPlane:
    """Empty at the beginning of each test."""
    control_plane.seen.clear()
    control_plane.charged.clear()
    return control_plane


def asked(control_plane: ControlPlane) -> Counter[str]:
    return Counter(seen.body["user_id"] for seen in control_plane.calls("/v1/evaluate"))


def charged(control_plane: ControlPlane) -> Counter[str]:
    """Of the calls of this test: a report of the test before may come late."""
    mine = {seen.body["request_id"] for seen in control_plane.calls("/v1/evaluate")}
    return Counter(
        event["user_id"] for event in control_plane.charged.values() if event["request_id"] in mine
    )


def test_a_task_is_for_the_user_around_the_code_that_sent_it(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane
) -> None:
    with context(**ADA):  # type: ignore[arg-type]
        sent = tasks.ask.delay()
    assert sent.get(**PATIENTLY) == ADA
    (seen,) = control_plane.calls("/v1/evaluate")
    assert {name: seen.body[name] for name in ADA} == ADA
    wait_for(lambda: charged(control_plane) == {"ada": 1})


def test_tasks_of_many_users_at_once_are_each_for_their_own(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane
) -> None:
    def send(number: int) -> list[Any]:
        with context(user_id=f"user_{number}", run_id=f"run_{number}"):
            return [tasks.ask.delay() for _ in range(3)]

    with ThreadPoolExecutor(USERS) as pool:
        sent = list(pool.map(send, range(USERS)))
    for number, results in enumerate(sent):
        for result in results:
            assert result.get(**PATIENTLY) == {"user_id": f"user_{number}", "run_id": f"run_{number}"}
    expected = {f"user_{number}": 3 for number in range(USERS)}
    assert asked(control_plane) == expected
    wait_for(lambda: charged(control_plane) == expected)


def test_chains_groups_and_chords_are_for_the_user_who_sent_them(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane
) -> None:
    with context(**ADA):  # type: ignore[arg-type]
        chained = chain(tasks.ask.s(), tasks.ask.s(), tasks.ask.s()).delay()
        grouped = group(tasks.ask.s() for _ in range(3)).delay()
        joined = chord([tasks.ask.s() for _ in range(3)], tasks.several.s()).delay()
        both = chain(group(tasks.ask.s(), tasks.ask.s()), tasks.several.s(), tasks.ask.s()).delay()
    assert chained.get(**PATIENTLY) == ADA
    assert grouped.get(**PATIENTLY) == [ADA] * 3
    assert joined.get(**PATIENTLY) == [ADA] * 4
    assert both.get(**PATIENTLY) == ADA
    assert asked(control_plane) == {"ada": 3 + 3 + 4 + 4}


def test_a_chain_with_headers_of_its_own_needs_them_on_every_task(worker: Path, tasks: ModuleType) -> None:
    """As the guide says: Celery sends the next task in the context of the one before."""
    ada, bob, nightly = ({"headers": integration.headers(user_id=user)} for user in ("ada", "bob", "nightly"))
    with context(user_id="nightly"):
        inherits = chain(tasks.look.s().set(**ada), tasks.look.s()).delay()
        chained = chain(tasks.look.s().set(**ada), tasks.look.s().set(**nightly)).delay()
        first = [tasks.look.s().set(**user) for user in (ada, bob)]
        joined = chord(first, tasks.several.s().set(**nightly)).delay()
    assert inherits.get(**PATIENTLY) == {"user_id": "ada"}
    assert chained.get(**PATIENTLY) == {"user_id": "nightly"}
    assert joined.get(**PATIENTLY) == [{"user_id": user} for user in ("ada", "bob", "nightly")]


def test_a_retry_is_for_the_same_user_whatever_is_around_it(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane
) -> None:
    with context(**ADA):  # type: ignore[arg-type]
        sent = tasks.ask_later.delay()
    of_nobody = tasks.ask_later.delay()
    assert sent.get(**PATIENTLY) == ADA
    assert failed(of_nobody) == "MissingAttributionError"
    assert asked(control_plane) == {"ada": 1}


def test_what_a_task_sends_is_for_its_user_or_for_the_one_that_it_names(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane
) -> None:
    with context(**ADA):  # type: ignore[arg-type]
        tasks.send_more.delay().get(**PATIENTLY)
    wait_for(lambda: asked(control_plane) == {"ada": 1, "bob": 2})
    bodies = [seen.body for seen in control_plane.calls("/v1/evaluate")]
    assert [body.get("plan") for body in bodies if body["user_id"] == "bob"] == [None] * 2
    assert {body["feature"] for body in bodies} == {"search"}


def failed(result: Any) -> str:
    """The class of the error that a task failed with."""
    with pytest.raises(Exception) as raised:
        result.get(**PATIENTLY)
    return type(raised.value).__name__


def test_a_task_of_nobody_has_nothing_of_the_tasks_before_it(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane
) -> None:
    with context(**ADA):  # type: ignore[arg-type]
        before = [tasks.ask.delay() for _ in range(4)]
    before += [tasks.leave_open.delay() for _ in range(4)]
    for result in before:
        result.get(**PATIENTLY)
    assert [tasks.look.delay().get(**PATIENTLY) for _ in range(4)] == [{}] * 4
    assert failed(tasks.ask.delay()) == "MissingAttributionError"
    assert asked(control_plane) == {"ada": 4}


def test_a_header_that_is_not_ours_does_no_harm(worker: Path, tasks: ModuleType) -> None:
    for header in ("ada", {"user_id": ["ada"]}, {"user_id": "x" * 1000}, None, 7):
        sent = tasks.look.apply_async(headers={integration.HEADER: header})
        assert sent.get(**PATIENTLY) == {}
    sent = tasks.look.apply_async(headers={integration.HEADER: {"user_id": "ada", "of_a_later_version": 1}})
    assert sent.get(**PATIENTLY) == {"user_id": "ada"}
    assert "Signal handler" not in worker.read_text()


@pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")
def test_a_task_without_our_header_has_nothing_of_the_worker_itself(tasks: ModuleType) -> None:
    """Whoever sent it may not use the integration, and the worker may have been started inside a context."""
    run = build_tracer(tasks.look.name, tasks.look, app=tasks.app)
    with context(user_id="the worker's own"):
        assert run("some id", (), {}, {"id": "some id"}).retval == {}
        assert around().user_id == "the worker's own"


def test_a_blocked_task_is_retried_when_the_block_has_passed(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane, wire: Any
) -> None:
    soon = wire.blocked() | {"reason_class": "exhausted", "retry_after": 1}
    for bury in (False, True):
        control_plane.script("/v1/evaluate", wire.Answer(200, soon), wire.Answer(200, soon))
        with context(**ADA):  # type: ignore[arg-type]
            sent = tasks.ask_until_it_passes.delay("text", bury=bury)
        assert sent.get(**PATIENTLY) == [2, ADA]
    assert asked(control_plane) == {"ada": 6}


@pytest.mark.parametrize(
    ("verdict", "questions"),
    [
        ({"retry_after": 1}, 3),  # until its max_retries
        ({"retry_after": 3600}, 1),
        ({"reason_class": "forbidden", "retry_after": None}, 1),
    ],
)
def test_a_task_that_stays_blocked_fails(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane, wire: Any, verdict: Any, questions: int
) -> None:
    control_plane.script("/v1/evaluate", *[wire.Answer(200, wire.blocked() | verdict)] * questions)
    with context(user_id="ada"):
        sent = tasks.ask_until_it_passes.delay("text")
    assert failed(sent) == "AIUsageBlockedError"
    assert asked(control_plane) == {"ada": questions}


def test_a_task_that_retries_itself_is_not_retried_twice(wire: Any) -> None:
    @integration.retry_blocks()
    def retries_itself(task: Any) -> None:
        try:
            raise AIUsageBlockedError(Decision.from_wire(wire.blocked() | {"retry_after": 1}))
        except AIUsageBlockedError as block:
            raise Retry("its own") from block

    with pytest.raises(Retry, match="its own"):
        retries_itself(SimpleNamespace(retry=None))


def test_a_defect_in_the_handling_of_a_block_is_not_retried(wire: Any) -> None:
    @integration.retry_blocks()
    def has_a_defect(task: Any) -> Any:
        try:
            raise AIUsageBlockedError(Decision.from_wire(wire.blocked() | {"retry_after": 1}))
        except AIUsageBlockedError:
            return {}["a defect"]

    with pytest.raises(KeyError, match="a defect"):
        has_a_defect(SimpleNamespace(retry=None))


def test_a_decorator_that_is_used_wrongly_says_how_to_use_it() -> None:
    with pytest.raises(ConfigurationError, match=r"write @retry_blocks\(\)"):
        integration.retry_blocks(lambda task: None)  # type: ignore[arg-type]

    @integration.retry_blocks()
    def unbound(*numbers: int) -> None:
        raise AssertionError("it runs though it could not be retried")

    for arguments in ((), (7,)):
        with pytest.raises(ConfigurationError, match="write bind=True for unbound"):
            unbound(*arguments)


def test_no_user_is_in_the_log_of_a_worker(worker: Path, tasks: ModuleType) -> None:
    with context(user_id="ada@example.com"):
        tasks.ask_quietly.delay().get(**PATIENTLY)
    log = worker.read_text()
    assert "Task celery_tasks.ask_quietly" in log
    assert "ada@example.com" not in log


def test_a_child_of_a_worker_sends_what_is_left_when_it_ends(
    tasks: ModuleType, control_plane: ControlPlane, variables: dict[str, str], tmp_path: Path
) -> None:
    """No other process can send it: it is only in the child's memory."""
    in_memory = variables | {"TOKVIGIL_JOURNAL": "false"}
    command = ["worker", *QUIET, "--concurrency", "2", "--max-tasks-per-child", "1", "--queues", "ending"]
    with started(command, in_memory, tmp_path / "log"):
        with context(user_id="ada"):
            sent = [tasks.ask.apply_async(queue="ending") for _ in range(4)]
        assert [result.get(**PATIENTLY) for result in sent] == [{"user_id": "ada"}] * 4
        wait_for(lambda: charged(control_plane) == {"ada": 4})


def test_a_beat_schedule_names_its_user_and_else_has_none(
    worker: Path, tasks: ModuleType, control_plane: ControlPlane, variables: dict[str, str], tmp_path: Path
) -> None:
    noted = Path(variables["CELERY_TEST_FOLDER"]) / "of nobody"
    noted.unlink(missing_ok=True)
    with started(["beat", "--schedule", str(tmp_path / "schedule")], variables, tmp_path / "log"):
        wait_for(lambda: asked(control_plane) and noted.exists() and noted.read_text())
    assert set(asked(control_plane)) == {"nightly-job"}
    assert control_plane.calls("/v1/evaluate")[0].body["feature"] == "digest"
    assert noted.read_text() == "{}"


def test_an_eager_task_runs_in_the_context_of_the_code_that_calls_it(
    tasks: ModuleType, control_plane: ControlPlane
) -> None:
    named = integration.headers(user_id="bob")
    with context(**ADA):  # type: ignore[arg-type]
        assert tasks.ask.apply().get() == ADA
        assert chain(tasks.ask.s(), tasks.ask.s()).apply().get() == ADA
        assert chord([tasks.ask.s()], tasks.several.s()).apply().get() == [ADA] * 2
        assert tasks.ask_later.apply().get() == ADA
        assert tasks.ask.apply(headers=named).get() == {"user_id": "bob"}
        assert around().user_id == "ada"
    assert around() == Attribution()
    assert asked(control_plane) == {"ada": 6, "bob": 1}


def test_a_task_that_fails_eagerly_leaves_nothing_behind(tasks: ModuleType) -> None:
    with pytest.raises(MissingAttributionError):
        tasks.ask.apply(headers=integration.headers(feature="x"), throw=True)
    assert around() == Attribution()


def test_connecting_twice_changes_nothing_and_wrong_headers_are_refused(tasks: ModuleType) -> None:
    integration.connect()
    with context(user_id="ada"):
        assert tasks.ask.apply().get() == {"user_id": "ada"}
    with pytest.raises(TypeError, match="did you mean user_id"):
        integration.headers(user="ada")


def test_sending_a_task_never_fails_because_of_its_attribution(
    worker: Path, tasks: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="tokvigil")

    def nobody_knows() -> Attribution:
        raise LookupError("ada@example.com")

    with AskedLater(nobody_knows):
        sent = tasks.look.delay()
    assert sent.get(**PATIENTLY) == {}
    assert "a task is sent without attribution: MissingAttributionError" in caplog.messages
    assert "ada@" not in caplog.text


def test_a_retried_task_still_refuses_wrong_arguments_when_it_is_sent(tasks: ModuleType) -> None:
    with pytest.raises(TypeError):
        tasks.ask_until_it_passes.delay()


def test_the_message_of_a_task_has_no_more_than_what_was_said(tasks: ModuleType) -> None:
    with context(user_id="ada", metadata={"team": "a"}):
        tasks.look.apply_async(queue="read by nobody")
    with tasks.app.connection_for_read() as connection:
        message = connection.SimpleQueue("read by nobody").get()
        message.ack()
    assert message.headers["tokvigil"] == {"user_id": "ada", "metadata": {"team": "a"}}
