"""Replays: what other policies would have decided of the calls of a past period, as jobs with an address."""

from __future__ import annotations

import uuid
from enum import StrEnum

from django.db import models
from django.utils import timezone

from audit.models import ACTOR_LENGTH_MAX
from policies.models.columns import choices
from policies.models.drafts import Draft
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.models import Environment

ERROR_LENGTH_MAX = 500


class ReplayState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN_STATES = (ReplayState.WAITING, ReplayState.RUNNING)


class PolicyReplay(models.Model):
    """Asked for, run and cancelled through `policies/replaying/jobs.py`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="replays")
    asked_by = models.CharField(max_length=ACTOR_LENGTH_MAX)
    asked_at = models.DateTimeField(default=timezone.now)
    # Until before `end`.
    start = models.DateTimeField()
    end = models.DateTimeField()
    # What is replayed: a policy file as JSON, and where it came from.
    document = models.JSONField()
    source = models.CharField(max_length=TITLE_LENGTH_MAX)
    draft = models.ForeignKey(Draft, on_delete=models.SET_NULL, null=True, related_name="replays")
    # How often the draft had been changed by then.
    draft_edits = models.PositiveIntegerField(null=True)
    # Whether the policies that were in force are replayed beside them.
    self_check = models.BooleanField(default=False, db_default=False)
    state = models.CharField(max_length=9, choices=choices(ReplayState), default=ReplayState.WAITING.value)
    calls_done = models.PositiveBigIntegerField(default=0)
    # About, as counted when it was asked for.
    calls_in_all = models.PositiveBigIntegerField()
    report = models.JSONField(null=True)
    error = models.CharField(max_length=ERROR_LENGTH_MAX, blank=True)
    # How often a worker began it, which run it is, and when that run said last that it goes on.
    attempts = models.PositiveSmallIntegerField(default=0)
    run = models.UUIDField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-asked_at", "-id"]
        indexes = [
            models.Index(fields=["environment", "-asked_at"], name="replay_of_environment"),
            models.Index(
                fields=["asked_at"], condition=models.Q(state__in=OPEN_STATES), name="replay_not_finished"
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(end__gt=models.F("start")), name="replay_ends_after_it_starts"
            ),
        ]

    def __str__(self) -> str:
        return self.source

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES
