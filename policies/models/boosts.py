"""Extra allowances."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.utils import timezone

from audit.models import ACTOR_LENGTH_MAX
from policies.models.columns import choices, metrics
from tenants.lengths import NAME_LENGTH_MAX, REASON_LENGTH_MAX
from tenants.models import Environment
from usage.boosts import BOOSTED_PERS
from usage.windows import Window


class Boost(models.Model):
    """Extra allowance for a time, on top of the limits that are counted per this kind of subject (usage/boosts.py).

    Given and ended through `policies/boosts.py`, which tells the counter store.
    """

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="boosts")
    # As the API names it; whoever gives it there chooses it.
    boost_id = models.UUIDField(default=uuid.uuid4, db_default=RandomUUID(), editable=False)
    per = models.CharField(max_length=12, choices=[(per.value, per.value) for per in BOOSTED_PERS])
    # The user, feature or plan; empty for the environment.
    subject = models.CharField(max_length=NAME_LENGTH_MAX, blank=True)
    metric = models.CharField(max_length=13, choices=metrics)
    window = models.CharField(max_length=6, choices=choices(Window))
    # Tokens and requests are whole; USD has nine places.
    extra = models.DecimalField(max_digits=25, decimal_places=9)
    reason = models.CharField(max_length=REASON_LENGTH_MAX)
    # Null: since it was given.
    starts_at = models.DateTimeField(null=True, blank=True)
    ends_at = models.DateTimeField()
    given_at = models.DateTimeField(default=timezone.now, editable=False)
    given_by = models.CharField(max_length=ACTOR_LENGTH_MAX, editable=False)
    # If it was ended before its time.
    ended_at = models.DateTimeField(null=True, editable=False)
    ended_by = models.CharField(max_length=ACTOR_LENGTH_MAX, blank=True, editable=False)

    class Meta:
        ordering = ["environment", "-ends_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["environment", "boost_id"], name="boost_unique_id"),
            models.CheckConstraint(condition=models.Q(extra__gt=0), name="boost_extra_positive"),
            models.CheckConstraint(
                condition=models.Q(starts_at=None) | models.Q(ends_at__gt=models.F("starts_at")),
                name="boost_ends_after_it_starts",
            ),
            models.CheckConstraint(
                condition=~models.Q(metric="concurrency") | models.Q(window="total"),
                name="boost_concurrency_is_total",
            ),
        ]
        indexes = [
            models.Index(
                fields=["environment", "per", "subject"],
                condition=models.Q(ended_at=None),
                name="boost_not_ended",
            )
        ]

    def __str__(self) -> str:
        whom = f"{self.per} {self.subject}" if self.subject else self.per
        return f"{self.extra.normalize():f} {self.metric} for {whom}"

    @property
    def started_at(self) -> datetime:
        return self.starts_at or self.given_at

    @property
    def over_at(self) -> datetime:
        return self.ended_at or self.ends_at
