"""How the web server is started: everywhere with the same options."""

from __future__ import annotations

from collections.abc import Sequence

from tokvigil_site.embedded import ports
from tokvigil_site.serving import BODY_DEADLINE_S

APPLICATION = "tokvigil_site.rsgi:application"
# Connections of one process. The default, a share of the backlog, would let 512 slow ones stop it.
# Granian raises the number of files that the process may open as far as the system allows.
CONNECTIONS_MAX = 8000
BACKLOG = 8192
# Of one connection, for headers too. The default of 408 KiB would make many of them costly.
BUFFER_BYTES = 64 * 1024
# A stopped process answers what it reads and what it works on; then it ends, whoever is still connected.
STOP_S_MAX = round(BODY_DEADLINE_S) + 2


def granian(
    port: int,
    *,
    host: str = ports.HOST,
    workers: int = 1,
    stop_s_max: int = STOP_S_MAX,
    log_level: str = "warning",
) -> Sequence[str]:
    """What follows `python -m`. `workers` are processes; one that ends by itself is started again."""
    return (
        *("granian", "--interface", "rsgi", "--loop", "uvloop", "--http", "1", "--no-ws"),
        *("--host", host, "--port", str(port), "--workers", str(workers), "--respawn-failed-workers"),
        *("--backlog", str(BACKLOG), "--backpressure", str(CONNECTIONS_MAX)),
        *("--http1-buffer-size", str(BUFFER_BYTES), "--workers-kill-timeout", str(stop_s_max)),
        *("--log-level", log_level, APPLICATION),
    )
