"""Test sessions get servers of their own: each test here is a pytest run of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokvigil_site.embedded import placement, stack
from tokvigil_site.embedded.pytest_plugin import with_database_number

SET_BY_THE_OUTER_SESSION = (
    "DATABASE_URL",
    "MIGRATION_DATABASE_URL",
    "REDIS_URL",
    "PYTEST_XDIST_WORKER",
    "PYTEST_CURRENT_TEST",
    "PYTEST_ADDOPTS",
)
SAMPLE = """
import os
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from django.conf import settings

@pytest.mark.parametrize("round", range(4))
def test_sample(round):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    assert urlsplit(settings.REDIS_URL).path == f"/{worker}"
    assert redis.Redis.from_url(settings.REDIS_URL).ping()
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("off",)
    with psycopg.connect(os.environ["MIGRATION_DATABASE_URL"]) as connection:
        print("data:", connection.execute("SHOW data_directory").fetchone()[0])
"""


@pytest.fixture(scope="module")
def home(open_folder: Path) -> Iterator[Path]:
    yield open_folder / "home"
    for number in (1, 2):
        stack.delete(open_folder / "home" / "test" / str(number))


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    file = tmp_path / "test_sample.py"
    file.write_text(SAMPLE)
    return file


def test_a_session_has_servers_before_django_reads_its_settings_and_stops_them(
    home: Path, sample: Path
) -> None:
    output = _pytest(home, sample, "-n", "2")
    assert "4 passed" in output
    assert (home / "test" / "1" / "postgres").exists()
    assert stack.status(home / "test" / "1") == stack.Status()


def test_a_second_session_at_the_same_time_takes_other_servers(home: Path, sample: Path) -> None:
    with stack.claimed(home / "test" / "1"):
        output = _pytest(home, sample)
    assert "4 passed" in output
    assert f"data: {home / 'test' / '2' / 'postgres'}" in output
    assert stack.status(home / "test" / "2") == stack.Status()


def test_urls_that_are_set_stay(home: Path, sample: Path) -> None:
    sample.write_text(
        "import os\ndef test_it():\n    assert os.environ['DATABASE_URL'] == 'postgres://mine/mine'\n"
        "    assert 'MIGRATION_DATABASE_URL' not in os.environ\n"
    )
    output = _pytest(home, sample, DATABASE_URL="postgres://mine/mine", REDIS_URL="redis://mine")
    assert "1 passed" in output


def test_a_stack_that_does_not_start_is_one_sentence(open_folder: Path, sample: Path) -> None:
    blocked = open_folder / "a-file"
    blocked.touch()
    output = _pytest(blocked, sample)
    assert "ERROR: " in output
    assert "cannot be created" in output
    assert "Traceback" not in output


def test_the_database_number_replaces_the_one_in_the_url() -> None:
    assert with_database_number("redis://:secret@127.0.0.1:1/0", 3) == "redis://:secret@127.0.0.1:1/3"


def _pytest(home: Path, *arguments: object, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in SET_BY_THE_OUTER_SESSION}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-sq",
            "-c",
            "pyproject.toml",
            "--rootdir",
            ".",
            *map(str, arguments),
        ],
        cwd=placement.CHECKOUT,
        env=environment | {"TOKVIGIL_HOME": str(home)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr
