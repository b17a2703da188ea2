"""What is watched, what fired, and whom it was told to."""

from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from policies.alert_events import EVENT_LENGTH_MAX, Event, watched
from policies.models.columns import choices, metrics
from policies.models.policies import Policy
from tenants.lengths import NAME_LENGTH_MAX, TITLE_LENGTH_MAX
from tenants.models import PEPPER_ID_LENGTH_MAX, Environment
from usage.amounts import Per
from usage.windows import Window

THRESHOLDS_MAX = 10
PERCENT_MAX = 1_000
ADDRESS_LENGTH_MAX = 500
DIGEST_LENGTH = 64
SALT_LENGTH = 32
ERROR_LENGTH_MAX = 500


def event_choices() -> list[tuple[str, str]]:
    """Asked for when needed, so that a new event changes no column."""
    return choices(Event)


class AlertRule(models.Model):
    """What fires. A field that an event does not use keeps its default. Changed by `alerting/rules.py`."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="alert_rules")
    name = models.CharField(max_length=TITLE_LENGTH_MAX)
    event = models.CharField(max_length=EVENT_LENGTH_MAX, choices=watched)
    # In percent: of a limit, or of the calls.
    thresholds = ArrayField(
        models.PositiveSmallIntegerField(validators=[MinValueValidator(1), MaxValueValidator(PERCENT_MAX)]),
        size=THRESHOLDS_MAX,
        default=list,
        blank=True,
    )
    # Which limits; null and empty: of any policy, of any kind.
    policy = models.ForeignKey(
        Policy, null=True, blank=True, on_delete=models.CASCADE, related_name="alert_rules"
    )
    metric = models.CharField(max_length=13, choices=metrics, blank=True)
    window = models.CharField(max_length=6, choices=choices(Window), blank=True)
    per = models.CharField(max_length=12, choices=choices(Per), blank=True)
    # Also limits that each user or run has of their own.
    of_users = models.BooleanField(default=False)
    # How much more than usual an hour must cost.
    minimum_usd = models.DecimalField(
        max_digits=15, decimal_places=2, default=1, validators=[MinValueValidator(0)]
    )
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # When what it watches was read last, by the clock of the counter store.
    looked_at = models.DateTimeField(null=True, editable=False)
    # Last, for its name hides that of Django's fields.
    models = ArrayField(models.CharField(max_length=NAME_LENGTH_MAX), default=list, db_default=[], blank=True)

    class Meta:
        verbose_name = "alert rule"
        ordering = ["environment", "name"]
        constraints = [models.UniqueConstraint(fields=["environment", "name"], name="alert_rule_unique_name")]

    def __str__(self) -> str:
        return self.name


class EndpointKind(models.TextChoices):
    WEBHOOK = "webhook", "Signed webhook"
    SLACK = "slack", "Slack webhook, or what takes the same"
    EMAIL = "email", "E-mail"


class AlertEndpoint(models.Model):
    """Where alerts are sent. Changed by `alerting/endpoints.py`.

    The signing secret is not stored: it is made of the salt and a pepper (alerting/signing.py).
    """

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="alert_endpoints")
    name = models.CharField(max_length=TITLE_LENGTH_MAX)
    kind = models.CharField(max_length=7, choices=EndpointKind.choices, default=EndpointKind.WEBHOOK)
    # A URL, or e-mail addresses separated by commas. That of a Slack webhook is a secret.
    address = models.CharField(max_length=ADDRESS_LENGTH_MAX)
    events = ArrayField(models.CharField(max_length=EVENT_LENGTH_MAX, choices=watched))
    active = models.BooleanField(default=True)
    salt = models.BinaryField(max_length=SALT_LENGTH, editable=False)
    pepper_id = models.CharField(max_length=PEPPER_ID_LENGTH_MAX, editable=False)
    # Of the secret before the last rotation, which signs as well until it ends.
    previous_salt = models.BinaryField(max_length=SALT_LENGTH, null=True, editable=False)
    previous_pepper_id = models.CharField(max_length=PEPPER_ID_LENGTH_MAX, blank=True, editable=False)
    previous_ends_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = "alert endpoint"
        ordering = ["environment", "name"]
        constraints = [
            models.UniqueConstraint(fields=["environment", "name"], name="alert_endpoint_unique_name")
        ]

    def __str__(self) -> str:
        return self.name


class Alert(models.Model):
    """What fired: once of each rule, subject, threshold and window.

    What has no window that ends stands from when it fired until it is over, and may then fire again.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="alerts")
    # Null: the rule is gone, or it is a test.
    rule = models.ForeignKey(AlertRule, null=True, on_delete=models.SET_NULL, related_name="alerts")
    rule_name = models.CharField(max_length=TITLE_LENGTH_MAX)
    event = models.CharField(max_length=EVENT_LENGTH_MAX, choices=event_choices)
    # A digest of what it is about: of a limit its policy, kind, subject and amount.
    about = models.CharField(max_length=DIGEST_LENGTH)
    threshold = models.PositiveSmallIntegerField(default=0)
    window_start = models.DateTimeField()
    window_end = models.DateTimeField(null=True)
    fired_at = models.DateTimeField()
    # Since when it may fire again.
    ended_at = models.DateTimeField(null=True)
    # A higher threshold was reached by then and is what is told.
    is_quiet = models.BooleanField(default=False)
    title = models.CharField(max_length=500)
    text = models.TextField()
    data = models.JSONField()

    class Meta:
        ordering = ["-fired_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "about", "threshold", "window_start"], name="alert_once_per_window"
            ),
            models.UniqueConstraint(
                fields=["rule", "about", "threshold"],
                condition=models.Q(ended_at=None),
                name="alert_stands_once",
            ),
        ]
        indexes = [models.Index(fields=["environment", "-fired_at", "-id"], name="alert_newest")]

    def __str__(self) -> str:
        return self.title

    @property
    def message_id(self) -> str:
        """The same in all deliveries, so that a receiver knows it again."""
        return f"msg_{self.id.hex}"


class AlertDelivery(models.Model):
    """One alert to one endpoint. Changed by `alerting/delivering.py`."""

    class State(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        DEAD = "dead"

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries")
    endpoint = models.ForeignKey(AlertEndpoint, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=9, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    # While one attempt is made: when another worker would take it for lost.
    next_attempt_at = models.DateTimeField(default=timezone.now)
    tried_at = models.DateTimeField(null=True)
    response_status = models.PositiveSmallIntegerField(null=True)
    last_error = models.CharField(max_length=ERROR_LENGTH_MAX, blank=True)

    class Meta:
        verbose_name_plural = "alert deliveries"
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["alert", "endpoint"], name="alert_delivery_once")]
        indexes = [
            models.Index(
                fields=["next_attempt_at", "id"],
                condition=models.Q(state="pending"),
                name="alert_delivery_due",
            )
        ]

    def __str__(self) -> str:
        return f"{self.alert} to {self.endpoint}"


class HourlySpend(models.Model):
    """What a feature or a key spent in an hour: what an hour is compared with (alerting/spending.py)."""

    class Of(models.TextChoices):
        FEATURE = "feature"
        KEY = "key"

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="+")
    hour = models.DateTimeField()
    of = models.CharField(max_length=7, choices=Of.choices)
    # The feature, or the id of the key.
    name = models.CharField(max_length=NAME_LENGTH_MAX)
    cost_nano = models.BigIntegerField()
    calls = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["environment", "of", "name", "hour"], name="hourly_spend_once")
        ]
        indexes = [models.Index(fields=["environment", "hour"], name="hourly_spend_hour")]

    def __str__(self) -> str:
        return f"{self.of} {self.name} {self.hour:%Y-%m-%d %H:%M}"
