"""`python -m tokvigil_site.demo.provider --port 0` prints the provider's base URL, then serves until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from tokvigil.token_encodings import encoding

from tokvigil_site.demo.provider.server import ProviderServer


def _stop_when_stdin_closes(server: ProviderServer) -> None:
    sys.stdin.read()
    server.shutdown()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A local provider that speaks OpenAI's wire format.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency-ms", type=float, default=5.0)
    parser.add_argument("--failure-rate", type=float, default=0.0, help="share of chats that fail, 0 to 1")
    parser.add_argument("--while-stdin-is-open", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)

    encoding("o200k_base")  # 0.3 s that the first chat would otherwise wait for
    with ProviderServer(
        options.port, latency_ms=options.latency_ms, failure_rate=options.failure_rate
    ) as server:

        def stop(*_: Any) -> None:
            threading.Thread(target=server.shutdown).start()  # shutdown() waits for the loop below

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        if options.while_stdin_is_open:
            threading.Thread(target=_stop_when_stdin_closes, args=(server,), daemon=True).start()
        print(server.base_url, flush=True)
        server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
