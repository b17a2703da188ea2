"""How webhooks are signed: Standard Webhooks, HMAC-SHA-256 of id, time and body.

A secret is not stored. It is made of a pepper of the settings (API_KEY_PEPPER) and the salt of the endpoint, so that a
stolen table signs nothing. A new salt is a new secret; the old one signs as well until it ends.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from django.conf import settings
from django.utils.crypto import salted_hmac

if TYPE_CHECKING:
    from policies.models import AlertEndpoint

PREFIX = "whsec_"
SALT_BYTES = 32
_PURPOSE = b"tokvigil alert endpoint 1 "


class PepperGone(Exception):
    """The pepper that the secret is made of was taken out of the settings."""

    def __init__(self) -> None:
        super().__init__(
            "The signing secret was made with an API_KEY_PEPPER that is gone: rotate the secret."
        )


def new_salt() -> tuple[bytes, str]:
    """And the id of the current pepper."""
    return secrets.token_bytes(SALT_BYTES), next(iter(settings.API_KEY_PEPPERS))


def secret(salt: bytes | memoryview, pepper_id: str) -> bytes:
    """Raises PepperGone."""
    pepper = settings.API_KEY_PEPPERS.get(pepper_id)
    if pepper is None:
        raise PepperGone
    return hmac.digest(pepper.encode(), _PURPOSE + bytes(salt), "sha256")


def text(of: AlertEndpoint) -> str:
    """As receivers take it: `whsec_...`. Raises PepperGone."""
    return PREFIX + base64.b64encode(secret(of.salt, of.pepper_id)).decode()


def secrets_of(endpoint: AlertEndpoint, now: datetime) -> list[bytes]:
    """Those that sign now, the newest first. Raises PepperGone."""
    found = [secret(endpoint.salt, endpoint.pepper_id)]
    if endpoint.previous_salt is not None and (endpoint.previous_ends_at or now) > now:
        with suppress(PepperGone):
            found.append(secret(endpoint.previous_salt, endpoint.previous_pepper_id))
    return found


def headers(keys: Sequence[bytes], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The time is that of the attempt, in whole seconds; receivers refuse one that is minutes old."""
    seconds = str(int(at.timestamp()))
    signed = b".".join((message_id.encode(), seconds.encode(), body))
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def mark(address: str) -> str:
    """Tells an address from another, and says nothing else of it."""
    return salted_hmac("policies.alerting.address", address).hexdigest()[:8]
