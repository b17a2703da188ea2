"""Request bodies: read whole, under one deadline, and none that nobody will look at.

Until a body is complete it occupies no thread, and of large ones there is only a limited number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from io import BytesIO, RawIOBase
from typing import Any, Protocol

from django.conf import settings
from django.core.exceptions import RequestDataTooBig

from tenants.api import authentication, problems
from tenants.api.http import body_bytes_max
from tokvigil_site.pages import is_api
from tokvigil_site.serving import BODY_DEADLINE_S
from tokvigil_site.serving.environ import Environ

# Room for an evaluate with a long prompt. Larger bodies are few.
LARGE_BYTES = 16 * 1024
# Being read at once, by a process: 128 MiB at most.
LARGE_MAX = 128


class Sender(Protocol):
    """Whoever sends the body."""

    def __call__(self) -> Awaitable[bytes]: ...


class Unread(RawIOBase):
    """The body of a request that was refused before it was read: whoever wants it after all learns why."""

    def __init__(self, reason: Exception) -> None:
        self._reason = reason

    def read(self, size: int = -1) -> bytes:
        raise self._reason


class Bodies:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        # Those that are being read, the oldest first.
        self._large: dict[asyncio.Timeout, None] = {}

    async def read(self, environ: Environ, sender: Sender) -> BytesIO | Unread:
        """Raises TimeoutError at the deadline, and earlier for the oldest of too many large bodies.

        A body in chunks is not read: the API refuses it (411), and Django's pages take it for an empty one.
        """
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length == 0:
            return BytesIO()
        refused = _refused(environ, length)
        if refused is not None:
            return Unread(refused)
        async with asyncio.timeout(BODY_DEADLINE_S) as deadline:
            if length <= LARGE_BYTES:
                return BytesIO(await sender())
            with self._place(deadline):
                return BytesIO(await sender())

    @contextmanager
    def _place(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """One of the places for large bodies. Those who send fast leave it at once; so the oldest makes room."""
        if len(self._large) >= LARGE_MAX:
            oldest = next(iter(self._large))
            del self._large[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        self._large[deadline] = None
        try:
            yield
        finally:
            self._large.pop(deadline, None)


def _refused(environ: Environ, length: int) -> Exception | None:
    """Why the body is not worth reading. The views find the same by themselves, before they ask for the body."""
    path: Any = environ["PATH_INFO"]
    if not is_api(path):
        too_long = length > settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    elif authentication.key_in(environ) is None:
        return problems.invalid_api_key()
    else:
        too_long = length > body_bytes_max(path)
    return RequestDataTooBig(f"{length} bytes were announced") if too_long else None
