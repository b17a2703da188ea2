"""What the READMEs show runs, in their order, and what they say of names and defaults is so."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import pytest
import tokvigil
from celery.signals import before_task_publish, task_postrun, task_prerun
from openai import AuthenticationError, OpenAI
from tokvigil import TokVigil, doctor, testing
from tokvigil.integrations import celery
from tokvigil.reasons import ReasonClass
from tokvigil.testing import AsyncFakeTokVigil, FakeTokVigil

from sdk.python.tests.readme import CONTEXT_GUIDE, ROOT_README, SDK_README, Block, python_blocks, quick_start
from sdk.python.tests.wire_provider import WireProvider
from sdk.python.tests.wire_provider.content import TEXT

RUN_S_MAX = 60.0
QUICK_START_ALLOWED = 5
# How many calls the blocks of a section ask about, and how many they report. A section that is not here fails.
SECTIONS = {
    "Quick start": (QUICK_START_ALLOWED + 1, QUICK_START_ALLOWED),
    "Wrap a client": (5, 5),
    "Say whose call it is": (3, 3),
    "When a call is blocked": (2, 1),
    "See the decision behind a call": (1, 1),
    "Stream": (1, 1),
    "Async": (2, 1),
    "Chat without a provider's SDK": (2, 2),
    "Guard a call of your own": (2, 2),
    "Ask and report yourself": (1, 1),
    "What a call will cost": (0, 0),
    "What is left": (0, 0),
    "Test your own code": (0, 0),
}
LIMITS = {
    "user_id": "user_123",
    "policies": [{"id": "p1", "name": "Free plan", "version": 7, "scope": "plan"}],
    "limit_state": [
        {
            "policy": "Free plan",
            "metric": "requests",
            "window": "day",
            "per": "user",
            "limit": 50,
            "used": 12,
            "held": 0,
            "remaining": 38,
            "resets_at": "2026-11-27T00:00:00Z",
            "exceeded": False,
        }
    ],
}


@pytest.fixture
def variables(control_plane: Any, wire_provider: WireProvider, tmp_path: Path) -> dict[str, str]:
    """What the README says is read from the environment, and no more than that."""
    return {
        "TOKVIGIL_API_KEY": "tv_dev_id_secret",
        "TOKVIGIL_BASE_URL": control_plane.url,
        "OPENAI_API_KEY": "sk-caller",
        "OPENAI_BASE_URL": f"{wire_provider.url}/v1",
        "ANTHROPIC_API_KEY": "sk-caller",
        "ANTHROPIC_BASE_URL": wire_provider.url,
        "GEMINI_API_KEY": "sk-caller",
        "GOOGLE_GEMINI_BASE_URL": wire_provider.url,
    }


def run(block: Block, names: dict[str, Any]) -> None:
    """An error shows the README's own line."""
    lines_before = "\n" * (block.line - 1)
    exec(compile(lines_before + block.code, str(block.file), "exec"), names)  # noqa: S102


def script_quick_start(control_plane: Any, wire: Any) -> None:
    for number in range(QUICK_START_ALLOWED):
        control_plane.script("/v1/evaluate", wire.Answer(200, wire.decision(f"quick-{number}")))
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))


def test_every_block_of_the_sdk_is_known_and_runs(
    variables: dict[str, str],
    control_plane: Any,
    wire: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    script_quick_start(control_plane, wire)
    control_plane.script("/v1/limits", wire.Answer(200, LIMITS))
    names: dict[str, Any] = {"__name__": "readme"}
    counted = {}
    for heading, section in groupby(python_blocks(SDK_README), key=lambda block: block.heading):
        if heading == "When a call is blocked":
            control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
        asked, charged = len(control_plane.calls("/v1/evaluate")), len(control_plane.charged)
        for block in section:
            run(block, names)
        names["tv"].flush()
        counted[heading] = (
            len(control_plane.calls("/v1/evaluate")) - asked,
            len(control_plane.charged) - charged,
        )
    with closing(names["tv"]):
        assert counted == SECTIONS
    said = capsys.readouterr().out
    for expected in (
        f"{QUICK_START_ALLOWED} 1290 tokens: {TEXT[:60]}",
        "DAILY_REQUEST_LIMIT_EXCEEDED: Daily request limit of 50 reached for user user_123.",
        "Again in 3600 seconds",
        "Free plan requests 49 of 50 until 2026-11-24",
        "Free plan requests per day 38 of 50",
        f"{TEXT}Usage(input_tokens=1200, output_tokens=90",
    ):
        assert expected in said


def test_reports_of_the_readme_are_what_the_provider_said(
    variables: dict[str, str], control_plane: Any, wire: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard's record, and a report made by hand."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {"__name__": "readme"}
    with TokVigil() as tv:
        names |= {"tv": tv, "OpenAI": OpenAI, "messages": [{"role": "user", "content": "Hi"}]}
        for block in python_blocks(SDK_README):
            if block.heading in ("Guard a call of your own", "Ask and report yourself"):
                run(block, names)
    used = [(event["model"], event["status"], event["output_tokens"]) for event in charged(control_plane)]
    assert sorted(used) == [
        ("gpt-4o-mini", "succeeded", WireProvider.openai.USAGE.output_tokens),
        ("gpt-4o-mini", "succeeded", WireProvider.openai.USAGE.output_tokens),
        ("gpt-4o-mini", "succeeded", 240),
    ]


def test_every_block_about_contexts_runs(
    variables: dict[str, str], control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    signals = (before_task_publish, task_prerun, task_postrun)
    with TokVigil() as tv:
        names = {"__name__": "guide", "tv": tv, "OpenAI": OpenAI, "client": tv.wrap(OpenAI())}
        names["messages"] = [{"role": "user", "content": "Hi"}]
        try:
            for block in python_blocks(CONTEXT_GUIDE):
                run(block, names)
        finally:
            for signal in signals:
                assert signal.disconnect(dispatch_uid=celery.HEADER)
    asked = [
        (event["user_id"], event.get("feature"), event.get("metadata")) for event in charged(control_plane)
    ]
    assert asked[:2] == [
        ("ada", "agent", {"team": "search", "trace": "t1"}),
        ("nightly-job", "digest", None),
    ]
    assert asked[2:] == [("ada", "summaries", None)] * 4


@pytest.mark.parametrize(("major", "library"), [("2", "httpx"), ("3", "httpx2")])
def test_the_test_of_the_readme_runs_with_each_major_of_openai_as_its_comment_says(
    major: str, library: str, tmp_path: Path
) -> None:
    (block,) = (block for block in python_blocks(SDK_README) if block.heading == "Test your own code")
    file = tmp_path / "own_test.py"
    file.write_text(
        f"import openai\nassert openai.__version__.startswith('{major}.')\n"
        "from openai import OpenAI\nfrom tokvigil import AIUsageBlockedError\n"
        "messages = [{'role': 'user', 'content': 'Hi'}]\n" + block.code.replace("httpx2", library)
    )
    path = {"PYTHONPATH": str(Path(sys.prefix) / "openai-2")} if major == "2" else {}
    done = subprocess.run([sys.executable, file], env=path, capture_output=True, text=True, timeout=RUN_S_MAX)
    assert (done.returncode, done.stderr) == (0, "")


def charged(control_plane: Any) -> list[Any]:
    return list(control_plane.charged.values())


def test_the_quick_start_needs_only_what_the_demo_prints(
    variables: dict[str, str], control_plane: Any, wire: Any, tmp_path: Path
) -> None:
    script_quick_start(control_plane, wire)
    file = tmp_path / "quickstart.py"
    file.write_text(quick_start())
    printed = {name: value for name, value in variables.items() if name.startswith(("TOKVIGIL", "OPENAI"))}
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, file], env=printed | home, capture_output=True, text=True, timeout=RUN_S_MAX
    )
    assert (done.returncode, done.stderr) == (0, "")
    *answers, block, again = done.stdout.splitlines()
    assert len(answers) == len(control_plane.charged) == QUICK_START_ALLOWED
    assert block == "DAILY_REQUEST_LIMIT_EXCEEDED: Daily request limit of 50 reached for user user_123."
    assert again == "Again in 3600 seconds"
    assert (tmp_path / ".local/state/tokvigil").is_dir()


@pytest.fixture
def root_blocks() -> list[Block]:
    blocks = list(python_blocks(ROOT_README))
    assert {block.heading for block in blocks} == {"How it works"}
    return blocks


def test_the_first_block_of_the_project_is_the_sdk(
    root_blocks: list[Block],
    variables: dict[str, str],
    control_plane: Any,
    wire: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {"__name__": "readme"}
    run(root_blocks[0], names)
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    names["tv"].close()
    assert names["answer"].choices[0].message.content == TEXT
    assert [event["user_id"] for event in charged(control_plane)] == ["user_123"]

    run(root_blocks[0], names)
    names["tv"].close()
    assert capsys.readouterr().out.startswith("DAILY_REQUEST_LIMIT_EXCEEDED Daily request limit of 50")


@pytest.fixture
def plain_http(
    root_blocks: list[Block], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Runs the block as it stands, with what `make demo` prints."""
    (_, block) = root_blocks
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return lambda: run(block, {"__name__": "readme"})


def test_the_second_block_of_the_project_is_plain_http(
    plain_http: Callable[[], None], control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.decision("r-1")))
    plain_http()
    assert control_plane.charged["r-1"]["output_tokens"] == wire_provider.openai.USAGE.output_tokens

    control_plane.script("/v1/evaluate", wire.Answer(200, wire.blocked()))
    with pytest.raises(SystemExit, match="Daily request limit of 50"):
        plain_http()


def test_a_call_of_it_that_the_provider_refuses_holds_nothing(
    plain_http: Callable[[], None], control_plane: Any, wire: Any, wire_provider: WireProvider
) -> None:
    control_plane.script("/v1/evaluate", wire.Answer(200, wire.decision("r-1")))
    control_plane.script("/v1/reservations/r-1", wire.Answer(204, b""))
    wire_provider.fail(401)
    with pytest.raises(AuthenticationError):
        plain_http()
    assert [seen.path for seen in control_plane.seen if seen.method == "DELETE"] == ["/v1/reservations/r-1"]
    assert control_plane.charged == {}


def rows(heading: str) -> list[list[str]]:
    section = SDK_README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_the_configuration_is_the_clients_own() -> None:
    said = {}
    for names, _, default, _ in rows("Configuration"):
        for name in re.findall(r"`(\w+)`", names):
            said[name] = default.strip("`") or "None"
    parameters = list(inspect.signature(TokVigil.__init__).parameters.values())[1:]
    assert said == {each.name: repr(each.default).replace("'", '"') for each in parameters}


def test_the_classes_of_a_block_are_those_of_the_error() -> None:
    named = [cells[0].strip("`") for cells in rows("When a call is blocked")]
    assert sorted(named) == sorted({*get_args(ReasonClass)} - {"allowed"})


def test_the_figures_of_the_table_are_those_of_the_code() -> None:
    from tokvigil import availability, holds, journal, journal_file, reporting, retries

    text = " ".join(SDK_README.read_text().split())
    for figure in (
        f"after {availability.FAILURES_TO_OPEN} failures in a row it is left alone for {availability.OPEN_S:g} s",
        f"sent again after {reporting.BACKOFF_S_FIRST:g} to {reporting.BACKOFF_S_MAX:g} s",
        f"kept in memory, {journal.PENDING_MAX:,} at most",
        f"extended every {holds.EXTEND_EVERY_S / 60:g} minutes",
        f"are sent after {journal_file.STALE_S:g} seconds",
        f"0 to {retries.RETRIES_MAX}",
    ):
        assert figure in text


def test_the_versions_it_names_are_those_that_doctor_knows() -> None:
    said = [
        f"{sdk} {' and '.join(map(str, doctor.WRAPPED_MAJORS[sdk]))}"
        for sdk in ("openai", "anthropic", "google-genai")
    ]
    assert f"It is tested with {', '.join(said[:-1])} and {said[-1]}." in SDK_README.read_text()


@pytest.mark.parametrize("file", [SDK_README, ROOT_README], ids=["sdk", "project"])
def test_links_lead_somewhere(file: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", file.read_text())
    local = [target.partition("#")[0] for target in targets if not target.startswith("http")]
    assert local
    assert [target for target in local if not (file.parent / target).exists()] == []


def test_the_licence_of_the_package_is_that_of_the_project() -> None:
    package, project = (readme.with_name("LICENSE") for readme in (SDK_README, ROOT_README))
    assert package.read_bytes() == project.read_bytes()


def test_names_in_the_text_exist() -> None:
    text = SDK_README.read_text()
    classes = set(re.findall(r"`([A-Z][a-z]\w+)`", text)) - {"Decimal", "False", "None", "True", "ValueError"}
    functions = set(re.findall(r"`(?:tv\.)?([a-z]+(?:_[a-z]+)*)(?:\(\))?`", text))
    public = {*dir(tokvigil), *dir(FakeTokVigil), *dir(AsyncFakeTokVigil)}
    assert len(classes) > 5
    assert (
        sorted(name for name in classes if not hasattr(tokvigil, name) and not hasattr(testing, name)) == []
    )
    methods = {"wrap", "chat", "evaluate", "report", "report_now", "down", "cap", "decision_of"}
    assert methods <= functions & public
