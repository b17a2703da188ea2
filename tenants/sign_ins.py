"""Who signed in to the console, who signed out, and who tried: entries in the chain of the installation.

A person signs in to the installation, not to a tenant. A tenant's owners see those of its members, also of members who
belong to other tenants too. Failed ones are bounded, so that nobody can fill the log; what is tried under the name of a
known user is counted apart, so that tries under made-up names cannot hide it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.contrib.auth.models import User
from django.db.models import CharField, Q
from django.db.models.functions import Cast
from django.utils import timezone

from audit import log as audit_log
from audit.log import NOBODY, Target, acting_as
from audit.models import Entry
from tenants.models import Membership

# Of a name that is no user's: it may be a password that was typed into the wrong field.
UNKNOWN_NAME_LENGTH_MAX = 40
SPAN = timedelta(hours=1)
FAILURES_OF_A_USER_MAX = 20
FAILURES_OF_UNKNOWN_NAMES_MAX = 100

_USER = "auth.user"
_FAILED = "sign_in.failed"


def log_sign_in(user: User) -> None:
    with acting_as(f"admin:{user.get_username()}"):
        audit_log.log("sign_in.succeeded", user, tenant_id=None)


def log_sign_out(user: User) -> None:
    audit_log.log("sign_in.ended", user, tenant_id=None)


def log_failure(tried: str) -> None:
    """Of the last that fits into the hour the entry says so; further ones leave none."""
    name = tried.replace("\0", "\N{REPLACEMENT CHARACTER}")
    user = User.objects.filter(username=name).first()
    target = (
        Target(_USER, name[:UNKNOWN_NAME_LENGTH_MAX]) if user is None else Target(_USER, name, str(user.pk))
    )
    most = FAILURES_OF_UNKNOWN_NAMES_MAX if user is None else FAILURES_OF_A_USER_MAX
    lately = Entry.objects.filter(
        target_type=_USER, target_id=target.id, action=_FAILED, at__gt=timezone.now() - SPAN
    )
    so_far = lately[:most].count()
    if so_far < most:
        data = {"more_in_this_hour": "not recorded"} if so_far == most - 1 else {}
        with acting_as(NOBODY):
            audit_log.log(_FAILED, target, tenant_id=None, **data)


def of_members(tenant_ids: Iterable[int]) -> Q:
    """The sign-ins of their members, also the failed ones."""
    members = Membership.objects.filter(tenant__in=list(tenant_ids))
    ids = members.values_list(Cast("user_id", CharField()))
    return Q(tenant_id=None, action__startswith="sign_in.", target_type=_USER, target_id__in=ids)
