"""What is said when there is no PostgreSQL, by commands, the web server, the worker and beat: one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError

from tokvigil_site import environment, launch

START = "start `make up` (or `manage.py up`), or set DATABASE_URL"
_NOT_RUNNING = f"The product is not running here, and DATABASE_URL is not set: {START}."


@contextmanager
def explained() -> Iterator[None]:
    """Ends the process with status 1 if PostgreSQL cannot be reached. Other errors pass."""
    try:
        yield
    except OperationalError as error:
        # What the server itself objects to, such as a deadlock, has a code: then it was reached.
        if getattr(error.__cause__, "sqlstate", None) is not None:
            raise
        sys.exit(_sentence(error))


def require_a_database() -> None:
    """Ends the process with status 1 where no database is named and none runs here, or a setting is wrong."""
    try:
        if not settings.DATABASE_IS_NAMED:
            sys.exit(_NOT_RUNNING)
    except ImproperlyConfigured as error:
        sys.exit(str(error))


def _sentence(error: OperationalError) -> str:
    if not settings.DATABASE_IS_NAMED:
        return _NOT_RUNNING
    named = settings.DATABASES["default"]
    address = f"{named['HOST'] or 'its local socket'}:{named['PORT'] or 5432}"
    return f"PostgreSQL cannot be reached at {address}{_reason(error)}: {_way_out()}."


def _way_out() -> str:
    if environment.read("DATABASE_URL"):
        return "check DATABASE_URL and the server"
    if launch.looks_after(settings.TOKVIGIL_HOME):
        return f"the `manage.py up` of {settings.TOKVIGIL_HOME} starts it again, try in a moment"
    return "start `make up` (or `manage.py up`), which starts it again"


def _reason(error: OperationalError) -> str:
    """Such as a wrong password."""
    return f" ({str(error).splitlines()[0].rpartition('failed: ')[2]})"
