"""A WSGI application that answers what it was given: under granian's WSGI, and under our bridge. Holds no test."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")
django.setup(set_prefix=False)

from tokvigil_site.serving.bridge import Bridge  # noqa: E402 (Django must be set up first)
from tokvigil_site.tests.serving.wire import LINE_BYTES, LINES  # noqa: E402

RELEASED = Path(os.environ["RELEASED"])
WAIT_S_MAX = 60.0
# What is the same for every request, or a Python object.
FIXED = ("wsgi.", "GATEWAY_INTERFACE")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/wait":
        _await(RELEASED.exists)
    if path == "/end":
        raise SystemExit
    if path.startswith("/stream"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Streaming(path)
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    inherited = environ.keys() & os.environ.keys()
    seen = {
        key: value
        for key, value in environ.items()
        if key not in inherited and isinstance(value, str) and not key.startswith(FIXED)
    }
    answer = {**seen, "body": body.decode("latin-1"), "scheme": environ["wsgi.url_scheme"]}
    start_response("200 OK", [("Content-Type", "application/json"), ("X-Twice", "1"), ("X-Twice", "2")])
    return iter([json.dumps(answer, sort_keys=True).encode()])


class Streaming:
    """Many lines, of which one may fail, or wait until it is let go."""

    streaming = True

    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        for number in range(LINES):
            if self._path == f"/stream/fails-at/{number}":
                raise RuntimeError("as it was asked to")
            if self._path == "/stream/wait" and number == 1:
                (RELEASED.parent / f"waiting-{id(self)}").touch()
                _await(RELEASED.exists)
            yield b"x" * (LINE_BYTES - 1) + b"\n"

    def close(self) -> None:
        (RELEASED.parent / "closed").touch()


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


bridge = Bridge(application)
