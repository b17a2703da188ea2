"""What a new installation needs to be of use at once: tables, prices, somebody who may log in, and a first key."""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError, connection
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from audit.log import acting_as
from policies.blocked import decision_log
from tenants import keys
from tenants.accounts import Account
from tenants.models import ApiKey, Environment, Tenant
from tenants.scopes import PRESETS
from tokvigil_site import launch
from tokvigil_site.embedded import files
from tokvigil_site.supervision import Say
from usage.ledger import partitions
from usage.models import ModelPrice
from usage.prices.genai import load_shared_prices

ADMIN = "admin"
TENANT = "demo"
ENVIRONMENT = "demo/prod"
ACTOR = "cli:up"


def take(say: Say) -> tuple[str | None, str]:
    """Migrations, partitions, prices, the admin and the first key. Returns the admin's password and the key."""
    try:
        say("Preparing the database")
        call_command("migrate", verbosity=0, interactive=False)
        partitions.keep_up(datetime.now(UTC))
        decision_log.keep_up(datetime.now(UTC))
        get_redis_connection("counters").ping()
        with acting_as(ACTOR):
            if not ModelPrice.objects.shared().exists():
                load_shared_prices()
            return _admin_password(), _first_key()
    except (OperationalError, InterfaceError) as error:
        raise CommandError(
            f"The database does not answer; check DATABASE_URL and the server: {error}"
        ) from error
    except RedisError as error:
        raise CommandError(
            f"The counter store does not answer; check REDIS_URL and the server: {error}"
        ) from error
    finally:
        let_go_of_the_database()


def let_go_of_the_database() -> None:
    """This process only watches for most of its life."""
    connection.close()


def _admin_password() -> str | None:
    """Of the superuser, who is made once. None: it is not the one that was made here."""
    user = Account.objects.filter(username=ADMIN).first()
    file = _secret_file("admin_password")
    known = file.read_text().strip() if file.is_file() else None
    if user is not None:
        return known if known is not None and user.check_password(known) else None
    password = known or secrets.token_urlsafe(12)
    files.write_secret(file, password)
    Account.objects.create_superuser(ADMIN, password=password)
    return password


def _first_key() -> str:
    """The key of an earlier start if it is still good, else a new one."""
    file = _secret_file("api_key")
    known = file.read_text().strip() if file.is_file() else ""
    if not _is_good(known):
        _, known = ApiKey.issue(demo_environment(), "first steps", PRESETS["server"])
        files.write_secret(file, known)
    return known


def _is_good(text: str) -> bool:
    presented = keys.parse(text)
    if presented is None:
        return False
    row = ApiKey.objects.filter(key_id=presented.key_id, revoked_at=None).first()
    return row is not None and keys.proves(presented.secret, row.pepper_id, bytes(row.secret_hmac))


def demo_environment() -> Environment:
    with suppress(Environment.DoesNotExist):
        return Environment.named(ENVIRONMENT)
    Tenant.create_with_environments(TENANT, name="Demo")
    return Environment.named(ENVIRONMENT)


def _secret_file(name: str) -> Path:
    return Path(settings.TOKVIGIL_HOME) / launch.SECRETS_FOLDER / name
