"""A stack and web processes of the bench's own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tokvigil_site.embedded import ports, stack

START_TIMEOUT_S = 30
WORKERS = 2
BLOCKING_THREADS = 4


@contextmanager
def bench_stack(home: Path) -> Iterator[None]:
    """PostgreSQL (not waiting for the disk) and Valkey, named in the environment variables that settings read."""
    servers = stack.start(home, durable=False)
    os.environ["DATABASE_URL"], os.environ["REDIS_URL"] = servers.database_url, servers.redis_url
    os.environ.setdefault("SECRET_KEY", "only-for-the-bench")
    os.environ.setdefault("API_KEY_PEPPER", "only-for-the-bench")
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.settings"
    try:
        yield
    finally:
        stack.delete(home)


@contextmanager
def web(
    workers: int = WORKERS, *, folder: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Web processes as in production; their base URL. Of the checkout in `folder`: None is this one."""
    port = ports.pick_free()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--workers", str(workers)]
    command += ["--blocking-threads", str(BLOCKING_THREADS), "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen([*command, "tokvigil_site.wsgi:application"], cwd=folder, env=variables)
    try:
        _wait_until_up(url)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=START_TIMEOUT_S)


def _wait_until_up(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            urlopen(f"{url}/healthz", timeout=1).close()  # noqa: S310 (our own server)
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"The web server at {url} did not answer within {START_TIMEOUT_S} s.")
