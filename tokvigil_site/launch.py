"""What `manage.py up` and `manage.py demo` need before Django reads its settings: a home, secrets and servers.

Django's settings are not touched here: they are read inside `prepared`, and find the secrets in the home and the
servers in the environment. Other commands find the same home (settings.py, environment.py), so they work beside a
running `up` as they are.
"""

import io
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tokvigil_site import environment, interruptions
from tokvigil_site.embedded import files, placement, stack
from tokvigil_site.embedded.errors import StackError

COMMANDS = ("up", "demo")
SECRETS_FOLDER = "secrets"
# How to make each. Peppers and audit keys are `id:value`, so that a later one can stand beside it.
SECRETS: dict[str, Callable[[], str]] = {
    "SECRET_KEY": lambda: secrets.token_urlsafe(48),
    "API_KEY_PEPPER": lambda: f"1:{secrets.token_urlsafe(32)}",
    "AUDIT_KEY": lambda: f"1:{secrets.token_urlsafe(32)}",
}
# For the migrations of this process alone: what it starts must not get it.
OWNER_VARIABLE = "MIGRATION_DATABASE_URL"
OWNER_VARIABLES = frozenset({OWNER_VARIABLE, f"{OWNER_VARIABLE}_FILE"})
# In a home whose servers were started here, until they are stopped: whoever comes after a killed `up` may stop them.
SERVERS_ARE_OURS_FILE = "servers-started-by-up"
INTERRUPTED_STATUS = 130


@contextmanager
def prepared(arguments: Sequence[str]) -> Iterator[None]:
    """Around a command of manage.py. Does something for those in COMMANDS only; ends the process if it cannot."""
    if not arguments or arguments[0] not in COMMANDS:
        yield
    elif {"-h", "--help"} & set(arguments):
        # The help is in the command, which is found through the settings, which want secrets.
        os.environ.setdefault("DEBUG", "true")
        yield
    else:
        interruptions.raise_as_ctrl_c()
        try:
            with ExitStack() as ending:
                _prepare(home(), ending)
                yield
        except StackError as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED_STATUS)


def home() -> Path:
    return Path(environment.read("TOKVIGIL_HOME") or placement.default_home()).absolute()


def server_urls(home: Path) -> tuple[str, str] | None:
    """(database URL, Redis URL) of the home's servers, None if they are not in use.

    In use they are if one of them runs or an `up` looks after them: then what is down is back in a moment, on its URL.
    """
    servers = stack.servers(home)
    if not servers or not (any(server.ended() is None for server in servers) or looks_after(home)):
        return None
    postgres, valkey = servers
    return postgres.url, valkey.url


def looks_after(home: Path) -> bool:
    """True while a `manage.py up` or `demo` runs here with servers that it started."""
    return (home / SERVERS_ARE_OURS_FILE).exists() and stack.is_claimed(home)


def servers_of_ours() -> tuple[stack.Server, ...]:
    """Those of the home that were started here and that this process uses."""
    if not (home() / SERVERS_ARE_OURS_FILE).exists():
        return ()
    used = {environment.read("DATABASE_URL"), environment.read("REDIS_URL")}
    return tuple(server for server in stack.servers(home()) if server.url in used)


def _prepare(home: Path, ending: ExitStack) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Whoever reads it through a pipe sees each line when it is said.
        sys.stdout.reconfigure(line_buffering=True)
    os.environ["TOKVIGIL_HOME"] = str(home)
    try:
        ending.enter_context(stack.claimed(home))
    except BlockingIOError:
        raise StackError(
            f"Another `manage.py up` or `demo` runs in {home}: stop that one, or set TOKVIGIL_HOME to another folder."
        ) from None
    _make_secrets(home / SECRETS_FOLDER)
    named = {name: environment.read(name) for name in ("DATABASE_URL", "REDIS_URL")}
    if not all(named.values()):
        started = _start_servers(home, ending)
        if not named["DATABASE_URL"]:
            named[OWNER_VARIABLE] = started.owner_url
        named["DATABASE_URL"] = named["DATABASE_URL"] or started.database_url
        named["REDIS_URL"] = named["REDIS_URL"] or started.redis_url
    os.environ.update(named)


def _make_secrets(folder: Path) -> None:
    try:
        files.make_folder(folder, mode=0o700)
        for name, make in SECRETS.items():
            file = folder / name.lower()
            if not environment.read(name) and not file.exists():
                files.write_secret(file, make())
    except OSError as error:
        raise StackError(
            f"{error.filename} cannot be written ({error.strerror}): run this as the user who owns {folder.parent}, "
            "or set TOKVIGIL_HOME to a folder of your own."
        ) from error


def _start_servers(home: Path, ending: ExitStack) -> stack.Stack:
    """Servers that somebody else started are used, and left running at the end."""
    ours = home / SERVERS_ARE_OURS_FILE
    found = stack.status(home)
    if None in (found.postgres_pid, found.valkey_pid):
        ours.touch()
    if ours.exists():
        ending.callback(_stop_servers, home)
    return stack.start(home)


def _stop_servers(home: Path) -> None:
    interruptions.ignore()
    stack.stop(home)
    (home / SERVERS_ARE_OURS_FILE).unlink(missing_ok=True)
