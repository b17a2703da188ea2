"""What end users buy, and end users with a stored plan or a block."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from tenants.lengths import NAME_LENGTH_MAX, REASON_LENGTH_MAX
from tenants.models import Environment


class Plan(models.Model):
    """What end users can buy: free, pro, enterprise."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="plans")
    name = models.CharField(max_length=NAME_LENGTH_MAX)

    class Meta:
        ordering = ["environment", "name"]
        constraints = [models.UniqueConstraint(fields=["environment", "name"], name="plan_unique_name")]

    def __str__(self) -> str:
        return self.name


class EndUser(models.Model):
    """An end user with a stored plan or a block. Others need no row.

    Changed through `policies/end_users.py`, which tells the counter store.
    """

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="end_users")
    user_id = models.CharField(max_length=NAME_LENGTH_MAX)
    plan = models.ForeignKey(Plan, null=True, blank=True, on_delete=models.PROTECT, related_name="end_users")
    blocked = models.BooleanField(default=False)
    # For the staff: no answer of the API shows it.
    blocked_reason = models.CharField(max_length=REASON_LENGTH_MAX, blank=True, default="", db_default="")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["environment", "user_id"]
        constraints = [models.UniqueConstraint(fields=["environment", "user_id"], name="end_user_unique")]

    def __str__(self) -> str:
        return self.user_id

    def clean(self) -> None:
        if self.plan is not None and self.plan.environment_id != self.environment_id:
            raise ValidationError(
                {"plan": "The plan belongs to another environment; choose one of this environment."}
            )
