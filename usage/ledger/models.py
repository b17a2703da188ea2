from __future__ import annotations

from django.db import models

from tenants.lengths import NAME_LENGTH_MAX, REQUEST_ID_LENGTH_MAX
from tenants.models import Environment
from usage.amounts import Amounts
from usage.metrics import COLUMNS, COUNTS


class Status(models.TextChoices):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PARTIAL = "partial"
    # Written by TokVigil: a hold that expired and whose policy charges it, and what takes that estimate back when the
    # call's report comes late after all.
    UNSETTLED = "unsettled"
    REVERSAL = "reversal"
    # Likewise: by how much a call was re-priced (usage/ledger/adjustments.py).
    ADJUSTMENT = "adjustment"


class UsageEvent(models.Model):
    """A row of the ledger: what one call used. Append-only, partitioned by month of `charged_at`.

    Rows are written by `usage/ledger/writing.py` alone. A migration in SQL makes the table and its triggers; the real
    primary key is (id, charged_at), as a partitioned table demands. One request_id has one row, or three when its
    report came after its estimate was charged: the estimate, its reversal, the report; and another for each time that
    its call was re-priced.
    """

    id = models.BigAutoField(primary_key=True)
    environment = models.ForeignKey(
        Environment, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    request_id = models.CharField(max_length=REQUEST_ID_LENGTH_MAX)
    # The time of the evaluate, else of the call: it decides which windows the row is charged to.
    charged_at = models.DateTimeField()
    occurred_at = models.DateTimeField(null=True)
    recorded_at = models.DateTimeField()
    # The transaction that wrote the row; a counter rebuilt from the ledger knows by it what it holds already.
    xid = models.BigIntegerField()

    user_id = models.CharField(max_length=NAME_LENGTH_MAX)
    feature = models.CharField(max_length=NAME_LENGTH_MAX)
    plan = models.CharField(max_length=NAME_LENGTH_MAX)
    run_id = models.CharField(max_length=NAME_LENGTH_MAX)
    model = models.CharField(max_length=NAME_LENGTH_MAX)
    provider = models.CharField(max_length=NAME_LENGTH_MAX)
    status = models.CharField(max_length=10, choices=Status.choices)

    # And the columns of metrics.COUNTS, see below. Parts of the tokens:
    cached_input_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    # Null: the model has no price. 0 means free.
    cost_nano = models.BigIntegerField(null=True)
    reported_cost_nano = models.BigIntegerField(null=True)
    # The name that was asked for, where another answered.
    requested_model = models.CharField(max_length=NAME_LENGTH_MAX, default="")
    service_tier = models.CharField(max_length=10, default="")
    region = models.CharField(max_length=NAME_LENGTH_MAX, default="")
    # Quantities without a column of their own, by name; and of all those that had no rate. Of an adjustment: what of
    # its call has none still.
    quantities = models.JSONField(null=True)
    unpriced_quantities = models.JSONField(null=True)
    price_id = models.BigIntegerField(null=True)
    latency_ms = models.IntegerField(null=True)

    # The decision that allowed the call, if it was asked for.
    policy_id = models.UUIDField(null=True)
    policy_version = models.IntegerField(null=True)
    api_key_id = models.BigIntegerField(null=True)
    # The application's; of an adjustment what is adjusted (usage/ledger/adjustments.py).
    metadata = models.JSONField(null=True)

    class Meta:
        managed = False
        db_table = "usage_event"
        ordering = ["-charged_at", "-id"]

    def __str__(self) -> str:
        return f"{self.request_id} {self.status}"

    @property
    def amounts(self) -> Amounts:
        return Amounts(*(getattr(self, column) or 0 for column in COLUMNS))


# `requests` is 1; 0 for a failed or cancelled call that used nothing, and for an adjustment; -1 for a reversal.
for column in COUNTS:
    UsageEvent.add_to_class(column, models.BigIntegerField(default=0))
