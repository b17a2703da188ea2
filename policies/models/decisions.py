"""Blocked calls."""

from __future__ import annotations

from django.db import models

from policies.reasons import REASON_CLASS_LENGTH_MAX, REASON_CODE_LENGTH_MAX
from tenants.lengths import NAME_LENGTH_MAX, REQUEST_ID_LENGTH_MAX, TITLE_LENGTH_MAX
from tenants.models import Environment

STREAM_ID_LENGTH_MAX = 40


class BlockedDecision(models.Model):
    """A blocked call: who, what, why, and the limits as they stood. Allowed calls are in the ledger.

    Partitioned by month of `decided_at` (policies/blocked/decision_log.py); the real primary key is (id, decided_at).
    A trigger counts the rows by quarter hour (policies/blocked/counts.py).
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
        # As the console calls it.
        verbose_name = "blocked call"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["environment", "stream_id", "decided_at"], name="decision_unique_stream_id"
            )
        ]
        indexes = [
            models.Index(fields=["environment", "-id"], name="decision_newest"),
            models.Index(fields=["environment", "-decided_at"], name="decision_time"),
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
