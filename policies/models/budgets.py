"""What closed months used of their limits."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from policies.models.columns import choices
from tenants.lengths import NAME_LENGTH_MAX, TITLE_LENGTH_MAX
from tenants.models import Environment
from usage.amounts import DIGEST_BYTES, Per

DIGEST_LENGTH = 2 * DIGEST_BYTES


class ClosedMonth(models.Model):
    """A month of an environment whose monthly budgets are settled for good (policies/budgets.py)."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="closed_months")
    # Its first day, in the time zone that the tenant had when it was closed.
    month = models.DateField()
    closed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["environment", "-month"]
        constraints = [models.UniqueConstraint(fields=["environment", "month"], name="closed_month_unique")]

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


class MonthlyBudget(models.Model):
    """One subject's budget of a month, a limit on cost as it stood when the month ended, and what was spent of it.

    The subject is named as `per` says; what does not name it is empty.
    """

    closed_month = models.ForeignKey(ClosedMonth, on_delete=models.CASCADE, related_name="budgets")
    policy_id = models.UUIDField()
    policy_name = models.CharField(max_length=TITLE_LENGTH_MAX)
    policy_version = models.PositiveIntegerField()
    per = models.CharField(max_length=12, choices=choices(Per))
    user_id = models.CharField(max_length=NAME_LENGTH_MAX)
    feature = models.CharField(max_length=NAME_LENGTH_MAX)
    plan = models.CharField(max_length=NAME_LENGTH_MAX)
    run_id = models.CharField(max_length=NAME_LENGTH_MAX)
    budget_usd = models.DecimalField(max_digits=25, decimal_places=9)
    spent_usd = models.DecimalField(max_digits=30, decimal_places=9)
    requests = models.BigIntegerField()
    # Calls without a price: what they cost is in no sum.
    unpriced = models.BigIntegerField()
    # Of `models`: they would not fit into an index beside the names of a subject. Empty: of all.
    models_digest = models.CharField(max_length=DIGEST_LENGTH, default="", db_default="")
    # Patterns of those that it counts; empty: of all. Last, for its name hides that of Django's fields.
    models = ArrayField(models.CharField(max_length=NAME_LENGTH_MAX), default=list, db_default=[])

    class Meta:
        ordering = ["closed_month", "-spent_usd"]
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "closed_month",
                    "policy_id",
                    "per",
                    "models_digest",
                    "user_id",
                    "feature",
                    "plan",
                    "run_id",
                ],
                name="monthly_budget_unique",
            )
        ]

    def __str__(self) -> str:
        return f"{self.policy_name} {self.closed_month}"

    @property
    def exceeded(self) -> bool:
        return self.spent_usd > self.budget_usd
