"""What `manage.py up` gives who starts it in an empty home."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.cookiejar import CookieJar
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError

from tokvigil_site.embedded import ports, stack
from tokvigil_site.management.commands import up as up_command
from tokvigil_site.tests.running.commands import ROOT, START_S_MAX, Command, Up, processes_of


def test_it_answers_to_the_key_it_prints(up: Up) -> None:
    me = json.load(up.get("/v1/me", Authorization=f"Bearer {up.key}"))
    assert (me["tenant"]["slug"], me["environment"]["slug"]) == ("demo", "prod")


def test_it_is_ready_and_knows_prices(up: Up) -> None:
    assert json.load(up.get("/readyz"))["status"] == "ok"
    models = json.load(up.get("/v1/models", Authorization=f"Bearer {up.key}"))["models"]
    assert "gpt-4o-mini" in {model["model"] for model in models}


def test_the_admin_login_it_prints_works(up: Up) -> None:
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    page = browser.open(f"{up.url}/admin/login/").read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert token is not None
    form = {
        "username": "admin",
        "password": up.said(r"user admin, password (\S+)"),
        "csrfmiddlewaretoken": token[1],
        "next": "/admin/",
    }
    landed = browser.open(f"{up.url}/admin/login/", urllib.parse.urlencode(form).encode())
    assert landed.url == f"{up.url}/admin/"


def test_every_style_sheet_of_the_login_page_is_served(up: Up) -> None:
    sheets = re.findall(r'href="([^"]+\.css)"', up.get("/admin/login/").read().decode())
    assert sheets
    for sheet in sheets:
        answer = up.get(sheet)
        assert answer.headers["Content-Type"].startswith("text/css"), sheet
        assert answer.read(), sheet


def test_the_commands_it_prints_work_as_they_stand(up: Up) -> None:
    line = up.said(r"Rules +(.+) FILE\.yaml")
    python, manage, *arguments = line.split()
    assert (python, manage) == (os.path.relpath(sys.executable), "manage.py")
    assert arguments == ["apply_policies", "demo/prod"]


def shell(up: Up, script: str, folder: Path) -> str:
    """What a shell says to it in an empty folder; the first that fails ends it."""
    here = script.replace(".venv/bin/python manage.py", f"{sys.executable} {ROOT / 'manage.py'}")
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", here],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "TOKVIGIL_HOME": str(up.home)},
        capture_output=True,
        text=True,
        timeout=START_S_MAX * 3,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_policies_as_code_is_pasted_from_the_readme_as_it_stands(up: Up, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("\n## Policies as code\n")[1]
    said = shell(up, section.split("```sh\n")[1].split("```")[0], tmp_path)

    assert "1 added, 0 changed, 0 archived, 0 unchanged (dry run: nothing was changed)" in said
    assert said.endswith("1 added, 0 changed, 0 archived, 0 unchanged\n")
    (key,) = re.findall(r"^tv_prod_\w+$", said, re.MULTILINE)
    found = json.load(up.get("/v1/policies", Authorization=f"Bearer {key}"))["policies"]
    assert [policy["name"] for policy in found] == ["Everyone"]


def test_the_call_it_prints_is_asked_and_reported_by_pasting(up: Up, tmp_path: Path) -> None:
    ask = up.said(r"Ask +(curl (?:.|\n)+?'\{(?:.|\n)+?\}')")
    report = up.said(r"Report +(curl (?:.|\n)+?'\{(?:.|\n)+?\}')")
    decision = json.loads(shell(up, ask, tmp_path))
    assert decision["allowed"]
    answer = json.loads(shell(up, report.replace("REQUEST_ID", decision["request_id"]), tmp_path))
    assert (answer["request_id"], answer["priced"]) == (decision["request_id"], True)


def test_only_the_owner_can_read_what_it_keeps_secret(up: Up) -> None:
    kept = {file.name: file.stat().st_mode & 0o777 for file in (up.home / "secrets").iterdir()}
    assert kept == dict.fromkeys(
        ("admin_password", "api_key", "api_key_pepper", "audit_key", "secret_key"), 0o600
    )


def test_the_admin_that_it_makes_is_one_audit_entry(up: Up) -> None:
    with psycopg.connect((stack.running_urls(up.home) or ("", ""))[0]) as database:
        entries = database.execute("SELECT actor, target_name FROM audit_entry WHERE action LIKE 'user.%'")
        assert entries.fetchall() == [("cli:up", "admin")]


def test_what_it_starts_does_not_know_the_owner_of_the_tables(up: Up) -> None:
    owner = urllib.parse.urlsplit(stack.owner_url(up.home) or "").password
    assert owner
    processes = processes_of(up.home)
    started = [pid for pid in processes if pid != up.process.pid]
    assert len(started) >= 3
    for pid in started:
        environ = Path(f"/proc/{pid}/environ").read_text()
        assert "DATABASE_URL=" in environ
        assert "MIGRATION" not in environ, processes[pid]
        assert owner not in environ


def test_other_commands_find_the_same_home(up: Up) -> None:
    issuing = Command(up.home, "issue_key", "demo/prod", "--name", "second")
    assert issuing.finish() == 0, issuing.output
    me = json.load(up.get("/v1/me", Authorization=f"Bearer {issuing.output.strip()}"))
    assert me["key"]["name"] == "second"


def test_a_second_one_in_the_same_home_is_told_why_not(up: Up) -> None:
    second = Command(up.home, "up")
    assert second.finish() == 1
    assert second.output.startswith(f"Another `manage.py up` or `demo` runs in {up.home}: stop that one")
    assert "Traceback" not in second.output


def test_one_on_the_same_port_is_told_so(up: Up, new_home: Callable[[], Path]) -> None:
    database_url, redis_url = stack.running_urls(up.home) or ("", "")
    other = Command(new_home(), "up", "--port", str(up.port), DATABASE_URL=database_url, REDIS_URL=redis_url)
    assert other.finish() == 1
    assert f"Port {up.port} is taken" in other.output
    assert f"`--port {up.port + 1}`" in other.output
    assert f'ARGS="--port {up.port + 1}"' in other.output
    assert "Traceback" not in other.output


def test_a_database_that_is_not_there_is_named(up: Up, new_home: Callable[[], Path]) -> None:
    nowhere = "postgres://nobody@127.0.0.1:1/nothing"
    # Not a port that only root may take.
    port = str(ports.pick_free())
    other = Command(new_home(), "up", "--port", port, DATABASE_URL=nowhere, REDIS_URL="redis://127.0.0.1:1/0")
    assert other.finish() == 1
    assert "check DATABASE_URL" in other.output
    assert "Traceback" not in other.output


def test_its_help_needs_neither_secrets_nor_servers(new_home: Callable[[], Path]) -> None:
    home = new_home()
    asking = Command(home, "up", "--help")
    assert asking.finish() == 0, asking.output
    assert "--port" in asking.output
    assert not home.exists()


@pytest.mark.parametrize("options", [("--port", "0"), ("--port", "65536"), ("--workers", "none")])
def test_a_number_out_of_range_is_refused_with_the_range(options: tuple[str, str]) -> None:
    with pytest.raises(CommandError, match="is no whole number from 1 to"):
        up_command.Command().create_parser("manage.py", "up").parse_args(options)
