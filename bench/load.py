"""Load from wrk, which must be on PATH, and what it measured. Loopback only, bounded in time."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import scene

CLIENTS = 50

# What is the same in all scripts: `post` makes a request, `done` prints what Python reads back.
_FRAME = """
local function post(path, body)
  return wrk.format('POST', path, {['Authorization'] = 'Bearer KEY', ['Content-Type'] = 'application/json'}, body)
end
local threads = {}
function setup(thread) table.insert(threads, thread) end
completed = 0
function done(summary, latency)
  local calls = 0
  for _, thread in ipairs(threads) do calls = calls + thread:get('completed') end
  io.write(string.format('RESULT requests=%d duration_us=%d p50_us=%d p99_us=%d errors=%d\\n',
    calls > 0 and calls or summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status
    + summary.errors.timeout))
end
"""
_ONE_KIND = """
local n = 0
function request()
  n = n + 1
  return post('PATH', BODY)
end
"""
# Each call is asked for, and reported once its decision is back; a call counts when its report is answered with 201.
_CALLS = """
local n, decided = 0, {}
function request()
  local call = table.remove(decided)
  if call then
    return post('/v1/usage', '{"request_id":"' .. call .. '","user_id":"user_' .. call:match('_(%d+)$') % USERS .. USED)
  end
  n = n + 1
  return post('/v1/evaluate', '{"request_id":"SEED_' .. n .. '","user_id":"user_' .. n % USERS .. ASKED)
end
function response(status, headers, body)
  if status == 201 then
    completed = completed + 1
  elseif body:find('"allowed":true', 1, true) then
    table.insert(decided, body:match('"request_id":"([^"]+)"'))
  end
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
    script = _ONE_KIND.replace("PATH", path).replace("BODY", body)
    return _wrk(url, _FRAME.replace("KEY", key) + script, path, seconds=seconds, clients=clients)


def run_calls(url: str, key: str, *, seed: str, seconds: int, clients: int = CLIENTS) -> Load:
    """Whole calls, asked for and reported; `requests` counts calls, the percentiles are of their halves."""
    script = _CALLS.replace("SEED", seed).replace("USERS", str(scene.USERS))
    for name, fields in (("ASKED", scene.CALL), ("USED", scene.USED)):
        script = script.replace(name, f"'\",{json.dumps(fields)[1:]}'")
    return _wrk(url, _FRAME.replace("KEY", key) + script, "whole calls", seconds=seconds, clients=clients)


def interleaved(runs: int, kinds: dict[str, Callable[[], Load]]) -> dict[str, list[Load]]:
    """Every kind once to warm up, then `runs` rounds of all kinds."""
    for run in kinds.values():
        run()
    measured: dict[str, list[Load]] = {kind: [] for kind in kinds}
    for _ in range(runs):
        for kind, run in kinds.items():
            load = run()
            measured[kind].append(load)
            print(f"{kind}: {load.per_second:.0f}/s, p99 {load.p99_ms:.0f} ms", flush=True)
    return measured


def median(loads: list[Load], of: Callable[[Load], float]) -> float:
    return statistics.median(map(of, loads))


def _wrk(url: str, script: str, what: str, *, seconds: int, clients: int) -> Load:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit(
            "wrk is not installed; install it (Debian: apt-get install wrk) and run `make bench` again."
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "load.lua"
        file.write_text(script)
        command = [wrk, "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "-s", str(file), url]
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=seconds + 30
        ).stdout
    found = _RESULT.search(output)
    if found is None:
        raise SystemExit(f"wrk printed no result:\n{output}")
    requests, duration_us, p50_us, p99_us, errors = map(int, found.groups())
    if requests == 0:
        raise SystemExit(f"no request of {what} was answered:\n{output}")
    return Load(
        requests=requests,
        per_second=requests / duration_us * 1e6,
        p50_ms=p50_us / 1000,
        p99_ms=p99_us / 1000,
        errors=errors,
    )
