"""`manage.py demo`, as CI and a newcomer run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from sdk.python.tests.readme import SDK_README, quick_start, runs_on_the_demo
from tokvigil_site.embedded import ports
from tokvigil_site.tests.running.commands import (
    START_S_MAX,
    STOP_S_MAX,
    Command,
    processes_of,
    servers_run,
    wait_until,
)

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2225670,9000,55
"""


@pytest.fixture(scope="module")
def demo(new_home: Callable[[], Path]) -> Command:
    home = new_home()
    trace = home.parent / "trace.csv"
    trace.write_text(TRACE)
    command = Command(home, "demo", "--exit", "--port", str(ports.pick_free()), "--trace", str(trace))
    command.finish(120)
    return command


def test_it_ends_well_and_leaves_nothing_running(demo: Command) -> None:
    assert demo.process.returncode == 0, demo.output
    assert processes_of(demo.home) == {}
    assert not servers_run(demo.home)


def test_it_shows_why_calls_were_blocked(demo: Command) -> None:
    blocked = dict(re.findall(r"^  ([A-Z_]+) +(\d+)  \S", demo.output, re.MULTILINE))
    assert (
        blocked.items()
        >= {
            "USER_BLOCKED": "1",
            "MODEL_NOT_ALLOWED": "5",
            "MODEL_DENIED": "2",
            "REQUEST_TOKENS_EXCEEDED": "2",
            "REQUEST_COST_EXCEEDED": "1",
            "DAILY_REQUEST_LIMIT_EXCEEDED": "3",
        }.items()
    )


def test_its_limits_are_limits(demo: Command) -> None:
    assert "50 of 200 at once allowed, limit 50" in demo.output
    assert "3 of 24 at once allowed, limit 3" in demo.output
    assert "MONTHLY_BUDGET_EXCEEDED" in demo.output


def test_it_says_how_many_limits_it_checked(demo: Command) -> None:
    found = re.search(r"ok +no limit is overshot: (\d+) checked, overshot: none", demo.output)
    assert found is not None, demo.output
    assert int(found[1]) > 10


def test_with_exit_it_names_nothing_that_is_gone_then(demo: Command) -> None:
    assert "Look around with `make demo`." in demo.output
    assert "manage.py" not in demo.output
    assert demo.output.endswith("Stopping\n")


def test_counters_and_ledger_agree_at_the_end(demo: Command) -> None:
    assert demo.output.count("drift 0 of ") == 3
    assert demo.output.count("held 0 calls, 0.00 USD") == 3
    assert "FAILED" not in demo.output


def test_its_month_is_the_ledger_and_each_blocked_call_is_counted(demo: Command) -> None:
    made = re.search(r"in demo/run-1-month: 30,000 calls in 62 days, ([\d,]+) of them blocked", demo.output)
    assert made is not None, demo.output
    blocked = int(made[1].replace(",", ""))
    assert f"ok      its blocked calls are counted once each: {blocked} of {blocked}" in demo.output
    assert re.search(r"ok      sums of the month are those of the ledger: \d+ calls", demo.output)


def test_it_names_the_source_and_the_licence_of_a_trace(demo: Command) -> None:
    assert "Azure Public Dataset, Microsoft, CC BY 4.0" in demo.output
    assert "trace.csv: 3 requests into demo/run-1-trace" in demo.output


@pytest.fixture(scope="module")
def staying(new_home: Callable[[], Path]) -> Command:
    command = Command(new_home(), "demo", "--port", str(ports.pick_free()))
    wait_until(lambda: "It stays up" in command.output or command.process.poll() is not None, START_S_MAX)
    assert command.process.poll() is None, command.output
    return command


def printed_variables(command: Command) -> dict[str, str]:
    lines = re.findall(r"^  export (.+)$", command.output, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def test_the_pages_that_it_names_can_be_opened_with_the_login_that_it_prints(staying: Command) -> None:
    _, _, ending = staying.output.partition("Open first: ")
    addresses = re.findall(r"http://\S+", ending)
    login = re.search(r"user (\S+), password ([^\s)]+)", ending)
    assert login is not None, ending
    assert len(addresses) == 6
    with httpx2.Client(follow_redirects=True, timeout=30) as client:
        form = addresses[0].partition("?")[0] + "login/"
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get(form).text)
        assert token is not None
        client.post(
            form,
            data={"username": login[1], "password": login[2], "csrfmiddlewaretoken": token[1]},
            headers={"Referer": form},
        )
        pages = [client.get(address) for address in addresses]
    assert [page.status_code for page in pages] == [200] * 6
    for page in pages:
        assert "run-1-month" in page.text


def test_while_it_stays_up_the_readme_runs_on_it_from_top_to_bottom_with_only_what_it_prints(
    staying: Command, tmp_path: Path
) -> None:
    first, *others = runs_on_the_demo()
    assert first.code == quick_start()
    script = tmp_path / "quickstart.py"
    after = "\nprint('the quick start is over')\n"
    script.write_text(first.code + after + "".join(block.code for block in others))
    system = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, script],
        env=printed_variables(staying) | system,
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said, _, rest = done.stdout.partition("the quick start is over\n")
    *answers, block, again = said.splitlines()
    assert [line.split()[0] for line in answers] == ["1", "2", "3", "4", "5"]
    # As the README says it.
    assert f"```\n{block}\n```" in SDK_README.read_text()
    assert re.fullmatch(r"Again in \d+ seconds", again)
    # The others are not blocked, but for the one that is to be.
    assert re.findall(r"[A-Z]+_[A-Z_]+", rest) == ["MODEL_NOT_ALLOWED"]
    assert "Free plan requests per day 0 of 5" in rest


def test_ended_it_leaves_nothing_running(staying: Command) -> None:
    provider = printed_variables(staying)["OPENAI_BASE_URL"]
    assert staying.end(signal.SIGINT) < STOP_S_MAX
    assert staying.process.returncode == 0, staying.output
    assert processes_of(staying.home) == {}
    assert not servers_run(staying.home)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{provider}/models")
