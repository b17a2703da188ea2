"""Processes that are killed in the middle of their calls."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tokvigil import TokVigil

from sdk.python.tests.wire_provider import WireProvider
from tenants.models import Environment
from tokvigil_site.testing import (
    Api,
    apply_policies,
    assert_settled,
    ledger,
    limits,
)
from tokvigil_site.tests.servers import WebProcess, manage, session_variables

# `TOKVIGIL_KILLS=200` is the long run.
KILLS = int(os.environ.get("TOKVIGIL_KILLS", "12"))
CHATS_PER_PROCESS = 10_000
# After a process's first call: among its first calls, and while it is calling and sending in turns.
KILL_DELAYS_S = ((0.0, 0.06), (0.0, 0.06), (0.1, 0.5))


CHATS = """
import sys
from tokvigil import TokVigil
control_plane, key, provider, journal, first, count = sys.argv[1:]
client = TokVigil(api_key=key, base_url=control_plane, journal=journal, timeout=10)
print("ready", flush=True)
for number in range(int(first), int(first) + int(count)):
    client.chat(user_id=f"user_{number}", feature="chat", model="gpt-4o-mini",
                messages=[{"role": "user", "content": f"user_{number}"}],
                provider_base_url=provider + "/v1", provider_api_key="sk", max_output_tokens=100)
"""


def test_each_call_is_in_the_ledger_once_however_its_process_is_killed(
    connect: Callable[..., TokVigil],
    api: Api,
    web: WebProcess,
    provider: WireProvider,
    environment: Environment,
    tmp_path: Path,
) -> None:
    apply_policies(
        environment,
        limits(
            "{metric: tokens, window: total, amount: 1000000000, per: environment}",
            "{metric: requests, window: total, amount: 1000, per: user}",
        ),
    )
    journal = tmp_path / "killed"
    chance = random.Random(20261124)
    for kill in range(KILLS):
        chat_until_killed(
            [web.url, api.text, provider.url, str(journal), str(kill * CHATS_PER_PROCESS)],
            provider,
            chance.uniform(*KILL_DELAYS_S[kill % len(KILL_DELAYS_S)]),
        )

    assert connect(api, journal=journal).flush() == 0

    called = {seen.body["messages"][0]["content"] for seen in provider.seen if seen.body}
    recorded = Counter(row.user_id for row in ledger(environment))
    assert len(called) >= KILLS
    assert called <= recorded.keys()
    assert max(recorded.values()) == 1
    # One call of each process may have been written down without having reached the provider.
    assert len(recorded.keys() - called) <= KILLS
    assert "drift 0 of" in manage("check_counters", str(environment), variables=session_variables())
    assert assert_settled(environment).drifts == (), "a process killed while it asks leaves no hold"


def chat_until_killed(arguments: list[str], provider: WireProvider, delay_s: float) -> None:
    """Killed so long after the first of its calls has reached the provider."""
    command = [sys.executable, "-c", CHATS, *arguments, str(CHATS_PER_PROCESS)]
    before = len(provider.seen)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + 20
            while len(provider.seen) == before and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(delay_s)
            assert child.poll() is None, "it ended by itself"
        finally:
            child.send_signal(signal.SIGKILL)
