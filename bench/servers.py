"""A stack and web processes of the bench's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokvigil_site.children import Child, http_status
from tokvigil_site.embedded import ports, stack
from tokvigil_site.embedded.placement import CHECKOUT
from tokvigil_site.serving import command as serving

HOME = Path(".tokvigil/bench")
START_S_MAX = 30.0
STOP_S_MAX = 30.0
WORKERS = 2
WSGI_THREADS = 4


@contextmanager
def bench_stack(*, durable: bool = False) -> Iterator[None]:
    """PostgreSQL, which does not wait for the disk unless `durable`, and Valkey; settings find them."""
    servers = stack.start(HOME, durable=durable)
    # As the owner, who may ANALYZE what was filled in.
    os.environ["DATABASE_URL"], os.environ["REDIS_URL"] = servers.owner_url, servers.redis_url
    os.environ.setdefault("SECRET_KEY", "only-for-the-bench")
    os.environ.setdefault("API_KEY_PEPPER", "only-for-the-bench")
    os.environ.setdefault("AUDIT_KEY", "only-for-the-bench")
    os.environ["DJANGO_SETTINGS_MODULE"] = "bench.settings"
    try:
        yield
    finally:
        stack.delete(HOME)


@contextmanager
def web(workers: int = WORKERS) -> Iterator[str]:
    """Web processes as in production; their base URL. Raises ChildError."""
    port = ports.pick_free()
    with serve(serving.granian(port, workers=workers, log_level="error"), port) as url:
        yield url


@contextmanager
def wsgi_web(*, folder: Path = CHECKOUT, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """The same application over granian's own WSGI, where the thread that decides also waits for the body.

    Of the checkout in `folder`, which may be an older one. Raises ChildError.
    """
    port = ports.pick_free()
    module = [
        *("granian", "--interface", "wsgi", "--port", str(port), "--log-level", "error", "--no-ws"),
        *(
            "--workers",
            str(WORKERS),
            "--blocking-threads",
            str(WSGI_THREADS),
            "tokvigil_site.wsgi:application",
        ),
    ]
    with serve(module, port, folder=folder, variables=variables) as url:
        yield url


@contextmanager
def serve(
    module: Sequence[str], port: int, *, folder: Path = CHECKOUT, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """What `python -m` starts, which listens at the port; its base URL. Raises ChildError."""
    url = f"http://{ports.HOST}:{port}"
    with tempfile.TemporaryDirectory() as logs:
        server = Child(
            name="web server",
            module=module,
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
