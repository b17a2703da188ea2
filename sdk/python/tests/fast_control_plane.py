"""A control plane that blocks every call, for bursts: one process, one event loop, thousands of connections.

`python -m sdk.python.tests.fast_control_plane DELAY_S` prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

CONNECTIONS_MAX = 4096


def answer_to(path: bytes, body: dict[str, Any]) -> dict[str, Any]:
    if path == b"/v1/usage/batch":
        ids = [event["request_id"] for event in body["events"]]
        return {"results": [{"request_id": each, "status": "recorded"} for each in ids]}
    return {
        "request_id": body["request_id"],
        "allowed": False,
        "reason_code": "DAILY_REQUEST_LIMIT_EXCEEDED",
        "reason_class": "exhausted",
        "message": "Daily request limit of 50 reached.",
        "retry_after": 3600,
    }


class Connection(asyncio.Protocol):
    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        self.received = body[length:]
        said = json.dumps(answer_to(head.split()[1], json.loads(body[:length]))).encode()
        whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said)
        asyncio.get_running_loop().call_later(self.delay_s, self.transport.write, whole)


async def serve(delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(delay_s), "127.0.0.1", 0, backlog=CONNECTIONS_MAX)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
