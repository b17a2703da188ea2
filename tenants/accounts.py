"""Who may sign in to the admin: Django's users and groups, and the audit entries that their changes leave.

They belong to no tenant, so their entries are in the chain of the installation. Changes go through here, the admin
(admin/accounts.py) and the commands createsuperuser and changepassword; each leaves exactly one entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from django.contrib.auth.models import Group, User, UserManager
from django.db import models, transaction
from django.db.models import QuerySet

from audit import log as audit_log
from tenants.models import Membership

# Names kept in one entry, because its data is bounded.
NAMES_MAX = 200
RIGHTS = ("is_active", "is_staff", "is_superuser")


class AccountManager(UserManager["Account"]):
    use_in_migrations = False

    @transaction.atomic
    def _create_user(self, username: str, email: str | None, password: str | None, **fields: Any) -> Account:
        user: Account = super()._create_user(username, email, password, **fields)  # type: ignore[misc]
        log_added(user)
        return user


class Account(User):
    """Django's user, for commands: creating one leaves an audit entry."""

    objects: ClassVar[AccountManager] = AccountManager()

    class Meta:
        proxy = True


def log_added(user: User) -> None:
    audit_log.log("user.added", user, tenant_id=None, **{name: getattr(user, name) for name in RIGHTS})


def log_password_changed(user: User) -> None:
    audit_log.log("user.password_changed", user, tenant_id=None, usable=user.has_usable_password())


def log_changed(action: str, row: models.Model, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """One entry that names each value of `after` and the one `before`; none if there is no value."""
    changes = audit_log.changes(
        {name: _plain(before.get(name)) for name in after}, {name: _plain(after[name]) for name in after}
    )
    if changes:
        audit_log.log(action, row, tenant_id=None, changes=changes)


@transaction.atomic
def delete_users(users: QuerySet[User]) -> None:
    """With their memberships. One entry for each of both, the tenants' first: all who write them keep this order."""
    # Locked, so that nobody becomes a member meanwhile.
    doomed = list(users.order_by("pk").select_for_update())
    memberships = Membership.objects.filter(user__in=doomed).select_related("user", "tenant")
    for membership in memberships.order_by("tenant_id", "pk"):
        membership.remove()
    for user in doomed:
        audit_log.log("user.deleted", user, tenant_id=None, **{name: getattr(user, name) for name in RIGHTS})
        user.delete()


@transaction.atomic
def delete_groups(groups: QuerySet[Group]) -> None:
    for group in groups.order_by("pk").select_for_update():
        members = group.user_set.order_by("username").values_list("username", flat=True)
        audit_log.log("group.deleted", group, tenant_id=None, members=list(members[:NAMES_MAX]))
        group.delete()


def _plain(value: Any) -> Any:
    """As the audit log takes it: rows by their names."""
    if isinstance(value, QuerySet | list | tuple):
        return sorted(str(row) for row in _first(value))
    return value


def _first(rows: Iterable[Any]) -> list[Any]:
    return list(rows)[:NAMES_MAX]
