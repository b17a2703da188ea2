"""When a key was last used, and its old secret after a rotation.

Written at most once a minute per secret and process, never on the caller's time.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

from django.db import DatabaseError, connection
from django.utils import timezone

from tenants.models import ApiKey

logger = logging.getLogger("tokvigil.keys")

INTERVAL_S = 60.0
_noted: dict[tuple[int, bytes | None], float] = {}
_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="last-used")


def note(api_key_id: int, *, old_hmac: bytes | None = None) -> None:
    """`old_hmac`: of the secret before the last rotation, if the call came with that one.

    Two threads at once may write twice; that costs one query more.
    """
    now, of = time.monotonic(), (api_key_id, old_hmac)
    if now - _noted.get(of, -INTERVAL_S) >= INTERVAL_S:
        _noted[of] = now
        _writer.submit(_write, *of)


def _write(api_key_id: int, old_hmac: bytes | None) -> None:
    key, now = ApiKey.objects.filter(pk=api_key_id), timezone.now()
    try:
        key.update(last_used_at=now)
        if old_hmac is not None:
            # By now another rotation may have made another secret the old one.
            key.filter(previous_hmac=old_hmac).update(previous_used_at=now)
    except DatabaseError as error:
        logger.warning("last_used of key %s not written: %s", api_key_id, error)
    finally:
        connection.close()


def forget_all() -> None:
    """As in a new process."""
    _noted.clear()
