"""What the worker does on beat's schedule (settings.CELERY_BEAT_SCHEDULE). Each calls the domain function that the
command of the same name calls; running one twice, or two at once, changes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from celery import shared_task

from policies import decision_log
from tenants import revisions
from tenants.models import Environment
from usage import charging, expiry, partitions


@shared_task
def publish_revisions() -> None:
    """Makes good for what the counter store could not be told: revisions, charges, end users."""
    revisions.publish_all()
    charging.catch_up()


@shared_task
def settle_expired() -> None:
    _for_each_environment(expiry.settle_expired)


@shared_task
def drain_decisions() -> None:
    _for_each_environment(decision_log.drain)


@shared_task
def partition_usage() -> None:
    partitions.ensure_ahead(datetime.now(UTC))


def _for_each_environment(work: Callable[[Environment], Any]) -> None:
    for environment in Environment.objects.order_by("pk").iterator():
        work(environment)
