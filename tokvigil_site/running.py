"""The whole product as processes: a web server, a worker with beat, and what they need to be of use at once.

The children live in sessions of their own, so that Ctrl-C reaches only this process, which stops them in order. If this
process dies without doing so, the kernel tells them to end.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError, connection
from django_redis import get_redis_connection
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError

from audit.log import acting_as
from tenants import keys
from tenants.models import ApiKey, Environment, Tenant
from tenants.scopes import PRESETS
from tokvigil_site import launch
from tokvigil_site.embedded import files, ports
from usage.ledger import partitions
from usage.models import ModelPrice
from usage.prices.genai import load_shared_prices

WORKERS = 2
BLOCKING_THREADS = 4
READY_S_MAX = 60.0
POLL_S = 0.1
PORT_MAX = 65_535
# Web server, worker and embedded servers together: 10 s.
STOP_S_MAX = 3.5
LOG_LINES_SHOWN = 15
PR_SET_PDEATHSIG = 1

ADMIN = "admin"
TENANT = "demo"
ENVIRONMENT = "demo/prod"
ACTOR = "cli:up"

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running TokVigil, and how to get in. `admin_password` is None once somebody changed it."""

    url: str
    admin_password: str | None
    api_key: str
    children: tuple[Child, ...]

    def watch(self) -> None:
        """Returns on Ctrl-C or SIGTERM. Raises CommandError if a child ends by itself."""
        with suppress(KeyboardInterrupt):
            while True:
                self.require_running()
                time.sleep(POLL_S)

    def require_running(self) -> None:
        for child in self.children:
            child.require_running()

    @property
    def logs(self) -> str:
        return " and ".join(str(child.log) for child in self.children)

    @property
    def admin_login(self) -> str:
        return f"user {ADMIN}, password {self.admin_password or '(as you set it)'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    name: str
    log: Path
    process: subprocess.Popen[bytes]

    def require_running(self) -> None:
        status = self.process.poll()
        if status is not None:
            lines = files.tail(self.log).splitlines()[-LOG_LINES_SHOWN:]
            said = "\n".join(f"    {line}" for line in lines)
            raise CommandError(
                f"The {self.name} ended by itself (status {status}). {self.log} ends with:\n{said}"
            )

    def stop(self) -> None:
        launch.ignore_interruptions()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S_MAX)
        # Its session too: what it left behind, and itself if it would not end.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(*, port: int, workers: int = WORKERS, say: Say) -> Iterator[Site]:
    """Everything, ready to use; stopped at the end of the block. Raises CommandError."""
    _require_free(port)
    admin_password, api_key = _first_steps(say)
    say("Starting the web server and the worker")
    with ExitStack() as ending:
        # Stopped in reverse: the web server first, then what keeps its work in order. Beat is a child of its own: as a
        # thread or process of the worker it could end without anybody noticing.
        beat = _start(ending, "beat", *_beat_command())
        worker = _start(ending, "worker", *_worker_command())
        web = _start(ending, "web server", *_web_command(port, workers))
        site = Site(
            url=f"http://127.0.0.1:{port}",
            admin_password=admin_password,
            api_key=api_key,
            children=(web, worker, beat),
        )
        # First of all that is done at the end, however it comes: stopping takes a while.
        ending.callback(say, "Stopping")
        _await_ready(site)
        yield site


def manage() -> str:
    """How to call manage.py from this folder: what is printed with it works as it stands."""
    here = Path.cwd()
    paths = (Path(sys.executable), Path(settings.BASE_DIR) / "manage.py")
    found = (path.relative_to(here) if path.is_relative_to(here) else path for path in paths)
    return shlex.join(map(str, found))


def welcome(site: Site) -> str:
    """Where to look next."""
    return f"""
TokVigil runs at {site.url}

  Admin      {site.url}/admin/    {site.admin_login}
  API docs   {site.url}/docs/
  API key    {site.api_key}    (environment {ENVIRONMENT})
  Data       {settings.TOKVIGIL_HOME}    (logs/ of the web server and the worker; secrets/)

  Ask        curl -s {site.url}/v1/evaluate -H "Authorization: Bearer {site.api_key}" \\
               -H "Content-Type: application/json" -d '{{"user_id": "ana", "model": "gpt-4o-mini", "input_tokens": 20}}'
  Rules      {manage()} apply_policies {ENVIRONMENT} FILE.yaml
  Traffic    {manage()} replay_trace FILE.csv {ENVIRONMENT}

Ctrl-C stops all of it."""


def _require_free(port: int) -> None:
    # The web server shares its port among its processes, so a second one would not fail but take half the calls.
    if not ports.is_free(port):
        raise CommandError(
            f"Port {port} is taken: stop what listens there, or choose another with "
            f'`--port {port % PORT_MAX + 1}` (after make: `ARGS="--port {port % PORT_MAX + 1}"`).'
        )


def _first_steps(say: Say) -> tuple[str | None, str]:
    """Migrations, partitions, prices, the admin and the first key. Returns the admin's password and the key."""
    try:
        say("Preparing the database")
        call_command("migrate", verbosity=0, interactive=False)
        partitions.ensure_ahead(datetime.now(UTC))
        get_redis_connection("counters").ping()
        with acting_as(ACTOR):
            if not ModelPrice.objects.shared().exists():
                load_shared_prices()
            return _admin_password(), _first_key()
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise CommandError(
            f"The database does not answer; check DATABASE_URL and the server: {error}"
        ) from error
    except RedisError as error:
        raise CommandError(
            f"The counter store does not answer; check REDIS_URL and the server: {error}"
        ) from error
    finally:
        let_go_of_the_database()


def let_go_of_the_database() -> None:
    """This process only watches for most of its life; its pool would keep a connection open all the time."""
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]


def _admin_password() -> str | None:
    """Of the superuser, who is made once. None: it is not the one that was made here."""
    users = get_user_model()._default_manager
    user = users.filter(username=ADMIN).first()
    file = _secret_file("admin_password")
    known = file.read_text().strip() if file.is_file() else None
    if user is not None:
        return known if known is not None and user.check_password(known) else None
    password = known or secrets.token_urlsafe(12)
    files.write_secret(file, password)
    users.create_superuser(ADMIN, password=password)
    return password


def _first_key() -> str:
    """The key of an earlier start if it is still good, else a new one."""
    file = _secret_file("api_key")
    known = file.read_text().strip() if file.is_file() else ""
    if not _is_good(known):
        _, known = ApiKey.issue(demo_environment(), "first steps", PRESETS["server"])
        files.write_secret(file, known)
    return known


def _is_good(text: str) -> bool:
    presented = keys.parse(text)
    if presented is None:
        return False
    row = ApiKey.objects.filter(key_id=presented.key_id, revoked_at=None).first()
    return row is not None and keys.proves(presented.secret, row.pepper_id, bytes(row.secret_hmac))


def demo_environment() -> Environment:
    with suppress(Environment.DoesNotExist):
        return Environment.named(ENVIRONMENT)
    Tenant.create_with_environments(TENANT, name="Demo")
    return Environment.named(ENVIRONMENT)


def _secret_file(name: str) -> Path:
    return Path(settings.TOKVIGIL_HOME) / launch.SECRETS_FOLDER / name


def _web_command(port: int, workers: int) -> Sequence[str]:
    # WSGI and never ASGI: the views are synchronous.
    return (
        "granian",
        *("--interface", "wsgi", "--host", ports.HOST, "--port", str(port), "--no-ws"),
        *("--workers", str(workers), "--blocking-threads", str(BLOCKING_THREADS)),
        *("--workers-kill-timeout", "2", "--respawn-failed-workers", "--log-level", "warning"),
        "tokvigil_site.wsgi:application",
    )


def _worker_command() -> Sequence[str]:
    return (
        *("celery", "-A", "tokvigil_site.celery:app", "worker", "--loglevel", "warning"),
        *("--concurrency", "1", "--without-gossip", "--without-mingle"),
    )


def _beat_command() -> Sequence[str]:
    return ("celery", "-A", "tokvigil_site.celery:app", "beat", "--loglevel", "warning", "--pidfile", "")


def _start(ending: ExitStack, name: str, *module: str) -> Child:
    logs = Path(settings.TOKVIGIL_HOME) / "logs"
    files.make_folder(logs)
    log = logs / f"{name.replace(' ', '-')}.log"
    files.fresh_log(log, account=None)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=settings.BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(_end_with, os.getpid()) if sys.platform == "linux" else None,
        )
    child = Child(name=name, log=log, process=process)
    ending.callback(child.stop)
    return child


_libc = ctypes.CDLL(None)


def _end_with(parent: int) -> None:
    """In the child: have the kernel end it when its parent ends, however that happens."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _await_ready(site: Site) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while not _is_ready(f"{site.url}/readyz"):
        site.require_running()
        if time.monotonic() > deadline:
            logs = " and ".join(str(child.log) for child in site.children)
            raise CommandError(
                f"The web server was not ready within {READY_S_MAX:.0f} s; {logs} may say why."
            )
        time.sleep(POLL_S)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own server)
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        # With ALLOWED_HOSTS set, the server may not answer to this address; that it answers is enough then.
        return error.code == 400
    except OSError:
        return False
