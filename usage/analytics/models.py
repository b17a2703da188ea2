from __future__ import annotations

from django.db import models
from django.utils import timezone

from audit.models import ACTOR_LENGTH_MAX
from tenants.lengths import TITLE_LENGTH_MAX
from tenants.models import Tenant

QUERY_LENGTH_MAX = 2_000


class SavedView(models.Model):
    """A question of the Explorer under a name, for any environment of the tenant. Changed by `saved_views.py`.

    Its period is named, so that it moves on with time, unless the question is about days of its own.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="saved_views")
    name = models.CharField(max_length=TITLE_LENGTH_MAX)
    # Of the address.
    query = models.CharField(max_length=QUERY_LENGTH_MAX, blank=True)
    author = models.CharField(max_length=ACTOR_LENGTH_MAX)
    # False: its author alone sees it.
    shared = models.BooleanField(default=False)
    saved_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["tenant", "name"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "author", "name"], name="saved_view_unique_name")
        ]

    def __str__(self) -> str:
        return self.name
