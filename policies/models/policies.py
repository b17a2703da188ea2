"""Policies, their limits and their versions, as stored. What they mean is in rules.py and resolution.py."""

from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from audit.models import ACTOR_LENGTH_MAX
from policies import rules
from policies.models.columns import NOTE_LENGTH_MAX, choices, metrics
from tenants.lengths import NAME_LENGTH_MAX, TITLE_LENGTH_MAX
from tenants.models import Environment
from usage.amounts import Per
from usage.windows import Window


class PolicyQuerySet(models.QuerySet["Policy"]):
    def in_force(self, environment_id: int) -> PolicyQuerySet:
        """Those of an environment that are not archived, the oldest first: among equals it wins."""
        return self.filter(environment_id=environment_id, archived_at=None).order_by("ordinal")


class Policy(models.Model):
    """A policy in force (or archived). Written by `changing/publishing.py` alone, which keeps the versions."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="policies")
    name = models.CharField(max_length=TITLE_LENGTH_MAX)
    version = models.PositiveIntegerField(default=1, editable=False)
    # Among equals the older policy wins: the order in which they were first made.
    ordinal = models.BigIntegerField(editable=False)

    scope_user = models.CharField(max_length=NAME_LENGTH_MAX, blank=True)
    scope_feature = models.CharField(max_length=NAME_LENGTH_MAX, blank=True)
    scope_plan = models.CharField(max_length=NAME_LENGTH_MAX, blank=True)
    kind = models.CharField(max_length=9, choices=choices(rules.Kind), default=rules.Kind.OVERRIDE)
    mode = models.CharField(max_length=7, choices=choices(rules.Mode), default=rules.Mode.ENFORCE)
    priority = models.IntegerField(
        default=0, validators=[MinValueValidator(-rules.PRIORITY_MAX), MaxValueValidator(rules.PRIORITY_MAX)]
    )
    models_allow = ArrayField(models.CharField(max_length=NAME_LENGTH_MAX), default=list, blank=True)
    models_deny = ArrayField(models.CharField(max_length=NAME_LENGTH_MAX), default=list, blank=True)
    per_request_cost_usd = models.DecimalField(max_digits=16, decimal_places=9, null=True, blank=True)
    per_request_input_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    per_request_output_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    on_unavailable = models.CharField(
        max_length=5, choices=choices(rules.OnUnavailable), default=rules.OnUnavailable.BLOCK
    )
    on_unsettled = models.CharField(
        max_length=7, choices=choices(rules.OnUnsettled), default=rules.OnUnsettled.RELEASE
    )
    unknown_price = models.CharField(
        max_length=5, choices=choices(rules.UnknownPrice), default=rules.UnknownPrice.BLOCK
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    archived_at = models.DateTimeField(null=True, editable=False)

    objects = PolicyQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "policies"
        ordering = ["environment", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["environment", "name"],
                condition=models.Q(archived_at__isnull=True),
                name="policy_unique_name_in_force",
            ),
            models.UniqueConstraint(fields=["environment", "ordinal"], name="policy_unique_ordinal"),
        ]

    def __str__(self) -> str:
        return self.name


class Limit(models.Model):
    """At most this much per subject and window. 0 means none."""

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="limits")
    metric = models.CharField(max_length=13, choices=metrics)
    window = models.CharField(max_length=6, choices=choices(Window))
    # Tokens and requests are whole; USD has nine places.
    amount = models.DecimalField(max_digits=25, decimal_places=9)
    per = models.CharField(max_length=12, choices=choices(Per), default=Per.USER)
    # Patterns of those that it counts; empty: of all.
    models = ArrayField(
        models.CharField(max_length=NAME_LENGTH_MAX),
        size=rules.MODEL_GLOBS_MAX,
        default=list,
        db_default=[],
        blank=True,
    )

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["policy", "metric", "window", "per", "models"], name="limit_unique"
            ),
            models.CheckConstraint(condition=models.Q(amount__gte=0), name="limit_amount_not_negative"),
            models.CheckConstraint(
                condition=~models.Q(metric="concurrency") | models.Q(window="total"),
                name="limit_concurrency_is_total",
            ),
            models.CheckConstraint(
                condition=~models.Q(metric="cost_usd") | models.Q(amount__lte=9_000_000),
                name="limit_cost_max",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount.normalize():f} {self.metric} per {self.per} and {self.window}"


class PolicyVersion(models.Model):
    """What a policy said at a version: the ledger and the decisions name it, so it is never changed."""

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="versions")
    version = models.PositiveIntegerField()
    # The policy as in a policy file; null: archived at this version.
    document = models.JSONField(null=True)
    actor = models.CharField(max_length=ACTOR_LENGTH_MAX)
    # Why, in the words of whoever published it.
    note = models.CharField(max_length=NOTE_LENGTH_MAX, blank=True, default="", db_default="")
    # That was published with it, if one was.
    draft = models.ForeignKey("Draft", null=True, on_delete=models.SET_NULL, related_name="versions")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["policy", "-version"]
        constraints = [models.UniqueConstraint(fields=["policy", "version"], name="policy_version_unique")]

    def __str__(self) -> str:
        return f"{self.policy} v{self.version}"
