"""The API key: `tv_<dev|stg|prod|env>_<id>_<secret>`, and how its secret is kept.

The id finds the row, the secret proves the caller. 238 random bits need no slow hash: an HMAC with a pepper that is
not in the database keeps a stolen table useless. The end of the secret is kept as it is, so that people can tell two
secrets of a key apart; 214 bits are left to guess.
"""

import hmac
import secrets
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from django.conf import settings
from django.core.exceptions import ValidationError

ID_LENGTH = 12
SECRET_LENGTH = 40
SECRET_END_LENGTH = 4
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MARKS = {"dev": "dev", "staging": "stg", "prod": "prod"}
OTHER_MARK = "env"
PROVEN_MAX = 1024
_NO_HMAC = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    text: str
    key_id: str
    pepper_id: str
    secret_hmac: bytes

    @property
    def secret_end(self) -> str:
        return self.text[-SECRET_END_LENGTH:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    key_id: str
    secret: str


def mark(environment_slug: str) -> str:
    """How the keys of an environment begin, for people to tell them apart."""
    return f"tv_{MARKS.get(environment_slug, OTHER_MARK)}"


def mint(environment_slug: str, key_id: str | None = None) -> Minted:
    """A new key, or a new secret for the key with this id."""
    key_id, secret = key_id or _random(ID_LENGTH), _random(SECRET_LENGTH)
    pepper_id = next(iter(settings.API_KEY_PEPPERS))
    return Minted(
        text=f"{mark(environment_slug)}_{key_id}_{secret}",
        key_id=key_id,
        pepper_id=pepper_id,
        secret_hmac=digest(secret, pepper_id),
    )


def parse(text: str) -> Presented | None:
    """The parts of a key, or None if it does not have the shape of one. The mark is for people and not checked."""
    parts = text.split("_")
    if len(parts) != 4 or parts[0] != "tv" or len(parts[2]) != ID_LENGTH or len(parts[3]) != SECRET_LENGTH:
        return None
    if not text.isascii():
        return None
    return Presented(key_id=parts[2], secret=parts[3])


def digest(secret: str, pepper_id: str) -> bytes:
    """Raises KeyError if the pepper was taken out of the settings."""
    return hmac.digest(settings.API_KEY_PEPPERS[pepper_id].encode(), secret.encode(), "sha256")


@lru_cache(maxsize=PROVEN_MAX)
def proves(secret: str, pepper_id: str, secret_hmac: bytes) -> bool:
    """Whether this is the secret, compared in constant time. A key under a removed pepper is refused.

    Remembered for the latest keys: an application sends the same one with every call.
    """
    try:
        presented = digest(secret, pepper_id)
    except KeyError:
        return False
    return hmac.compare_digest(presented, secret_hmac)


def proves_nothing(secret: str) -> None:
    """Takes as long as `proves`, for a key that does not exist."""
    proves(secret, next(iter(settings.API_KEY_PEPPERS)), _NO_HMAC)


def parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValidationError({"allowed_networks": f"{text!r} is no address or network: {error}."}) from error


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
