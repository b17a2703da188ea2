"""What a web process reads before it takes calls, for an evaluate waits no longer than 250 ms for what is not known."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Max
from django.utils import timezone

from policies.deciding import snapshot
from tenants.models import ApiKey
from usage.counting.store import StoreUnavailable
from usage.timebox import patience

logger = logging.getLogger("tokvigil.evaluate")

CALLED_WITHIN = timedelta(days=1)
ENVIRONMENTS_MAX = 100


def warm_up() -> None:
    """Compiles the environments that were called lately. Without PostgreSQL none: their first callers will find out."""
    try:
        with patience.within(settings.API_WAIT_S):
            for environment_id in _called_lately():
                snapshot.current(environment_id)
    except (DatabaseError, InterfaceError, StoreUnavailable) as error:
        logger.warning(
            "not all environments that were called lately could be read before the first call: %s", error
        )
    finally:
        connection.close()


def _called_lately() -> list[int]:
    """The one that was called last comes first."""
    called = ApiKey.objects.filter(revoked_at=None, last_used_at__gte=timezone.now() - CALLED_WITHIN)
    by_environment = called.order_by().values("environment_id").annotate(at=Max("last_used_at"))
    return list(by_environment.order_by("-at").values_list("environment_id", flat=True)[:ENVIRONMENTS_MAX])
