"""Members of tenants: invited, given another role, removed.

A tenant keeps an owner, and nobody raises themself. Whoever calls has checked that the person may (tenants/roles.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import Q
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from audit import wording
from audit.models import Entry
from tenants import accounts
from tenants.models import Membership, Role, Tenant
from tenants.roles import RIGHTS

INVITING = ("membership.added", "membership.invited_again")


class _InvitationTokens(PasswordResetTokenGenerator):
    """Good once, until settings.PASSWORD_RESET_TIMEOUT: choosing a password ends a link, and so does a newer one."""

    key_salt = "tenants.members.invitation"


tokens = _InvitationTokens()


@dataclass(frozen=True, slots=True)
class Link:
    """By which a new person chooses a password. Stored nowhere."""

    uid: str
    token: str

    @classmethod
    def of(cls, user: User) -> Link:
        return cls(urlsafe_base64_encode(force_bytes(user.pk)), tokens.make_token(user))


@dataclass(frozen=True, slots=True)
class Invitation:
    """To what somebody was invited. `by`: who did it; empty, if the audit log does not say."""

    membership: Membership
    by: str


def invitation_of(user: User) -> Invitation | None:
    """Of somebody who did not accept one yet, the latest."""
    membership = user.memberships.select_related("tenant").order_by("-pk").first()
    if membership is None:
        return None
    invited = Entry.objects.filter(
        target_type=Membership._meta.label_lower, target_id=str(membership.pk), action__in=INVITING
    )
    entry = invited.first()
    return Invitation(membership, "" if entry is None else wording.who(entry.actor))


def is_pending(user: User) -> bool:
    """Invited, and never here yet."""
    return user.last_login is None and not user.has_usable_password()


@transaction.atomic
def invite(tenant: Tenant, person: str, role: str) -> tuple[Membership, Link | None]:
    """Makes somebody a member, by e-mail address or username. A link only for who is new here.

    Raises ValidationError.
    """
    person = person.strip()
    known = list(
        User.objects.filter(Q(username__iexact=person) | Q(email__iexact=person))[:2] if person else []
    )
    if len(known) > 1:
        raise ValidationError("Several people have this address. Write the username of one.")
    user = known[0] if known else _new_user(person)
    if known:
        _require_invitable(tenant, user)
    membership = Membership(tenant=tenant, user=user, role=role)
    membership.clean_fields()
    membership.save()
    membership.log("membership.added")
    if known:
        return membership, None
    accounts.log_added(user)
    return membership, Link.of(user)


def _new_user(person: str) -> User:
    user = User(username=person, email=person if "@" in person else "", is_staff=True)
    user.set_unusable_password()
    if user.email:
        validate_email(user.email)
    user.full_clean()
    user.save()
    return user


def _require_invitable(tenant: Tenant, user: User) -> None:
    if Membership.objects.filter(tenant=tenant, user=user).exists():
        raise ValidationError("This person is a member already.")
    if not (user.is_active and user.is_staff):
        raise ValidationError("This person may not sign in to the console. Ask a superuser.")
    if is_pending(user):
        # Who has sent the link could open it, and would be let in here too.
        raise ValidationError("This person has not accepted another invitation yet. Invite them after that.")


@transaction.atomic
def renew(membership: Membership) -> Link:
    """A new link; the one of before ends. Raises ValidationError: there is no invitation to renew."""
    user = User.objects.select_for_update().get(pk=membership.user_id)
    if not is_pending(user) or user.memberships.count() > 1:
        raise ValidationError("This person signs in already.")
    user.set_unusable_password()
    user.save(update_fields=["password"])
    membership.log("membership.invited_again")
    return Link.of(user)


@transaction.atomic
def change_role(membership: Membership, role: str, *, by: User) -> None:
    """Raises ValidationError."""
    current = _locked(membership)
    if role == current.role:
        return
    if by.pk == current.user_id and not RIGHTS[Role(role)] <= RIGHTS[Role(current.role)]:
        raise ValidationError("Nobody gives themself more rights. Ask another owner.")
    if role != Role.OWNER:
        _require_another_owner(current)
    membership.role = role
    membership.save(update_fields=["role"])
    membership.log_changed_from(current.role)


@transaction.atomic
def remove(membership: Membership) -> None:
    """Also withdraws an invitation: who was never here has no account either after that. Raises ValidationError."""
    _require_another_owner(_locked(membership))
    user = membership.user
    membership.remove()
    if is_pending(user) and not user.is_superuser and not user.memberships.exists():
        accounts.delete_users(User.objects.filter(pk=user.pk))


def _locked(membership: Membership) -> Membership:
    """As it is now. Until the transaction ends nobody else changes who the members of the tenant are."""
    Tenant.objects.select_for_update(no_key=True).get(pk=membership.tenant_id)
    return Membership.objects.get(pk=membership.pk)


def _require_another_owner(leaving: Membership) -> None:
    if leaving.role != Role.OWNER:
        return
    others = Membership.objects.filter(tenant=leaving.tenant_id, role=Role.OWNER, user__is_active=True)
    if not others.exclude(pk=leaving.pk).exists():
        raise ValidationError("This is the last owner of the tenant. Make somebody else an owner first.")
