"""What a started stack is and keeps, for root and for an ordinary user."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import environ
import psycopg
import pytest
import redis

from tokvigil_site.embedded import files, placement, ports, stack, state
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.tests.embedded.servers import Actor, Modes, modes_above, query, valkey


@pytest.fixture(scope="module")
def modes_before(home: Path) -> Modes:
    return modes_above(home)


@pytest.fixture
def running(actor: Actor, home: Path, modes_before: Modes) -> Stack:
    return actor.do(stack.start, home)


@pytest.fixture
def new_home(actor: Actor, home: Path) -> Iterator[Path]:
    new = home.with_name("new")
    yield new
    stack.delete(new)
    shutil.rmtree(new, ignore_errors=True)


def test_both_servers_answer_at_their_urls(running: Stack) -> None:
    assert environ.Env.db_url_config(running.database_url)["ENGINE"] == "django.db.backends.postgresql"
    assert query(running.database_url, "SELECT current_database()") == "tokvigil"
    assert valkey(running.redis_url).ping()


def test_the_servers_are_set_up_as_promised(running: Stack) -> None:
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "databases": "64",
        "bind": "127.0.0.1",
        "save": "",
    }
    assert valkey(running.redis_url).config_get(*wanted) == wanted
    assert query(running.database_url, "SHOW fsync") == "on"
    assert query(running.database_url, "SHOW max_connections") == "200"
    assert query(running.database_url, "SHOW shared_buffers") == "256MB"
    assert query(running.database_url, "SHOW listen_addresses") == "127.0.0.1"


def test_without_the_password_nobody_gets_in(running: Stack) -> None:
    password = _password(running.redis_url)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(running.database_url.replace(password, "guess"), "SELECT 1")
    # What the application knows is not the owner's password either.
    owner = running.owner_url.replace(_password(running.owner_url), password)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(owner, "SELECT 1")
    with pytest.raises(redis.AuthenticationError):
        valkey(running.redis_url.replace(password, "guess")).ping()


def test_only_the_owner_can_read_the_password(running: Stack) -> None:
    now = stack.status(running.home)
    command_lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (now.postgres_pid, now.valkey_pid)]
    for password in (_password(running.redis_url).encode(), _password(running.owner_url).encode()):
        readable_by_others = [
            file
            for file in running.home.rglob("*")
            if file.is_file() and file.stat().st_mode & 0o077 and password in file.read_bytes()
        ]
        assert readable_by_others == []
        assert not any(password in line for line in command_lines)


def test_the_servers_never_run_as_root(running: Stack) -> None:
    now = stack.status(running.home)
    assert 0 not in {Path(f"/proc/{pid}").stat().st_uid for pid in (now.postgres_pid, now.valkey_pid)}


def test_a_second_start_gives_the_same_servers(actor: Actor, running: Stack) -> None:
    before = stack.status(running.home)
    assert actor.do(stack.start, running.home) == running
    assert stack.status(running.home) == before


def test_what_was_written_survives_stop_and_start(actor: Actor, running: Stack) -> None:
    _write(running)
    actor.do(stack.stop, running.home)
    assert stack.status(running.home) == stack.Status()
    assert actor.do(stack.start, running.home) == running
    assert _written(running)


def test_what_was_written_survives_kill_9_of_both_servers(actor: Actor, running: Stack) -> None:
    _write(running)
    _kill_both(running.home)
    assert actor.do(stack.start, running.home) == running
    assert _written(running)


def test_a_stranger_with_the_dead_server_s_process_id_does_not_hinder_a_start(
    actor: Actor, running: Stack, stranger: int
) -> None:
    _kill_both(running.home)
    for file in (running.home / "postgres/postmaster.pid", running.home / "valkey/valkey.pid"):
        rest = file.read_text().partition("\n")[2]
        file.write_text(f"{stranger}\n{rest}")
    assert stack.status(running.home) == stack.Status()
    assert actor.do(stack.start, running.home) == running
    actor.do(stack.stop, running.home)
    os.kill(stranger, 0)


@pytest.fixture
def stranger(actor: Actor, running: Stack) -> Iterator[int]:
    """Another process of the account that runs the servers."""
    owner = (running.home / "postgres").stat()
    identity = {"user": owner.st_uid} if os.geteuid() == 0 else {}
    process = subprocess.Popen(["sleep", "60"], **identity)  # type: ignore[call-overload]
    yield process.pid
    process.kill()
    process.wait()


def test_a_taken_port_is_replaced_by_another(actor: Actor, running: Stack) -> None:
    actor.do(stack.stop, running.home)
    with _listening(running.database_url), _listening(running.redis_url):
        again = actor.do(stack.start, running.home)
    assert urlsplit(again.database_url).port != urlsplit(running.database_url).port
    assert urlsplit(again.redis_url).port != urlsplit(running.redis_url).port
    assert query(again.database_url, "SELECT 1") == 1


def test_the_status_names_the_one_server_that_is_down(actor: Actor, running: Stack) -> None:
    actor.do(running.kill_valkey)
    command = [sys.executable, "-m", "tokvigil_site.embedded", "status", "--home", str(running.home)]
    asked = subprocess.run(command, cwd=placement.CHECKOUT, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stderr) == (3, f"Valkey is not running in {running.home}.\n")


def test_one_server_that_died_is_started_beside_the_other(actor: Actor, running: Stack) -> None:
    before = stack.status(running.home)
    actor.do(running.kill_valkey)
    assert stack.running_urls(running.home) is None
    assert actor.do(stack.start, running.home) == running
    assert stack.status(running.home).postgres_pid == before.postgres_pid


def test_servers_can_be_taken_down_and_brought_back_on_their_ports(actor: Actor, running: Stack) -> None:
    _write(running)
    actor.do(running.kill_valkey)
    actor.do(running.stop_postgres)
    with pytest.raises(redis.ConnectionError):
        valkey(running.redis_url).ping()
    with pytest.raises(psycopg.OperationalError):
        query(running.database_url, "SELECT 1")
    actor.do(running.start_valkey)
    actor.do(running.start_postgres)
    assert _written(running)


def test_bringing_a_server_back_on_a_taken_port_says_so(
    actor: Actor, running: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokvigil_site.embedded.valkey.APPEAR_TIMEOUT_S", 0.5)
    actor.do(stack.stop, running.home)
    with _listening(running.database_url), _listening(running.redis_url):
        with pytest.raises(
            StackError, match=r"(?s)PostgreSQL did not start on port \d+.*Address already in use"
        ):
            actor.do(running.start_postgres)
        with pytest.raises(StackError, match=r"(?s)Valkey did not start on port \d+.*Address already in use"):
            actor.do(running.start_valkey)


def test_running_urls_tells_without_starting(actor: Actor, running: Stack, new_home: Path) -> None:
    assert actor.do(stack.running_urls, running.home) == (running.database_url, running.redis_url)
    actor.do(stack.stop, running.home)
    assert actor.do(stack.running_urls, running.home) is None
    assert actor.do(stack.running_urls, new_home) is None
    assert not new_home.exists()


def test_a_copied_checkout_gets_servers_of_its_own_with_the_copied_data(actor: Actor, running: Stack) -> None:
    _write(running)
    actor.do(stack.stop, running.home)
    copy = running.home.with_name("copy")
    actor.do(shutil.copytree, running.home, copy)
    _own_like(running.home, copy)
    actor.do(stack.start, running.home)
    try:
        other = actor.do(stack.start, copy)
        assert other.database_url != running.database_url
        query(other.owner_url, "INSERT INTO kept VALUES (2)")
        assert query(running.owner_url, "SELECT count(*) FROM kept") == 1
        assert query(other.owner_url, "SELECT count(*) FROM kept") == 2
    finally:
        stack.delete(copy)


def test_a_start_changes_no_permission_outside_the_data(running: Stack, modes_before: Modes) -> None:
    assert modes_above(running.home) == modes_before


def test_tests_do_without_waiting_for_the_disk(actor: Actor, running: Stack) -> None:
    actor.do(stack.stop, running.home)
    again = actor.do(stack.start, running.home, durable=False)
    assert query(again.database_url, "SHOW fsync") == "off"
    actor.do(again.stop_postgres)
    actor.do(again.start_postgres)
    assert query(again.database_url, "SHOW fsync") == "off"
    actor.do(stack.stop, running.home)


def test_data_of_another_major_version_is_not_touched(actor: Actor, running: Stack) -> None:
    actor.do(stack.stop, running.home)
    version_file = running.home / "postgres/PG_VERSION"
    version = version_file.read_text()
    version_file.write_text("12\n")
    try:
        with pytest.raises(StackError, match=r"written by PostgreSQL 12, this checkout brings 18: dump"):
            actor.do(stack.start, running.home)
    finally:
        version_file.write_text(version)


def test_a_full_disk_is_named(actor: Actor, new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREE_SPACE_MIN_BYTES", 2**60)
    with pytest.raises(StackError, match=r"Only \d+ MiB are free at .* free some space"):
        actor.do(stack.start, new_home)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_home_deleted_with_its_password_begins_anew_beside_the_lost_data(
    actor: Actor, new_home: Path, stopped: bool
) -> None:
    lost = actor.do(stack.start, new_home)
    _write(lost)
    if stopped:
        actor.do(stack.stop, new_home)
    known = state.read(new_home)
    assert known is not None
    data = Path(known.data)
    (new_home / state.STATE_FILE).unlink()

    begun = actor.do(stack.start, new_home)

    assert query(begun.owner_url, "SELECT to_regclass('kept')") is None
    assert valkey(begun.redis_url).dbsize() == 0
    assert len(list(data.glob("postgres.lost-*"))) == len(list(data.glob("valkey.lost-*"))) == 1
    actor.do(stack.delete, new_home)
    assert list(data.glob("*.lost-*")) == []


def test_deleting_leaves_other_files_of_the_home(actor: Actor, running: Stack) -> None:
    note = running.home / "mine"
    note.touch()
    actor.do(stack.delete, running.home)
    assert list(running.home.iterdir()) == [note]
    actor.do(stack.delete, running.home)


def test_missing_wheels_are_named(monkeypatch: pytest.MonkeyPatch, open_folder: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        StackError, match="not installed: run `make setup`, or set DATABASE_URL and REDIS_URL"
    ):
        stack.start(open_folder / "home")


def test_a_damaged_state_is_named(open_folder: Path) -> None:
    home = open_folder / "damaged"
    home.mkdir()
    (home / state.STATE_FILE).write_text("{")
    with pytest.raises(StackError, match="damaged"):
        stack.start(home)


def test_one_owner_at_a_time(open_folder: Path) -> None:
    with stack.claimed(open_folder), pytest.raises(BlockingIOError), stack.claimed(open_folder):
        pass
    with stack.claimed(open_folder):
        pass


def test_the_default_home_is_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKVIGIL_HOME", raising=False)
    assert placement.default_home() == placement.CHECKOUT / ".tokvigil"
    assert (placement.CHECKOUT / "manage.py").exists()


def test_the_embedded_stack_imports_no_django() -> None:
    script = "import sys, tokvigil_site.embedded.__main__; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=placement.CHECKOUT, check=False).returncode == 0


def _password(url: str) -> str:
    password = urlsplit(url).password
    assert password is not None
    return password


def _write(running: Stack) -> None:
    query(running.owner_url, "DROP TABLE IF EXISTS kept")
    query(running.owner_url, "CREATE TABLE kept AS SELECT 1")
    valkey(running.redis_url).set("kept", "1")


def _written(running: Stack) -> bool:
    return (
        query(running.owner_url, "SELECT * FROM kept") == 1 and valkey(running.redis_url).get("kept") == "1"
    )


def _kill_both(home: Path) -> None:
    now = stack.status(home)
    assert now.postgres_pid is not None
    assert now.valkey_pid is not None
    os.kill(now.postgres_pid, signal.SIGKILL)
    os.kill(now.valkey_pid, signal.SIGKILL)


def _listening(url: str) -> socket.socket:
    return socket.create_server((ports.HOST, urlsplit(url).port or 0))


def _own_like(original: Path, copy: Path) -> None:
    """copytree keeps modes but not owners; an ordinary user's copy is theirs already."""
    if os.geteuid() == 0:
        for path in [original, *original.rglob("*")]:
            owner = path.lstat()
            os.chown(copy / path.relative_to(original), owner.st_uid, owner.st_gid, follow_symlinks=False)
