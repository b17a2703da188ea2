"""How Amazon Bedrock streams the events of a model."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

CONTENT_TYPE = "application/vnd.amazon.eventstream"
STRING = 7


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A message of an AWS event stream, whose headers are strings."""
    head = b"".join(
        bytes([len(name)]) + name + struct.pack(">BH", STRING, len(value)) + value
        for name, value in ((name.encode(), value.encode()) for name, value in headers.items())
    )
    prelude = struct.pack(">II", 4 * 4 + len(head) + len(payload), len(head))
    checked = prelude + struct.pack(">I", crc32(prelude)) + head + payload
    return checked + struct.pack(">I", crc32(checked))


def chunk(event: Any) -> bytes:
    """One event of the model."""
    inside = base64.b64encode(json.dumps(event, ensure_ascii=False).encode()).decode()
    headers = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    return message(headers, json.dumps({"bytes": inside, "p": "abcdef"}).encode())


def exception(kind: str, text: str) -> bytes:
    """The end of a stream that failed."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return message(headers, json.dumps({"message": text}).encode())
