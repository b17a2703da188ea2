"""Plans, end users and policies of an environment, as stored. What they mean is in rules.py and resolution.py."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.functions import RandomUUID
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from audit.models import ACTOR_LENGTH_MAX
from policies import rules
from policies.reasons import REASON_CLASS_LENGTH_MAX, REASON_CODE_LENGTH_MAX
from tenants.lengths import NAME_LENGTH_MAX, REASON_LENGTH_MAX, REQUEST_ID_LENGTH_MAX, TITLE_LENGTH_MAX
from tenants.models import Environment
from usage.amounts import Per
from usage.boosts import BOOSTED_PERS
from usage.metrics import Metric
from usage.windows import Window

STREAM_ID_LENGTH_MAX = 40
# Why something was published.
NOTE_LENGTH_MAX = 500


def choices(values: type) -> list[tuple[str, str]]:
    return [(value.value, value.value) for value in values]  # type: ignore[attr-defined]


def metrics() -> list[tuple[str, str]]:
    """Asked for when needed, so that a new metric changes no column."""
    return choices(Metric)


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

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "metric", "window", "per"], name="limit_unique"),
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


class BlockedDecision(models.Model):
    """A blocked call: who, what, why, and the limits as they stood. Allowed calls are in the ledger.

    Partitioned by month of `decided_at` (policies/blocked/decision_log.py); the real primary key is (id, decided_at).
    """

    # Without a constraint: to attach a partition that has one locks the environments.
    environment = models.ForeignKey(
        Environment, on_delete=models.CASCADE, db_constraint=False, related_name="+"
    )
    # The entry of the stream it came from, which has one time: written twice, it is still one row.
    stream_id = models.CharField(max_length=STREAM_ID_LENGTH_MAX)
    decided_at = models.DateTimeField()
    request_id = models.CharField(max_length=REQUEST_ID_LENGTH_MAX)
    user_id = models.CharField(max_length=NAME_LENGTH_MAX)
    feature = models.CharField(max_length=NAME_LENGTH_MAX)
    plan = models.CharField(max_length=NAME_LENGTH_MAX)
    run_id = models.CharField(max_length=NAME_LENGTH_MAX)
    model = models.CharField(max_length=NAME_LENGTH_MAX)
    reason_code = models.CharField(max_length=REASON_CODE_LENGTH_MAX)
    reason_class = models.CharField(max_length=REASON_CLASS_LENGTH_MAX)
    message = models.TextField()
    policy_id = models.UUIDField(null=True)
    policy_name = models.CharField(max_length=TITLE_LENGTH_MAX)
    policy_version = models.IntegerField(null=True)
    limit_state = models.JSONField()
    # Of what the call asked for, without a price null.
    estimated_cost_nano = models.BigIntegerField(null=True)
    # What it needed in any case: of a call that names no cap on its output less than it asked for. Null: not known.
    needed_input_tokens = models.BigIntegerField(null=True)
    needed_output_tokens = models.BigIntegerField(null=True)
    needed_cost_nano = models.BigIntegerField(null=True)
    # Of the key that asked, as in the ledger. Null: an older version wrote it.
    api_key_id = models.BigIntegerField(null=True)

    class Meta:
        db_table = "blocked_decision"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["environment", "stream_id", "decided_at"], name="decision_unique_stream_id"
            )
        ]
        indexes = [
            models.Index(fields=["environment", "-id"], name="decision_newest"),
            models.Index(fields=["environment", "user_id", "-id"], name="decision_user"),
            models.Index(fields=["environment", "reason_code", "-id"], name="decision_reason"),
            models.Index(fields=["environment", "feature", "-id"], name="decision_feature"),
            models.Index(fields=["environment", "model", "-id"], name="decision_model"),
            models.Index(fields=["environment", "policy_id", "-id"], name="decision_policy"),
            models.Index(fields=["environment", "request_id"], name="decision_request"),
            models.Index(fields=["environment", "api_key_id", "-id"], name="decision_key"),
        ]

    def __str__(self) -> str:
        return f"{self.request_id} {self.reason_code}"


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

    class Meta:
        ordering = ["closed_month", "-spent_usd"]
        constraints = [
            models.UniqueConstraint(
                fields=["closed_month", "policy_id", "per", "user_id", "feature", "plan", "run_id"],
                name="monthly_budget_unique",
            )
        ]

    def __str__(self) -> str:
        return f"{self.policy_name} {self.closed_month}"

    @property
    def exceeded(self) -> bool:
        return self.spent_usd > self.budget_usd
