"""What every view of the HTTP API has in common, evaluate excepted, which counts its calls in the reserve script."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.views import APIView

from tenants.api import problems
from tenants.api.authentication import Credential, credential_of
from usage.counting import rate_limit, rules
from usage.counting.rules import CountingRules
from usage.counting.store import StoreUnavailable


class KeyView(APIView):
    """A view for callers with an API key. `scope` is what the key must have; None: any key will do."""

    scope: str | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        count_call(self.credential)

    @property
    def credential(self) -> Credential:
        return credential_of(self.request)

    @property
    def environment_id(self) -> int:
        return self.credential.environment_id

    @property
    def actor(self) -> str:
        """For the audit log."""
        return f"key:{self.credential.key_id}"

    @property
    def counting(self) -> CountingRules:
        return rules.at_edition(self.environment_id, self.credential.edition)


def count_call(credential: Credential) -> None:
    """Raises Problem 429 when the key calls more often than it may. Without the store no key is held back."""
    if credential.requests_per_minute is None:
        return
    try:
        wait_ms = rate_limit.count_call(
            credential.environment_id, credential.id, credential.requests_per_minute
        )
    except StoreUnavailable:
        return
    if wait_ms > 0:
        raise problems.rate_limited(-(-wait_ms // 1000))
