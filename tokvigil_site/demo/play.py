"""The acts of the demo, in order, against a running site."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from django.core.management.base import OutputWrapper
from tokvigil import Decision, TokVigil

from tokvigil_site.demo import bursts, traffic
from tokvigil_site.demo.bursts import Burst
from tokvigil_site.demo.conversations import Conversation
from tokvigil_site.demo.progress import Progress
from tokvigil_site.demo.stage import Stage
from tokvigil_site.demo.traffic import Exchange

PARALLEL, PARALLEL_MAX = 8, 64
# A machine that also runs the servers may be slow; nothing here is in a hurry.
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of each act. `unreported` counts the usage reports that did not arrive; `vip_stop` is what stopped the
    user without limits, None if nothing did."""

    exchanges: tuple[Exchange, ...]
    elapsed_s: float
    unreported: int
    requests: Burst
    concurrency: Burst
    vip_calls: int
    vip_stop: Decision | None


def connect(url: str, stage: Stage) -> TokVigil:
    return TokVigil(
        api_key=stage.api_key, base_url=url, timeout=TIMEOUT_S, on_unreachable="block", journal=False
    )


def play(client: TokVigil, provider_url: str, out: OutputWrapper, *, parallel: int = PARALLEL) -> Played:
    exchanges, elapsed_s = _send(client, provider_url, traffic.conversations(), out, parallel)
    unreported = client.flush()
    progress = Progress(
        out, f"calls of one user at once, {bursts.REQUESTS_LIMIT} allowed", bursts.REQUESTS_SENT
    )
    requests = bursts.requests(client, progress.step)
    progress = Progress(
        out, f"calls kept in flight, {bursts.CONCURRENT_LIMIT} allowed", bursts.CONCURRENT_SENT
    )
    concurrency = bursts.concurrency(client, progress.step)
    # Last, for it uses up the budget of the whole environment.
    vip_calls, vip_stop = bursts.budget(client)
    return Played(
        exchanges=tuple(exchanges),
        elapsed_s=elapsed_s,
        unreported=unreported,
        requests=requests,
        concurrency=concurrency,
        vip_calls=vip_calls,
        vip_stop=vip_stop,
    )


def _send(
    client: TokVigil, provider_url: str, sent: Iterable[Conversation], out: OutputWrapper, parallel: int
) -> tuple[list[Exchange], float]:
    sent = list(sent)
    progress = Progress(out, "conversations", len(sent))
    started = time.monotonic()
    exchanges = traffic.send(client, provider_url, sent, threads=parallel, step=progress.step)
    return exchanges, time.monotonic() - started
