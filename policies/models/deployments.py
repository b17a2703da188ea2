"""What an environment calls the models that it has deployed."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Lower

from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment


class Deployment(models.Model):
    """A name that calls are made under, and the model behind it: `team-chat` is a gpt-4o.

    Written by `changing/publishing.py` alone. What is priced reads it with the prices (`usage/prices/stored_book.py`).
    """

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="deployments")
    name = models.CharField(
        max_length=NAME_LENGTH_MAX,
        help_text="As calls name it: a deployment of Azure, the ARN of an application's inference profile, a router.",
    )
    model = models.CharField(
        max_length=NAME_LENGTH_MAX, help_text="The model that it is priced and governed as: gpt-4o."
    )

    class Meta:
        ordering = ["environment", "name"]
        constraints = [
            # Names of models are compared without case.
            models.UniqueConstraint("environment", Lower("name"), name="deployment_unique_name"),
        ]

    def __str__(self) -> str:
        return self.name
