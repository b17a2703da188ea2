"""What is not in force: drafts, and the callers that Try it asks about."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from audit.models import ACTOR_LENGTH_MAX
from policies.models.columns import NOTE_LENGTH_MAX
from tenants.lengths import NAME_LENGTH_MAX, TITLE_LENGTH_MAX
from tenants.models import Environment


class NamedCaller(models.Model):
    """A call that is tried again and again: what would be decided of it now? Changed by `trying/try_it.py`."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="named_callers")
    name = models.CharField(max_length=TITLE_LENGTH_MAX)
    user_id = models.CharField(max_length=NAME_LENGTH_MAX)
    feature = models.CharField(max_length=NAME_LENGTH_MAX, blank=True)
    plan = models.CharField(max_length=NAME_LENGTH_MAX, blank=True)
    model = models.CharField(max_length=NAME_LENGTH_MAX)
    input_tokens = models.PositiveIntegerField(default=0)
    # Null: the call names no cap.
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True)
    run_id = models.CharField(max_length=NAME_LENGTH_MAX, blank=True)

    class Meta:
        ordering = ["environment", "name"]
        constraints = [
            models.UniqueConstraint(fields=["environment", "name"], name="named_caller_unique_name")
        ]

    def __str__(self) -> str:
        return self.name


class Draft(models.Model):
    """Policies of an environment as somebody wants them, before they are published. Changed by `changing/drafts.py`."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="drafts")
    name = models.CharField(max_length=TITLE_LENGTH_MAX)
    author = models.CharField(max_length=ACTOR_LENGTH_MAX)
    # Each a list of documents: as in force when it was begun, or when somebody last looked at what moved; as wanted.
    base = models.JSONField()
    policies = models.JSONField()
    # Grows with each change, so that nobody overwrites one that they have not seen.
    edits = models.PositiveIntegerField(default=0)
    begun_at = models.DateTimeField(default=timezone.now)
    published_at = models.DateTimeField(null=True)
    published_by = models.CharField(max_length=ACTOR_LENGTH_MAX, blank=True, default="", db_default="")
    note = models.CharField(max_length=NOTE_LENGTH_MAX, blank=True, default="", db_default="")
    # Since when it is known to bind every call; null: it is not.
    in_force_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-begun_at"]

    def __str__(self) -> str:
        return self.name
