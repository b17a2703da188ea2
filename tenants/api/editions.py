"""The revision of an environment as an entity tag, so that two who change it do not overwrite each other.

Answers of what can be changed carry `ETag`. A change that sends it back as `If-Match` is refused with 412 if anything
of the environment changed since.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from tenants.api.problems import Problem
from tenants.models import Environment


@contextmanager
def expected(request: HttpRequest, environment_id: int) -> Iterator[Environment]:
    """One transaction under the environment's lock. Raises Problem 412 if it is not as `If-Match` says."""
    with transaction.atomic():
        environment = Environment.lock(environment_id)
        wanted = request.headers.get("If-Match", "*").strip()
        if wanted != "*" and wanted != etag(environment):
            raise Problem(
                412,
                "PRECONDITION_FAILED",
                f"The environment has changed since: it is {etag(environment)}, and If-Match says {wanted[:80]}. "
                "Nothing was changed. Read again, and send the new ETag.",
            )
        yield environment


def etag(environment: Environment) -> str:
    return f'"{environment.edition}"'


def tagged(response: HttpResponse, environment_id: int) -> HttpResponse:
    """With the ETag of the environment as it is now."""
    response["ETag"] = etag(Environment.objects.get(pk=environment_id))
    return response
