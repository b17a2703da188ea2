"""A stack and web processes of the bench's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tokvigil_site.children import Child, http_status
from tokvigil_site.embedded import ports, stack
from tokvigil_site.embedded.placement import CHECKOUT

HOME = Path(".tokvigil/bench")
START_S_MAX = 30.0
STOP_S_MAX = 30.0
WORKERS = 2
BLOCKING_THREADS = 4


@contextmanager
def bench_stack() -> Iterator[None]:
    """PostgreSQL (not waiting for the disk) and Valkey, named in the environment variables that settings read."""
    servers = stack.start(HOME, durable=False)
    os.environ["DATABASE_URL"], os.environ["REDIS_URL"] = servers.database_url, servers.redis_url
    os.environ.setdefault("SECRET_KEY", "only-for-the-bench")
    os.environ.setdefault("API_KEY_PEPPER", "only-for-the-bench")
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.settings"
    try:
        yield
    finally:
        stack.delete(HOME)


@contextmanager
def web(
    workers: int = WORKERS, *, folder: Path = CHECKOUT, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Web processes as in production, of the checkout in `folder`; their base URL. Raises ChildError."""
    port = ports.pick_free()
    url = f"http://{ports.HOST}:{port}"
    command = ["granian", "--interface", "wsgi", "--workers", str(workers)]
    command += ["--blocking-threads", str(BLOCKING_THREADS), "--port", str(port), "--log-level", "error"]
    with tempfile.TemporaryDirectory() as logs:
        server = Child(
            name="web server",
            module=[*command, "tokvigil_site.wsgi:application"],
            log=Path(logs) / "web.log",
            folder=folder,
            variables=variables or {},
        )
        try:
            server.start()
            server.await_ready(lambda: http_status(f"{url}/healthz") is not None, within_s=START_S_MAX)
            yield url
        finally:
            server.stop(within_s=STOP_S_MAX)
