from django.db import models

from tenants.models import Environment


class Decision(models.Model):
    """A blocked call: who, what, why, and the limits as they stood. Allowed calls are in the ledger."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="+")
    # The entry of the stream it came from: written twice, it is still one row.
    stream_id = models.CharField(max_length=40)
    decided_at = models.DateTimeField()
    request_id = models.CharField(max_length=128)
    user_id = models.CharField(max_length=255)
    feature = models.CharField(max_length=255)
    plan = models.CharField(max_length=255)
    run_id = models.CharField(max_length=255)
    model = models.CharField(max_length=255)
    reason_code = models.CharField(max_length=40)
    reason_class = models.CharField(max_length=12)
    message = models.TextField()
    policy_id = models.UUIDField(null=True)
    policy_name = models.CharField(max_length=100)
    policy_version = models.IntegerField(null=True)
    limit_state = models.JSONField()
    estimated_cost_nano = models.BigIntegerField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["environment", "stream_id"], name="decision_unique_stream_id")
        ]
        indexes = [
            models.Index(fields=["environment", "-id"], name="decision_newest"),
            models.Index(fields=["environment", "user_id", "-id"], name="decision_user"),
            models.Index(fields=["environment", "reason_code", "-id"], name="decision_reason"),
        ]

    def __str__(self) -> str:
        return f"{self.request_id} {self.reason_code}"
