"""`python -m tokvigil doctor`: one line for each check, and an exit status."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tokvigil import TokVigil, Usage, UsageEvent, __version__, doctor, prices, token_encodings
from tokvigil.__main__ import main
from tokvigil.doctor import Finding
from tokvigil.owner_file import OwnerFile
from tokvigil.spool import Spool

NOBODY = 65_534
SECRET = "s" * 40
KEY = f"tv_dev_0123456789ab_{SECRET}"
EVENT = UsageEvent(
    request_id="r1", user_id="ada", model="gpt-4o-mini", usage=Usage(input_tokens=1, output_tokens=1)
)
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
def path(tmp_path: Path) -> Path:
    """Of the spool; see `no_ambient_configuration`."""
    return tmp_path / "usage.sqlite3"


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
    assert "'last_known'" in found["on_unavailable"][0].found


@pytest.mark.parametrize(
    ("api_key", "url"), [("", "http://h"), (KEY, "tokvigil.example"), ("a b", "http://h")]
)
def test_a_configuration_that_cannot_work_is_a_problem_and_the_rest_is_still_checked(
    api_key: str, url: str
) -> None:
    found = {finding.about: finding for finding in doctor.examine(api_key, url)}
    assert found["configuration"].level == "problem"
    assert found["prices"].level == found["spool"].level == "ok"
    assert "control plane" not in found


def test_a_key_that_travels_unencrypted_is_a_warning() -> None:
    def judged(url: str) -> Finding:
        read = doctor.Configuration.read(KEY, url, timeout=1.0, max_retries=0, on_unavailable="allow")
        return next(iter(doctor._configured(read)))

    assert judged("http://tokvigil.example").level == "warning"
    for url in ("https://tokvigil.example", "http://localhost:8000", "http://10.1.2.3", "http://tokvigil"):
        assert judged(url).level == "ok"
    assert "swordfish" not in str(judged("https://ada:swordfish@tokvigil.example"))


def test_a_key_of_another_shape_is_a_warning_and_not_shown(examine: Examine) -> None:
    found = examine(api_key="sk-proj-swordfish")
    assert levels(found, "key") == ["warning", "ok"]
    assert "swordfish" not in str(found)


def test_a_control_plane_that_does_not_answer_is_a_problem(examine: Examine, unreachable: str) -> None:
    assert levels(examine(url=unreachable), "control plane") == ["problem"]


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
    response = httpx2.Response(200, headers={"Date": "Tue, 24 Nov 2026 12:00:00 GMT"})
    for off_s, level in {-61: "warning", -59: "ok", 59: "ok", 61: "warning"}.items():
        assert doctor._clock(response, now + timedelta(seconds=off_s)).level == level
    assert "90 s behind" in str(doctor._clock(response, now - timedelta(seconds=90)))
    assert doctor._clock(httpx2.Response(200), now).level == "warning"
    monkeypatch.setattr(
        BaseHTTPRequestHandler, "date_time_string", lambda *_: "Tue, 24 Nov 2020 12:00:00 GMT"
    )
    assert "ahead of" in examine()["clock"][0].found


def test_the_spool_shows_what_waits_in_it_and_is_left_as_it_is(
    examine: Examine, control_plane: Any, path: Path
) -> None:
    with (
        TokVigil(KEY, control_plane.url) as tv,
        tv.guard("ada", "chat", "gpt-4o-mini", input_tokens=1) as call,
    ):
        (line,) = examine()["spool"]
        assert (line.level, line.found) == ("ok", f"{path}: 0 pending, 1 under way")
        call.record(EVENT.usage)
    destination = f"{control_plane.url} tv_dev_0123456789ab"
    old = '{"occurred_at": "2026-01-02T03:04:05.678Z"}'
    with sqlite3.connect(path) as db:
        for request_id, owner, where, body in (
            ("pending", None, destination, old),
            ("unreadable", None, destination, "{"),
            ("dead", "f" * 32, destination, old),
            ("other", None, "http://ada:swordfish@other tv_live_y", old),
            ("other 2", None, "http://ada:swordfish@other tv_live_y", old),
            ("third", None, "http://third tv_live_z", old),
        ):
            db.execute(
                "INSERT INTO event (destination, request_id, owner, body) VALUES (?, ?, ?, ?)",
                (where, request_id, owner, body),
            )
        db.execute(
            "INSERT INTO quarantine VALUES (?, 'q', '{}', ?, 0)", (destination, "invalid: no\nsuch model")
        )
    before = sqlite3.connect(path).execute("SELECT * FROM event ORDER BY place").fetchall()
    found = [str(line) for line in examine()["spool"]]
    assert [line.split()[0] for line in found] == ["warning"] * 5
    assert "2 pending, 0 under way, the oldest since 2026-01-02 03:04 UTC" in found[0]
    assert "1 event of a process that died" in found[1]
    assert "2 events for http://other with key tv_live_y. Run a client with that address and key" in found[2]
    assert "1 event for http://third with key tv_live_z. Run" in found[3]
    assert "1 event was refused for good: invalid: no such model" in found[4]
    assert "swordfish" not in " ".join(found)
    assert sqlite3.connect(path).execute("SELECT * FROM event ORDER BY place").fetchall() == before


def test_a_living_process_s_events_are_not_taken_for_a_dead_one_s(
    examine: Examine, control_plane: Any, path: Path
) -> None:
    with (
        TokVigil(KEY, control_plane.url) as tv,
        tv.guard("ada", "chat", "gpt-4o-mini", input_tokens=1) as call,
    ):
        (owner,) = path.parent.glob("*.owner-*")
        assert levels(examine(), "spool") == ["ok"]
        assert owner.exists()
        assert not OwnerFile(path, owner.name.rpartition("-")[2]).is_dead()
        call.record(EVENT.usage)


def test_looking_leaves_a_dead_processs_file_to_whoever_takes_its_events(path: Path) -> None:
    spool = Spool(path, "d")
    spool.add(EVENT)
    owner = path.with_name(f"{path.name}.owner-dead")
    owner.touch()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE event SET owner = 'dead'")
    assert "that died" in " ".join(map(str, doctor._spooled(path, "d")))
    assert owner.exists()
    spool.adopt()
    assert (len(spool), owner.exists()) == (1, False)
    spool.close()


def test_a_spool_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    for impossible in (tmp_path / "file" / "usage.sqlite3", tmp_path / "directory"):
        (line,) = doctor._spooled(impossible, "d")
        assert line.level == "problem"


def test_a_directory_without_write_permission_is_a_problem() -> None:
    """As nobody, where the tests run as root, who may write anywhere; so not in pytest's directory, which is root's."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                if os.geteuid() == 0:
                    os.setuid(NOBODY)
                (line,) = doctor._spooled(Path(directory) / "deep" / "usage.sqlite3", "d")
                os._exit(0 if line.level == "problem" else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_spool_that_is_not_there_yet_is_well_and_not_made(path: Path) -> None:
    (line,) = doctor._spooled(path.parent / "deep" / path.name, "d")
    assert line.level == "ok"
    assert list(path.parent.iterdir()) == []
    path.touch()
    (line,) = doctor._spooled(path, "d")
    assert line.level == "ok"


def test_a_damaged_spool_is_a_warning(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"no database" * 1000)
    (line,) = doctor._spooled(path, "d")
    assert line.level == "warning"


def test_a_file_that_is_somebody_elses_is_a_problem(path: Path) -> None:
    path.write_bytes(b"a letter to Ada")
    (letter,) = doctor._spooled(path, "d")
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE event (title TEXT)")
    db.close()
    (database,) = doctor._spooled(path, "d")
    for line in (letter, database):
        assert line.level == "problem"
        assert "name another file" in line.mend


def test_no_spool_at_all_is_well_if_the_variable_says_so(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKVIGIL_SPOOL", "off")
    (line,) = examine()["spool"]
    assert (line.level, "memory only" in line.found) == ("ok", True)


def test_many_other_destinations_are_counted_and_the_largest_shown(path: Path) -> None:
    spool = Spool(path, "here")
    spool.close()
    with sqlite3.connect(path) as db:
        for number in range(8):
            db.executemany(
                "INSERT INTO event (destination, request_id, body) VALUES (?, ?, '{}')",
                [(f"http://h{number} tv_x_{number}", str(event)) for event in range(number + 1)],
            )
    db.close()
    _, *others = doctor._spooled(path, "here")
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
    assert "base_url" in line.mend
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
    monkeypatch.setattr(token_encodings, "_encodings", token_encodings.Encodings())
    monkeypatch.setitem(token_encodings.RANKS_SHA256, "o200k_base", "0" * 64)
    assert [line.level for line in doctor._counted()] == ["problem", "ok"]


def test_provider_sdks_that_wrap_is_not_tested_with_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda package: "1.109.1" if package == "openai" else "3.0")
    assert [doctor._wrapped(package).level for package in ("openai", "google-genai")] == ["warning", "ok"]
    monkeypatch.undo()
    monkeypatch.setitem(doctor.WRAPPED_MAJORS, "not-installed", (1,))  # type: ignore[misc]
    assert str(doctor._wrapped("not-installed")) == "ok       not-installed: not installed"


@pytest.mark.parametrize("package", doctor.WRAPPED_MAJORS)
def test_the_tests_of_wrap_run_with_versions_that_it_calls_tested(package: str) -> None:
    assert doctor._wrapped(package).level == "ok"
    assert metadata.version(package)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tokvigil", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_as_a_command_it_reads_the_environment_and_exits_with_0(
    control_plane: Any, wire: Any, path: Path
) -> None:
    control_plane.script("/v1/me", wire.Answer(200, me()))
    done = run(
        "doctor",
        TOKVIGIL_API_KEY=KEY,
        TOKVIGIL_BASE_URL=control_plane.url,
        TOKVIGIL_SPOOL=str(path),
    )
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0].split()[:3]) == (0, ["ok", "tokvigil:", f"{__version__},"])
    assert SECRET not in done.stdout + done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"openai", "anthropic", "google.genai", "langchain_openai"}


def test_as_a_command_it_exits_with_1_if_there_is_a_problem(
    control_plane: Any, wire: Any, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control_plane.script("/v1/me", wire.Answer(401, {"code": "INVALID_API_KEY", "detail": "no"}))
    arguments = ["--api-key", KEY, "--base-url", control_plane.url, "--spool", str(path.with_name("mine"))]
    assert main(["doctor", *arguments]) == 1
    out = capsys.readouterr().out
    assert f"{path.with_name('mine')}: 0 pending" in out
    assert SECRET not in out


@pytest.mark.parametrize("arguments", [(), ("nurse",), ("doctor", "--fast")])
def test_a_call_that_is_not_understood_shows_the_usage_and_exits_with_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("usage: python -m tokvigil")
    assert said.out == ""


def test_help_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "doctor" in capsys.readouterr().out
