"""What the worker does on beat's schedule (settings.CELERY_BEAT_SCHEDULE). Each calls the domain function that the
command of the same name calls; running one twice, or two at once, changes nothing."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from celery import shared_task
from django.db import DatabaseError
from redis.exceptions import RedisError

from policies import budgets
from policies.alerting import delivering, watching
from policies.blocked import decision_log
from policies.replaying import jobs
from tenants import revisions
from tenants.models import Environment
from usage.counting.store import StoreUnavailable
from usage.ledger import partitions, retention, rollups
from usage.settling import catching_up, expiry

logger = logging.getLogger("tokvigil.tasks")


@shared_task
def publish_revisions() -> None:
    """Makes good for what the counter store could not be told, and for what PostgreSQL lost."""
    try:
        for environment_id in revisions.reconcile():
            logger.warning("PostgreSQL lost a revision of environment %s that was in force", environment_id)
    except RedisError as error:
        logger.warning("revisions are not compared, the counter store is away: %s", error)
    catching_up.catch_up()


@shared_task
def settle_expired() -> None:
    _for_each_environment(expiry.settle_expired)


@shared_task
def drain_decisions() -> None:
    _for_each_environment(decision_log.drain)


@shared_task
def partition_usage() -> None:
    now = datetime.now(UTC)
    partitions.keep_up(now)
    decision_log.keep_up(now)
    retention.apply(now)


@shared_task
def rollup_usage() -> None:
    rollups.roll_due()


@shared_task
def close_months() -> None:
    _for_each_environment(budgets.close_over)


@shared_task
def run_replays() -> None:
    """One; the next turn has the next."""
    jobs.run_next()


@shared_task
def watch_alerts() -> None:
    _for_each_environment(watching.watch)


@shared_task
def watch_counters() -> None:
    _for_each_environment(watching.watch_counters)


@shared_task
def deliver_alerts() -> None:
    try:
        delivering.deliver_due()
    except DatabaseError as error:
        logger.error("alerts are not delivered now, to be tried again: %s", error)


def _for_each_environment(work: Callable[[Environment], Any]) -> None:
    """One that fails must not keep the others from their turn."""
    for environment in Environment.objects.select_related("tenant").order_by("pk"):
        try:
            work(environment)
        except (DatabaseError, StoreUnavailable) as error:
            logger.error("%s of %s failed, to be tried again: %s", work.__name__, environment, error)
        except Exception:
            logger.exception("%s of %s failed", work.__name__, environment)
