"""Which requests are for pages. Only these check the Host against ALLOWED_HOSTS."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase
from django.middleware.common import CommonMiddleware

API = "/v1"
PROBES = frozenset({"/healthz", "/readyz"})


def is_api(path: str) -> bool:
    return path == API or path.startswith(f"{API}/")


class PagesCommonMiddleware(CommonMiddleware):
    """Django's, which refuses a Host that is not in ALLOWED_HOSTS, for pages alone.

    The pages rest on cookies and links, which belong to a name. A call of the API proves itself by its key, and nothing
    that it is answered is made of the Host; a probe comes from an orchestrator that knows an address only.
    """

    def process_request(self, request: HttpRequest) -> HttpResponseBase | None:  # type: ignore[override]
        if request.path in PROBES or is_api(request.path):
            return None
        return super().process_request(request)
