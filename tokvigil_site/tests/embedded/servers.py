import os
import pickle
import pwd
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import redis

from tokvigil_site.embedded import placement, programs, stack
from tokvigil_site.embedded.process import Account

Result = TypeVar("Result")
Modes = dict[Path, tuple[int, int, int]]


@dataclass(frozen=True)
class Actor:
    """Does things as root or as an ordinary user, so that one test proves both."""

    account: Account | None

    def do(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        if self.account is None:
            return function(*arguments, **options)
        return _do_as(self.account, lambda: function(*arguments, **options))

    def own(self, folder: Path) -> None:
        if self.account is not None:
            os.chown(folder, self.account.uid, self.account.gid)


ORDINARY_USER = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="what root does can only be tested as root")


@pytest.fixture(scope="module", params=[pytest.param("root", marks=needs_root), "user"])
def actor(request: pytest.FixtureRequest) -> Actor:
    """Run as an ordinary user, the tests themselves are the ordinary user."""
    if request.param == "root" or os.geteuid() != 0:
        return Actor(None)
    return Actor(Account(uid=ORDINARY_USER.pw_uid, gid=ORDINARY_USER.pw_gid))


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter, unlike pytest's tmp_path."""
    folder = Path(tempfile.mkdtemp(prefix="tokvigil-")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def shared_folder(open_folder: Path) -> Iterator[Path]:
    """Instead of /var/lib/tokvigil, to leave nothing on the machine."""
    shared = open_folder / "shared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "SHARED_FOLDERS", (shared,))
        yield shared


@pytest.fixture(scope="module")
def home(open_folder: Path, actor: Actor) -> Iterator[Path]:
    """Where the actor starts servers; its path is longer than a socket's may be and has a space in it.

    One for all tests of a module: making the data takes two seconds, starting again a tenth of that.
    """
    checkout = open_folder / f"a long name {'x' * 100} {secrets.token_hex(4)}"
    checkout.mkdir()
    actor.own(checkout)
    yield checkout / ".tokvigil"
    stack.delete(checkout / ".tokvigil")


def _do_as(account: Account, action: Callable[[], Result]) -> Result:
    """In a child process that gives up root for good; its interpreter is loaded, wherever it lies."""
    wheels = programs.usable_by(account)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        # An ordinary user's own checkout is readable for that user; root's may not be.
        programs.installed = lambda: wheels
        with os.fdopen(writer, "wb") as stream:
            stream.write(_outcome(action))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    result, error = pickle.loads(answer)  # noqa: S301 (our own child)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _outcome(action: Callable[[], object]) -> bytes:
    try:
        return pickle.dumps((action(), None))
    except BaseException as error:
        return pickle.dumps((None, error))


def query(database_url: str, statement: str) -> Any:
    """The first column of the first row, if the statement answers any."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def valkey(redis_url: str) -> "redis.Redis":
    return redis.Redis.from_url(redis_url, decode_responses=True)


def modes_above(*paths: Path) -> Modes:
    """Owner, group and mode of every existing folder above, to compare before and after."""
    folders = {folder for path in paths for folder in path.parents if folder.exists()}
    found = {folder: folder.stat() for folder in folders}
    return {folder: (status.st_uid, status.st_gid, status.st_mode) for folder, status in found.items()}
