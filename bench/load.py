"""Load from wrk, which must be on PATH, and what it measured. Loopback only, bounded in time."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

CLIENTS = 50

# wrk calls `request` for every request; `done` prints what Python reads back.
_SCRIPT = """
local n = 0
request = function()
  n = n + 1
  local body = BODY
  return wrk.format('POST', 'PATH', {['Authorization'] = 'Bearer KEY', ['Content-Type'] = 'application/json'}, body)
end
done = function(summary, latency)
  io.write(string.format('RESULT requests=%d duration_us=%d p50_us=%d p99_us=%d errors=%d\\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.status + summary.errors.timeout))
end
"""
_RESULT = re.compile(r"RESULT requests=(\d+) duration_us=(\d+) p50_us=(\d+) p99_us=(\d+) errors=(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def run(url: str, path: str, key: str, body: str, *, seconds: int, clients: int = CLIENTS) -> Load:
    """Posts `body`, a Lua expression that may use the counter `n`, from `clients` connections."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit(
            "wrk is not installed; install it (Debian: apt-get install wrk) and run `make bench` again."
        )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "load.lua"
        script.write_text(_SCRIPT.replace("BODY", body).replace("PATH", path).replace("KEY", key))
        command = [wrk, "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=seconds + 30
        ).stdout
    found = _RESULT.search(output)
    if found is None:
        raise SystemExit(f"wrk printed no result:\n{output}")
    requests, duration_us, p50_us, p99_us, errors = map(int, found.groups())
    if requests == 0:
        raise SystemExit(f"no request to {path} was answered:\n{output}")
    return Load(
        requests=requests,
        per_second=requests / duration_us * 1e6,
        p50_ms=p50_us / 1000,
        p99_ms=p99_us / 1000,
        errors=errors,
    )
