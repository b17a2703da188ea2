"""One request at a time, for what wrk cannot do."""

from __future__ import annotations

import json
from typing import Any
from urllib.request import Request, urlopen

TIMEOUT_S = 60


def post(url: str, path: str, key: str, body: dict[str, object]) -> Any:
    request = Request(  # noqa: S310 (our own server)
        f"{url}{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 (our own server)
        return json.load(response)
