from django.contrib.postgres.fields import ArrayField
from django.db import models

from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from usage import amounts, windows


class TrackedPair(models.Model):
    """A pair that some limit of the environment names, and so every call of it is counted in, or those to its models.

    Derived: publishing policies replaces the rows, so that counting need not know policies.
    """

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="tracked_pairs")
    per = models.CharField(max_length=12, choices=[(per, per) for per in amounts.Per])
    window = models.CharField(max_length=6, choices=[(window, window) for window in windows.Window])
    # Patterns of the models; empty: of all.
    models = ArrayField(models.CharField(max_length=NAME_LENGTH_MAX), default=list, db_default=[])

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["environment", "per", "window", "models"], name="tracked_pair_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.per}:{self.window}"
