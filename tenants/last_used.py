"""When a key was last used: written at most once a minute per key and process, never on the caller's time."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

from django.db import DatabaseError, connection
from django.utils import timezone

from tenants.models import ApiKey

logger = logging.getLogger("tokvigil.keys")

INTERVAL_S = 60.0
_noted: dict[int, float] = {}
_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="last-used")


def note(api_key_id: int) -> None:
    """Two threads at once may write twice; that costs one query more."""
    now = time.monotonic()
    if now - _noted.get(api_key_id, -INTERVAL_S) >= INTERVAL_S:
        _noted[api_key_id] = now
        _writer.submit(_write, api_key_id)


def _write(api_key_id: int) -> None:
    try:
        ApiKey.objects.filter(pk=api_key_id).update(last_used_at=timezone.now())
    except DatabaseError as error:
        logger.warning("last_used of key %s not written: %s", api_key_id, error)
    finally:
        connection.close()


def forget_all() -> None:
    """As in a new process."""
    _noted.clear()
