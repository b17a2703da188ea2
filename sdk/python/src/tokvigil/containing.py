"""A defect of the SDK must not reach the application: its AI call goes on as if the SDK were not there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("tokvigil")

KINDS_MAX = 100
_said: set[tuple[str, str]] = set()


def say(what: str, error: Exception) -> None:
    """Log a defect: with its traceback the first time, for debugging from then on."""
    kind = (what, type(error).__name__)
    if kind in _said or len(_said) >= KINDS_MAX:
        logger.debug("%s: %r", what, error)
        return
    _said.add(kind)
    logger.error("%s; this is a defect of tokvigil, please report it", what, exc_info=error)


@contextmanager
def defects(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is logged, and goes no further."""
    try:
        yield
    except Exception as error:
        say(what, error)
