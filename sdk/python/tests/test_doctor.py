"""`python -m tokvigil doctor`: one line for each check, and an exit status."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tokvigil import (
    ConfigurationError,
    TokVigil,
    Usage,
    UsageEvent,
    __version__,
    doctor,
    prices,
    token_encodings,
)
from tokvigil.__main__ import main
from tokvigil.doctor import Finding
from tokvigil.journal import Journal, directory_in
from tokvigil.journal_file import is_in_use
from tokvigil.links import Answer
from tokvigil.quarantine import read, set_aside
from tokvigil.question import Report

from sdk.python.tests.test_journal import files, leave, line, on_disk, report

NOBODY = 65_534
SECRET = "s" * 40
KEY = f"tv_dev_0123456789ab_{SECRET}"
USAGE = Usage(input_tokens=1, output_tokens=1)
OLD = "2026-01-02T03:04:05.678Z"
Examine = Callable[..., dict[str, list[Finding]]]


def me(**changes: Any) -> dict[str, Any]:
    return {
        "tenant": {"slug": "acme", "name": "Acme", "timezone": "UTC"},
        "environment": {"slug": "dev", "frozen": False, "default_action": "allow"},
        "key": {
            "name": "backend",
            "key_id": "0123456789ab",
            "scopes": ["evaluate", "policies:read", "usage:read", "usage:write"],
            "expires_at": None,
        },
    } | changes


def key(**changes: Any) -> dict[str, Any]:
    return me(key=me()["key"] | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the journal; see `no_ambient_configuration`."""
    return tmp_path / "journal"


@pytest.fixture
def examine(control_plane: Any, wire: Any) -> Examine:
    """The findings by what they are about, with `/v1/me` answered as given."""

    def findings(
        answer: Any = None, status: int = 200, api_key: str | None = KEY, url: str = ""
    ) -> dict[str, list[Finding]]:
        control_plane.script("/v1/me", wire.Answer(status, me() if answer is None else answer))
        by_subject: dict[str, list[Finding]] = {}
        for finding in doctor.examine(api_key, url or control_plane.url):
            assert SECRET not in str(finding)
            by_subject.setdefault(finding.about, []).append(finding)
        return by_subject

    return findings


def levels(findings: dict[str, list[Finding]], about: str) -> list[str]:
    return [finding.level for finding in findings[about]]


def test_where_all_is_well_every_line_says_so(examine: Examine) -> None:
    found = examine()
    assert {finding.level for lines in found.values() for finding in lines} == {"ok"}
    assert str(found["environment"][0]) == "ok       environment: acme/dev"
    assert "tv_dev_0123456789ab" in found["configuration"][0].found
    assert found["scopes"][0].found == "evaluate, policies:read, usage:read, usage:write"
    assert len(found["tokens"]) == 2
    assert prices.version() in found["prices"][0].found


@pytest.mark.parametrize(
    ("api_key", "url"), [("", "http://h"), (KEY, "tokvigil.example"), ("a b", "http://h")]
)
def test_a_configuration_that_cannot_work_is_a_problem_and_the_rest_is_still_checked(
    api_key: str, url: str
) -> None:
    found = {finding.about: finding for finding in doctor.examine(api_key, url)}
    assert found["configuration"].level == "problem"
    assert found["prices"].level == found["journal"].level == "ok"
    assert "control plane" not in found


def test_all_that_is_missing_is_said_at_once() -> None:
    lines = [str(finding) for finding in doctor.examine() if finding.about == "configuration"]
    assert [re.findall(r"set (TOKVIGIL_\w+)", line) for line in lines] == [
        ["TOKVIGIL_API_KEY"],
        ["TOKVIGIL_BASE_URL"],
    ]


def test_a_key_that_travels_unencrypted_is_a_warning() -> None:
    def judged(url: str) -> Finding:
        read = doctor.Configuration.read(KEY, url, timeout=1.0, max_retries=0, on_unreachable="allow")
        return next(iter(doctor._configured(read)))

    assert judged("http://tokvigil.example").level == "warning"
    for url in ("https://tokvigil.example", "http://localhost:8000", "http://10.1.2.3", "http://tokvigil"):
        assert judged(url).level == "ok"


def test_a_key_of_another_shape_is_a_warning_and_not_shown(examine: Examine) -> None:
    found = examine(api_key="sk-proj-swordfish")
    assert levels(found, "key") == ["warning", "ok"]
    assert "swordfish" not in str(found)


def test_a_control_plane_that_does_not_answer_is_a_problem(examine: Examine, unreachable: str) -> None:
    (line_,) = examine(url=unreachable)["control plane"]
    assert line_.level == "problem"
    assert unreachable in line_.found


def test_a_proxy_on_the_way_is_named_without_its_password(
    examine: Examine, unreachable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", unreachable.replace("//", "//bob:swordfish@"))
    (line_,) = examine(url="http://tokvigil.example")["control plane"]
    said = str(line_)
    assert line_.level == "problem"
    assert "http://tokvigil.example" in said
    assert f"through the proxy {unreachable.removeprefix('http://')}" in said
    assert "swordfish" not in said


@pytest.mark.parametrize("wrong", ["ftp://proxy", "socks5://proxy:1080"])
def test_a_proxy_that_cannot_be_is_a_problem_as_it_is_for_a_client(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", wrong)
    with pytest.raises(ConfigurationError) as of_client:
        TokVigil(api_key=KEY, base_url="http://tokvigil.example")
    (line_,) = examine(url="http://tokvigil.example")["control plane"]
    assert line_.level == "problem"
    assert str(of_client.value) in str(line_)


@pytest.mark.parametrize("kind", ["no TLS", "no such host"])
def test_a_wrong_address_is_mended_as_a_client_says_it(
    examine: Examine, control_plane: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    url = control_plane.url.replace("http://", "https://")
    if kind == "no such host":
        # Not the address of tokvigil.testing, where TokVigil has answered.
        url = "http://no-such-host.invalid"

        def look_up(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with (
        TokVigil(api_key=KEY, base_url=url, journal=False) as tv,
        pytest.raises(ConfigurationError) as of_client,
    ):
        tv.evaluate(user_id="ada", model="gpt-4o-mini")
    (line_,) = examine(url=url)["control plane"]
    assert line_.level == "problem"
    assert str(of_client.value) in str(line_)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, b"<html>"),
        (200, {"status": "ok"}),
        (404, b"not here"),
        (401, {"detail": "Not authenticated"}),
        (502, b""),
        (503, {}),
    ],
)
def test_whatever_else_answers_is_a_problem(examine: Examine, status: int, answer: Any) -> None:
    found = examine(answer, status)
    assert levels(found, "control plane") == ["problem"]
    assert "key" not in found


def test_an_answer_that_cannot_be_read_is_a_problem(examine: Examine) -> None:
    for answer in (key(scopes=None), me(tenant=[]), key(expires_at="soon")):
        assert levels(examine(answer), "key") == ["problem"]


def test_a_refused_key_is_a_problem_even_if_the_answer_repeats_its_secret(examine: Examine) -> None:
    found = examine({"code": "INVALID_API_KEY", "detail": f"who is {KEY}?\nNobody"}, 401)
    assert levels(found, "control plane") == ["ok"]
    (refused,) = found["key"]
    assert refused.level == "problem"
    assert "INVALID_API_KEY" in refused.found
    assert "who is tv_dev_0123456789ab_***? Nobody" in str(refused)


def test_a_key_that_asks_too_often_is_a_warning(examine: Examine) -> None:
    assert levels(examine({"code": "RATE_LIMITED", "detail": "wait"}, 429), "key") == ["warning"]


def test_a_scope_that_the_sdk_needs_is_a_problem_and_one_that_is_useful_a_warning(examine: Examine) -> None:
    for missing, level in {"evaluate": "problem", "usage:write": "problem", "usage:read": "warning"}.items():
        scopes = [scope for scope in me()["key"]["scopes"] if scope != missing]
        (finding,) = examine(key(scopes=scopes))["scopes"]
        assert (finding.level, missing in finding.found) == (level, True)


def test_a_key_that_ends_soon_and_a_frozen_environment_are_warnings(examine: Examine) -> None:
    def after(days: int) -> str:
        return (datetime.now(UTC) + timedelta(days=days)).isoformat()

    assert levels(examine(key(expires_at=after(5))), "key") == ["warning"]
    assert levels(examine(key(expires_at=after(50))), "key") == ["ok"]
    frozen = me(environment=me()["environment"] | {"frozen": True})
    assert levels(examine(frozen), "environment") == ["warning"]


def test_a_clock_that_is_off_is_a_warning(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    response = Answer(status=200, headers=[(b"date", b"Tue, 24 Nov 2026 12:00:00 GMT")])
    for off_s, level in {-61: "warning", -59: "ok", 59: "ok", 61: "warning"}.items():
        assert doctor._clock(response, now + timedelta(seconds=off_s)).level == level
    assert "90 s behind" in str(doctor._clock(response, now - timedelta(seconds=90)))
    assert doctor._clock(Answer(status=200), now).level == "warning"
    monkeypatch.setattr(
        BaseHTTPRequestHandler, "date_time_string", lambda *_: "Tue, 24 Nov 2020 12:00:00 GMT"
    )
    assert "ahead of" in examine()["clock"][0].found


def test_the_journal_shows_what_waits_in_it_and_is_left_as_it_is(
    examine: Examine, control_plane: Any, folder: Path
) -> None:
    with (
        TokVigil(api_key=KEY, base_url=control_plane.url) as tv,
        tv.guard(user_id="ada", feature="chat", model="gpt-4o-mini", input_tokens=1) as call,
    ):
        (line_,) = examine()["journal"]
        assert (line_.level, line_.found) == ("ok", f"{folder}: 0 pending, 1 under way")
        call.record(USAGE)
    where = f"{control_plane.url} tv_dev_0123456789ab"
    others = "http://other tv_live_y", "http://third tv_live_z"
    living = Journal(folder, where)
    living.report(report("pending", occurred_at=OLD))
    living.report(report("no time", occurred_at="soon"))
    leave(folder, line("final", *report("dead", occurred_at=OLD)), destination=where)
    leave(folder, line("asking", *report("a")), line("final", *report("b")), destination=others[0])
    leave(folder, line("final", *report("c")), destination=others[1])
    leave(folder, b"what is this?\n", destination=others[1])
    set_aside(directory_in(folder, where), where, report().body, "invalid: no\nsuch model")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    found = [str(line_) for line_ in examine()["journal"]]
    assert [line_.split()[0] for line_ in found] == ["warning"] * 5
    assert "2 pending, 0 under way, the oldest since 2026-01-02 03:04 UTC" in found[0]
    assert "1 event of a process that died" in found[1]
    assert "2 events for http://other with key tv_live_y. Run a client with that address and key" in found[2]
    assert f"if there is no such server, delete {directory_in(folder, others[0])}" in found[2]
    assert "1 event for http://third with key tv_live_z. Run" in found[3]
    assert "1 event was refused for good: invalid: no such model" in found[4]
    assert "tokvigil quarantine" in found[4]
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    living.close()


def test_a_living_process_s_events_are_not_taken_for_a_dead_one_s(
    examine: Examine, control_plane: Any, folder: Path
) -> None:
    with (
        TokVigil(api_key=KEY, base_url=control_plane.url) as tv,
        tv.guard(user_id="ada", feature="chat", model="gpt-4o-mini", input_tokens=1) as call,
    ):
        (path,) = folder.rglob("*.jsonl")
        assert levels(examine(), "journal") == ["ok"]
        assert is_in_use(path)
        call.record(USAGE)


def test_looking_leaves_a_dead_processs_file_to_whoever_takes_it(folder: Path) -> None:
    path = leave(folder, line("final", *report()))
    assert "that died" in " ".join(map(str, doctor._written_down(folder, "here")))
    assert path.exists()
    journal = Journal(folder, "here")
    assert journal.take_over()
    assert len(journal) == 1
    journal.close()


def test_a_folder_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    # In /proc nothing can be made, whatever its permissions say.
    for impossible in (tmp_path / "file" / "journal", tmp_path / "file", Path("/proc/x")):
        (line_,) = doctor._written_down(impossible, "here")
        assert line_.level == "problem"


def test_a_directory_without_write_permission_is_a_problem() -> None:
    """As nobody, where the tests run as root, who may write anywhere; so not in pytest's directory, which is root's."""
    with tempfile.TemporaryDirectory() as directory:
        shared = Path(directory) / "shared"
        directory_in(shared, "here").mkdir(parents=True, mode=0o555)
        shared.chmod(0o777)
        Path(directory).chmod(0o555)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                if os.geteuid() == 0:
                    os.setuid(NOBODY)
                (line,) = doctor._written_down(Path(directory) / "deep", "here")
                (others,) = doctor._written_down(shared, "here")
                os._exit(0 if line.level == others.level == "problem" else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_folder_that_is_not_there_yet_is_well_and_not_made(folder: Path) -> None:
    (line_,) = doctor._written_down(folder / "deep", "here")
    assert line_.level == "ok"
    assert list(folder.parent.iterdir()) == []


def test_what_is_no_journal_is_not_counted(folder: Path) -> None:
    path = leave(folder, line("final", *report()))
    path.write_bytes(path.read_bytes().replace(b"journal 1", b"journal 2"))
    (line_,) = doctor._written_down(folder, "here")
    assert (line_.level, line_.found) == ("ok", f"{folder}: 0 pending, 0 under way")


def test_no_journal_at_all_is_well_if_the_variable_says_so(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKVIGIL_JOURNAL", "off")
    (line_,) = examine()["journal"]
    assert (line_.level, "memory only" in line_.found) == ("ok", True)


def test_many_other_destinations_are_counted_and_the_largest_shown(folder: Path) -> None:
    for number in range(8):
        finals = [line("final", *report(str(each))) for each in range(number + 1)]
        leave(folder, *finals, destination=f"http://h{number} tv_x_{number}")
    _, *others = doctor._written_down(folder, "here")
    assert len(others) == 6
    assert "8 events for http://h7 with key tv_x_7" in others[0].found
    assert others[-1].found == "6 events for 3 more destinations"


def test_a_sentence_that_ends_by_itself_gets_no_second_full_stop(examine: Examine) -> None:
    (refused,) = examine({"code": "INVALID_API_KEY", "detail": "No such key."}, 401)["key"]
    assert "No such key. Use another one" in str(refused)


@pytest.mark.parametrize("answer", [{"code": "NOT_FOUND", "detail": "No such page."}, b"not here"])
def test_a_page_that_does_not_exist_is_a_matter_of_the_address(
    examine: Examine, control_plane: Any, answer: Any
) -> None:
    found = examine(answer, 404, url=control_plane.url + "/")
    (line,) = found["control plane"]
    assert line.level == "problem"
    assert f"{control_plane.url}/v1/me answered 404" in line.found
    assert "this is not TokVigil" in str(line).replace("This", "this")
    assert "key" not in found


def test_old_prices_are_a_warning() -> None:
    at = datetime(2026, 11, 24, tzinfo=UTC)
    assert at - timedelta(days=120) < prices.newest(at) <= at
    assert doctor._priced(at).level == "ok"
    assert doctor._priced(datetime(2036, 1, 1, tzinfo=UTC)).level == "warning"


def test_whoever_reads_but_the_first_line_sees_no_traceback() -> None:
    doctor_run = subprocess.Popen(
        [sys.executable, "-m", "tokvigil", "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}
    )
    assert doctor_run.stdout is not None
    doctor_run.stdout.close()
    _, said = doctor_run.communicate(timeout=60)
    assert (doctor_run.returncode, said) == (1, b"")


def test_damaged_ranks_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_encodings, "_built", {})
    monkeypatch.setitem(token_encodings.RANKS_SHA256, "o200k_base", "0" * 64)
    assert [line.level for line in doctor._counted()] == ["problem", "ok"]


def test_without_tiktoken_tokens_are_estimated_and_that_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda package: None)
    (line,) = doctor._counted()
    assert str(line) == "ok       tokens: estimated; exact counts need tiktoken: pip install tiktoken"


def test_provider_sdks_that_wrap_is_not_tested_with_are_warnings_and_absent_ones_are_not_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"openai": "1.109.1", "google-genai": "3.0"}

    def version(package: str) -> str:
        if package not in installed:
            raise metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(metadata, "version", version)
    assert [(line.about, line.level) for line in doctor._wrapped()] == [
        ("openai", "warning"),
        ("google-genai", "ok"),
    ]


@pytest.mark.parametrize("package", doctor.WRAPPED_MAJORS)
def test_the_tests_of_wrap_run_with_versions_that_it_calls_tested(package: str) -> None:
    locks = Path(__file__).with_name("frameworks").glob("*.lock")
    majors = {
        int(major)
        for lock in locks
        for major in re.findall(rf"^{package}==(\d+)", lock.read_text(), re.MULTILINE)
    }
    with contextlib.suppress(metadata.PackageNotFoundError):
        majors.add(int(metadata.version(package).partition(".")[0]))
    assert majors == set(doctor.WRAPPED_MAJORS[package])


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tokvigil", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_as_a_command_it_reads_the_environment_and_exits_with_0(
    control_plane: Any, wire: Any, folder: Path
) -> None:
    control_plane.script("/v1/me", wire.Answer(200, me()))
    done = run(
        "doctor",
        TOKVIGIL_API_KEY=KEY,
        TOKVIGIL_BASE_URL=control_plane.url,
        TOKVIGIL_JOURNAL=str(folder),
    )
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0].split()[:3]) == (0, ["ok", "tokvigil:", f"{__version__},"])
    assert SECRET not in done.stdout + done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"openai", "anthropic", "google.genai", "langchain_openai"}


def test_as_a_command_it_exits_with_1_if_there_is_a_problem(
    control_plane: Any, wire: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control_plane.script("/v1/me", wire.Answer(401, {"code": "INVALID_API_KEY", "detail": "no"}))
    arguments = [
        "--api-key",
        KEY,
        "--base-url",
        control_plane.url,
        "--journal",
        str(folder.with_name("mine")),
    ]
    assert main(["doctor", *arguments]) == 1
    out = capsys.readouterr().out
    assert f"{folder.with_name('mine')}: 0 pending" in out
    assert SECRET not in out


@pytest.mark.parametrize("arguments", [("nurse",), ("doctor", "--fast")])
def test_a_call_that_is_not_understood_shows_the_usage_and_exits_with_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("usage: python -m tokvigil")
    assert said.out == ""


def test_without_a_command_it_says_which_there_are_and_exits_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    for line_ in ("usage: python -m tokvigil", "check configuration", "show the usage reports"):
        assert line_ in said.err


def test_help_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "doctor" in capsys.readouterr().out


def quarantine(*arguments: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["quarantine", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_quarantine_is_shown_with_time_request_and_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quarantine(capsys=capsys) == [f"nothing is set aside in {folder}"]
    for where in ("here", "there"):
        leave(folder, destination=where)
        set_aside(directory_in(folder, where), where, report(where).body, "invalid: no\nsuch model")
    set_aside(directory_in(folder, "there"), "there", b"what is\xff this?", "it cannot be read")
    (directory_in(folder, "there") / "quarantine").open("a").write("not from here\n")
    lines = sorted(each.split(maxsplit=4) for each in quarantine(capsys=capsys))
    now = f"{datetime.now(UTC):%Y-%m-%d}"
    assert [(each[0], *each[2:]) for each in lines[1:]] == [
        (now, "UTC", "-", "it cannot be read"),
        (now, "UTC", "here", "invalid: no such model"),
        (now, "UTC", "there", "invalid: no such model"),
    ]
    assert lines[0] == ["-", "-", "it", "cannot", "be read"]
    elsewhere = folder / "elsewhere"
    said = quarantine("--journal", str(elsewhere), capsys=capsys)
    assert said == [f"nothing is set aside in {elsewhere}"]


def test_what_was_set_aside_is_sent_again_and_what_cannot_be_read_stays(
    control_plane: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"{control_plane.url} tv_dev_0123456789ab"
    directory = directory_in(folder, where)
    event = UsageEvent(request_id="r1", user_id="ada", model="m", usage=USAGE)
    with TokVigil(api_key=KEY, base_url=control_plane.url) as client:
        client._reporter.journal.report(Report.of(event))
        client._reporter.journal.settle({"r1": "invalid"})
        set_aside(directory, where, b"what is this?", "it cannot be read")
        assert quarantine("--send", capsys=capsys)[-1] == "to be sent again by the next client: 1"
        assert client.flush() == 0
    assert control_plane.charged == {"r1": event.to_wire()}
    assert [each.report for each in read(directory)] == ["what is this?"]
    assert (directory / "quarantine").stat().st_mode & 0o777 == 0o600
    assert quarantine("--send", capsys=capsys)[-1] == "to be sent again by the next client: 0"
    assert files(folder, where) == []


def test_sending_the_quarantine_again_is_finished_after_a_kill(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(folder, "here")
    journal.report(report())
    journal.settle({"r1": "invalid"})

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", kill)
        with pytest.raises(KeyboardInterrupt):
            main(["quarantine", "--send"])
    journal.report(report("r2"))
    journal.settle({"r2": "invalid"})
    assert quarantine("--send", capsys=capsys)[-1] == "to be sent again by the next client: 2"
    assert set(on_disk(folder)) == {"r1", "r2"}
    assert read(directory_in(folder, "here")) == []
    journal.close()
