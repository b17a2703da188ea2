from django.db import models
from django.db.models.functions import Cast, Length
from django.db.models.lookups import LessThanOrEqual

ACTOR_LENGTH_MAX = 200
ACTION_LENGTH_MAX = 64
TARGET_TYPE_LENGTH_MAX = 100
TARGET_ID_LENGTH_MAX = 128
TARGET_NAME_LENGTH_MAX = 200
DATA_LENGTH_MAX = 65_536  # characters of its JSON
HASH_LENGTH = 64  # SHA-256 in hex
KEY_ID_LENGTH_MAX = 16
ADDRESS_LENGTH_MAX = 64
REQUEST_ID_LENGTH_MAX = 32

GENESIS = "0" * HASH_LENGTH  # what the first entry of a chain follows
UNKEYED = ""  # the key id of entries that are older than the keys


class Entry(models.Model):
    """One change: who did what to what, and from where. Written only by `audit.log.log`.

    The entries of a tenant, or of no tenant (null), are a chain: each hash covers the one before. Triggers
    refuse UPDATE, DELETE and TRUNCATE; `audit.chain.verify` finds what was done in spite of them.
    """

    tenant_id = models.BigIntegerField(null=True, blank=True)  # no foreign key: outlives the tenant
    seq = models.BigIntegerField()
    at = models.DateTimeField()
    actor = models.CharField(max_length=ACTOR_LENGTH_MAX)
    action = models.CharField(max_length=ACTION_LENGTH_MAX)
    target_type = models.CharField(max_length=TARGET_TYPE_LENGTH_MAX)
    target_id = models.CharField(max_length=TARGET_ID_LENGTH_MAX)
    target_name = models.CharField(max_length=TARGET_NAME_LENGTH_MAX)
    data = models.JSONField()
    # The HTTP request that made the change. Empty: a command or the worker did, or the entry is older than the columns.
    address = models.CharField(max_length=ADDRESS_LENGTH_MAX, default="", db_default="")
    request_id = models.CharField(max_length=REQUEST_ID_LENGTH_MAX, default="", db_default="")
    prev_hash = models.CharField(max_length=HASH_LENGTH)
    hash = models.CharField(max_length=HASH_LENGTH)
    key_id = models.CharField(max_length=KEY_ID_LENGTH_MAX, default=UNKEYED)

    class Meta:
        verbose_name = "audit entry"
        verbose_name_plural = "audit log"
        ordering = ["-id"]
        indexes = [models.Index(fields=["target_type", "target_id", "-id"], name="audit_entry_target")]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant_id", "seq"], name="audit_entry_seq", nulls_distinct=False
            ),
            models.CheckConstraint(condition=models.Q(seq__gte=1), name="audit_entry_seq_from_1"),
            models.CheckConstraint(
                condition=LessThanOrEqual(Length(Cast("data", models.TextField())), DATA_LENGTH_MAX),
                name="audit_entry_data_length",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.chain_name} #{self.seq} {self.action} {self.target_name}"

    @property
    def chain_name(self) -> str:
        return chain_name(self.tenant_id)


class ChainHead(models.Model):
    """The last entry of a chain, so that its absence shows. The writers of a chain queue for this row."""

    tenant_id = models.BigIntegerField(null=True)
    seq = models.BigIntegerField()
    hash = models.CharField(max_length=HASH_LENGTH)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant_id"], name="audit_chainhead_tenant", nulls_distinct=False)
        ]

    def __str__(self) -> str:
        return f"{chain_name(self.tenant_id)} #{self.seq}"


def chain_name(tenant_id: int | None) -> str:
    return "installation" if tenant_id is None else f"tenant {tenant_id}"
