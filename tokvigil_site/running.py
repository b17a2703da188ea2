"""The whole product as processes: a web server, a worker and beat, looked after until Ctrl-C."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError

from tokvigil_site import children, first_steps, interruptions, launch
from tokvigil_site.children import Child, ChildError
from tokvigil_site.embedded import files, ports
from tokvigil_site.first_steps import ADMIN, ENVIRONMENT
from tokvigil_site.serving import command as serving
from tokvigil_site.supervision import GaveUp, Say, Supervision

WORKERS = 2
READY_S_MAX = 60.0
POLL_S = 0.1
PORT_MAX = 65_535
# Of the web server, then of worker and beat; with the embedded servers all ends within 10 s.
STOP_S_MAX = 3.5
WEB_STOP_S_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running TokVigil, and how to get in. `admin_password` is None once somebody changed it."""

    url: str
    admin_password: str | None
    api_key: str
    children: tuple[Child, ...]
    supervision: Supervision

    def watch(self) -> None:
        """Looks after everything until Ctrl-C or SIGTERM. Raises CommandError if something cannot be kept running."""
        try:
            self.supervision.watch()
        except KeyboardInterrupt:
            return
        except GaveUp as error:
            raise CommandError(f"{error} Fix that, then start `{manage()} up` again.") from error

    def require_running(self) -> None:
        """Raises CommandError if a child ended by itself."""
        for child in self.children:
            try:
                child.require_running()
            except ChildError as error:
                raise CommandError(str(error)) from error

    @property
    def logs(self) -> str:
        return " and ".join(str(child.log) for child in self.children)

    @property
    def admin_login(self) -> str:
        return f"user {ADMIN}, password {self.admin_password or '(as you set it)'}"


@contextmanager
def running(*, port: int, workers: int = WORKERS, say: Say) -> Iterator[Site]:
    """Everything, ready to use; stopped at the end of the block. Raises CommandError."""
    _require_free(port)
    admin_password, api_key = first_steps.take(say)
    say("Starting the web server and the worker")
    # Beat is a child of its own: as a thread or process of the worker it could end without anybody noticing.
    beat = _child("beat", _beat_command())
    worker = _child("worker", _worker_command())
    web = _child("web server", serving.granian(port, workers=workers, stop_s_max=WEB_STOP_S_MAX))
    site = Site(
        url=f"http://{ports.HOST}:{port}",
        admin_password=admin_password,
        api_key=api_key,
        children=(web, worker, beat),
        supervision=Supervision((*launch.servers_of_ours(), beat, worker, web), say),
    )
    with ExitStack() as ending:
        # The web server first, then what keeps its work in order.
        ending.callback(children.stop_all, (worker, beat), within_s=STOP_S_MAX)
        ending.callback(web.stop, within_s=STOP_S_MAX)
        # First of all that is done at the end, however it comes: stopping takes a while.
        ending.callback(say, "Stopping")
        ending.callback(interruptions.ignore)
        for child in (beat, worker, web):
            child.start()
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
  Data       {settings.TOKVIGIL_HOME}    (stays for the next start; logs/ of the web server and the worker; secrets/)

  Ask        curl -s {site.url}/v1/evaluate -H "Authorization: Bearer {site.api_key}" \\
               -H "Content-Type: application/json" -d '{{"user_id": "ana", "model": "gpt-4o-mini", "input_tokens": 20}}'
  Report     curl -s {site.url}/v1/usage -H "Authorization: Bearer {site.api_key}" \\
               -H "Content-Type: application/json" -d '{{"user_id": "ana", "model": "gpt-4o-mini", "input_tokens": 20,
               "output_tokens": 5, "request_id": "REQUEST_ID"}}'    (in place of REQUEST_ID that of the answer)
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


def _worker_command() -> Sequence[str]:
    # While one is at a replay, the other does what is due.
    return (
        *("celery", "-A", "tokvigil_site.celery:app", "worker", "--loglevel", "warning"),
        *("--concurrency", "2", "--without-gossip", "--without-mingle"),
    )


def _beat_command() -> Sequence[str]:
    return ("celery", "-A", "tokvigil_site.celery:app", "beat", "--loglevel", "warning", "--pidfile", "")


def _child(name: str, module: Sequence[str]) -> Child:
    logs = Path(settings.TOKVIGIL_HOME) / "logs"
    files.make_folder(logs)
    log = logs / f"{name.replace(' ', '-')}.log"
    files.fresh_log(log, account=None)
    return Child(name=name, module=module, log=log, withheld=launch.OWNER_VARIABLES)


def _await_ready(site: Site) -> None:
    deadline = time.monotonic() + READY_S_MAX
    # With ALLOWED_HOSTS set, the server may not answer to this address (400); that it answers is enough then.
    while children.http_status(f"{site.url}/readyz") not in {200, 400}:
        site.require_running()
        if time.monotonic() > deadline:
            raise CommandError(
                f"The web server was not ready within {READY_S_MAX:.0f} s; {site.logs} may say why."
            )
        time.sleep(POLL_S)
