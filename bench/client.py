"""One request at a time, for what wrk cannot do."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT_S = 60
RETRY_AFTER_S = 0.1


def post(url: str, path: str, key: str, body: dict[str, object]) -> Any:
    request = Request(  # noqa: S310 (our own server)
        f"{url}{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 (our own server)
        return json.load(response)


def post_until_served(url: str, path: str, key: str, body: dict[str, object]) -> Any:
    """As `post`, again and again while the answer is 503, for TIMEOUT_S at most."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return post(url, path, key, body)
        except HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_AFTER_S)
