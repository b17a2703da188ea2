"""Tenants, their environments, the environments' API keys, and the staff who may see them."""

from __future__ import annotations

import secrets
import zoneinfo
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.utils.crypto import salted_hmac
from django.utils.timezone import now

from audit import log as audit_log
from tenants import keys, revisions
from tenants.lengths import NAME_LENGTH_MAX, SLUG_LENGTH_MAX, TITLE_LENGTH_MAX
from tenants.scopes import SCOPES

# Names of the time zone database, networks of an allow-list, ids of peppers.
TIMEZONE_LENGTH_MAX = 64
NETWORK_LENGTH_MAX = 50
PEPPER_ID_LENGTH_MAX = 16
TOKEN_LENGTH = 16
# An audit entry must be able to hold them.
FROZEN_FEATURES_MAX = 200
DEFAULT_ENVIRONMENTS = ("dev", "staging", "prod")


def validate_timezone(name: str) -> None:
    if name not in zoneinfo.available_timezones():
        raise ValidationError(f"{name!r} is not a time zone of the IANA database, such as Europe/Berlin.")


class Tenant(models.Model):
    """A customer organisation. Its time zone decides when days, weeks and months begin."""

    slug = models.SlugField(max_length=SLUG_LENGTH_MAX, unique=True)
    name = models.CharField(max_length=TITLE_LENGTH_MAX)
    timezone = models.CharField(max_length=TIMEZONE_LENGTH_MAX, default="UTC", validators=[validate_timezone])
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug

    @classmethod
    @transaction.atomic
    def create_with_environments(cls, slug: str, *, name: str = "", timezone: str = "UTC") -> Tenant:
        """A tenant with dev, staging and prod. Raises ValidationError: a bad or used slug, a bad zone."""
        tenant = cls(slug=slug, name=name or slug, timezone=timezone)
        tenant.full_clean()
        tenant.save()
        for environment in DEFAULT_ENVIRONMENTS:
            Environment.objects.create(tenant=tenant, slug=environment)
        audit_log.log(
            "tenant.created",
            tenant,
            tenant_id=tenant.pk,
            timezone=timezone,
            environments=DEFAULT_ENVIRONMENTS,
        )
        return tenant


def new_token() -> str:
    return secrets.token_hex(TOKEN_LENGTH // 2)


# Written by revisions.bump, never by saving an environment.
_WRITTEN_BY_BUMP = ("revision", "revision_token", "policies_token", "revised_at")


class DefaultAction(models.TextChoices):
    ALLOW = "allow"
    BLOCK = "block"


class Environment(models.Model):
    """dev, staging, prod or another of a tenant. Everything else lives inside one and never sees another."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="environments")
    slug = models.SlugField(max_length=SLUG_LENGTH_MAX)
    # Grows with every change of what a decision depends on: keys, plans, policies, prices, freeze state.
    revision = models.PositiveBigIntegerField(default=1, editable=False)
    # Random, new with each revision: a number that PostgreSQL lost and gave again names another revision.
    revision_token = models.CharField(max_length=TOKEN_LENGTH, default=new_token, editable=False)
    # New with each change of policies or plans: what was compiled of them holds until then.
    policies_token = models.CharField(max_length=TOKEN_LENGTH, default=new_token, editable=False)
    revised_at = models.DateTimeField(default=now, editable=False)
    default_action = models.CharField(
        max_length=5,
        choices=DefaultAction.choices,
        default=DefaultAction.ALLOW,
        help_text="What happens to a call that no override policy matches.",
    )
    frozen = models.BooleanField(default=False, help_text="Block every AI call of this environment, at once.")
    frozen_features = ArrayField(
        models.CharField(max_length=NAME_LENGTH_MAX),
        size=FROZEN_FEATURES_MAX,
        default=list,
        blank=True,
        help_text="Block every call of these features, at once. One name a line.",
    )
    # Why each was frozen, by feature and "" for the environment: read it by freezing.in_force.
    frozen_because = models.JSONField(
        default=dict, db_default=models.Value({}, models.JSONField()), editable=False
    )
    created_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["tenant__slug", "slug"]
        constraints = [models.UniqueConstraint(fields=["tenant", "slug"], name="environment_unique_slug")]

    def __str__(self) -> str:
        """`tenant/environment`, as the commands take it; reads self.tenant, which may cause a query."""
        return f"{self.tenant.slug}/{self.slug}"

    def save(self, **kwargs: Any) -> None:
        """Leaves alone what others count up meanwhile: an instance read a while ago must not set a revision back."""
        if not self._state.adding:
            kwargs.setdefault(
                "update_fields", [name for name in self._columns() if name not in _WRITTEN_BY_BUMP]
            )
        super().save(**kwargs)

    @property
    def edition(self) -> str:
        """The revision as it is compared: equal only if it is the very same one."""
        return revisions.edition(self.revision, self.revision_token)

    @classmethod
    def _columns(cls) -> list[str]:
        return [field.name for field in cls._meta.concrete_fields if not field.primary_key]

    @classmethod
    def named(cls, path: str) -> Environment:
        """The environment that `acme/prod` names. Raises Environment.DoesNotExist."""
        tenant, _, slug = path.partition("/")
        return cls.objects.select_related("tenant").get(tenant__slug=tenant, slug=slug)

    @classmethod
    def lock(cls, environment_id: int) -> Environment:
        """The environment as it is now; until the transaction ends no other call of this gets past here.

        Rows that refer to it can still be written meanwhile: their foreign keys do not wait for this lock.
        """
        return cls.objects.select_for_update(no_key=True).get(pk=environment_id)


class Missed(models.Model):
    """What the counter store was not told of an environment; tenants/missed.py writes and clears it."""

    class What(models.TextChoices):
        # Nothing it holds of the environment is used before it was read anew from PostgreSQL.
        CHANGE = "change"
        # Holds may be open whose calls are reported.
        HOLDS = "holds"

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="missed")
    what = models.CharField(max_length=6, choices=What.choices)
    # Grows with each miss, so that one that happens while another is made good is not cleared with it.
    times = models.PositiveBigIntegerField(default=1)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["environment", "what"], name="missed_unique")]

    def __str__(self) -> str:
        return f"{self.what} of {self.environment_id}"


def scope_choices() -> list[tuple[str, str]]:
    """Asked for when needed, so that a new scope changes no column."""
    return [(scope, scope) for scope in SCOPES]


class ApiKey(models.Model):
    """A key of one environment. Of its secret an HMAC and the end are stored; the key itself is shown once."""

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(max_length=TITLE_LENGTH_MAX)
    key_id = models.CharField(max_length=keys.ID_LENGTH, unique=True, editable=False)
    secret_hmac = models.BinaryField(max_length=32, editable=False)
    pepper_id = models.CharField(max_length=PEPPER_ID_LENGTH_MAX, editable=False)
    # "": it was made before this was kept.
    secret_end = models.CharField(
        max_length=keys.SECRET_END_LENGTH, blank=True, default="", db_default="", editable=False
    )
    # The secret before the last rotation, which is accepted until it ends.
    previous_hmac = models.BinaryField(max_length=32, null=True, editable=False)
    previous_pepper_id = models.CharField(max_length=PEPPER_ID_LENGTH_MAX, blank=True, editable=False)
    previous_end = models.CharField(
        max_length=keys.SECRET_END_LENGTH, blank=True, default="", db_default="", editable=False
    )
    previous_ends_at = models.DateTimeField(null=True, editable=False)
    # Since the rotation; null: it was not.
    previous_used_at = models.DateTimeField(null=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=32, choices=scope_choices))
    expires_at = models.DateTimeField(null=True, blank=True)
    allowed_networks = ArrayField(
        models.CharField(max_length=NETWORK_LENGTH_MAX),
        default=list,
        blank=True,
        help_text="Addresses or networks (10.0.0.0/8) the key may be used from; empty = anywhere.",
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="How often the key may call the API; empty = as often as it likes.",
    )
    created_at = models.DateTimeField(default=now, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        verbose_name = "API key"
        ordering = ["environment", "name", "key_id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(requests_per_minute__gte=1), name="api_key_rate_not_zero"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id})"

    @property
    def mark(self) -> str:
        """How its text begins; reads self.environment, which may cause a query."""
        return keys.mark(self.environment.slug)

    @property
    def ends_at(self) -> datetime | None:
        """None: never."""
        return self.revoked_at or self.expires_at

    @property
    def is_over(self) -> bool:
        """Revoked or expired: no call is let in with it."""
        return self.ends_at is not None and self.ends_at <= now()

    def clean(self) -> None:
        for network in self.allowed_networks:
            keys.parse_network(network)

    @classmethod
    @transaction.atomic
    def issue(
        cls, environment: Environment, name: str, scopes: tuple[str, ...], **fields: Any
    ) -> tuple[ApiKey, str]:
        """A new key and its full text, which is stored nowhere. Raises ValidationError."""
        minted = keys.mint(environment.slug)
        key = cls(
            environment=environment,
            name=name,
            scopes=list(scopes),
            key_id=minted.key_id,
            pepper_id=minted.pepper_id,
            secret_hmac=minted.secret_hmac,
            secret_end=minted.secret_end,
            **fields,
        )
        key.full_clean()
        key.save()
        revisions.bump(environment.pk, policies=False)
        audit_log.log(
            "api_key.issued",
            key,
            tenant_id=environment.tenant_id,
            environment=environment.slug,
            scopes=key.scopes,
            expires_at=key.expires_at,
        )
        return key, minted.text

    @property
    def secret_mark(self) -> str:
        """Tells its secret from a later one, and says nothing else of it."""
        return _mark_of(self.secret_hmac)

    @property
    def old_secret_mark(self) -> str:
        """The same of the secret before the last rotation; "": there is none."""
        return "" if self.previous_hmac is None else _mark_of(self.previous_hmac)

    @property
    def old_secret_works(self) -> bool:
        ends_at = self.previous_ends_at
        return not self.is_over and self.previous_hmac is not None and ends_at is not None and ends_at > now()

    @transaction.atomic
    def rotate(self, *, old_ends_at: datetime | None = None, seen: str = "") -> str:
        """A new secret for the same key: its full text, which is stored nowhere.

        The old secret is accepted until `old_ends_at`; without one it ends now. An even older one ends now too.
        Raises ValidationError: a revoked key, or another secret than the one whose mark was `seen`.
        """
        # In this order everywhere: the environment, then the key.
        Environment.lock(self.environment_id)
        current = ApiKey.objects.select_for_update(no_key=True, of=("self",)).get(pk=self.pk)
        if current.revoked_at is not None:
            raise ValidationError("A revoked key stays revoked. Issue another one.")
        if seen and seen != current.secret_mark:
            raise ValidationError(
                "The key was rotated since the page was opened. Look who has its new secret."
            )
        environment = self.environment
        minted = keys.mint(environment.slug, self.key_id)
        self.previous_hmac, self.previous_pepper_id, self.previous_ends_at = (
            (None, "", None) if old_ends_at is None else (current.secret_hmac, current.pepper_id, old_ends_at)
        )
        self.previous_end = "" if old_ends_at is None else current.secret_end
        self.previous_used_at = None
        self.secret_hmac, self.pepper_id = minted.secret_hmac, minted.pepper_id
        self.secret_end = minted.secret_end
        self.save(
            update_fields=[
                "secret_hmac",
                "pepper_id",
                "secret_end",
                "previous_hmac",
                "previous_pepper_id",
                "previous_end",
                "previous_used_at",
                "previous_ends_at",
            ]
        )
        self._announce("api_key.rotated", old_ends_at=old_ends_at)
        return minted.text

    @transaction.atomic
    def end_old_secret(self, *, seen: str = "") -> bool:
        """Refuses the secret before the last rotation from the next call on. Whether it was still accepted.

        Raises ValidationError: the old secret is another one than that whose mark was `seen`.
        """
        Environment.lock(self.environment_id)
        self.refresh_from_db(
            fields=["revoked_at", "expires_at", "previous_hmac", "previous_pepper_id", "previous_ends_at"]
        )
        if seen and self.previous_hmac is not None and seen != self.old_secret_mark:
            raise ValidationError(
                "The key was rotated since the page was opened: its old secret is another one."
            )
        if not self.old_secret_works:
            return False
        would_end_at = self.previous_ends_at
        self.previous_hmac, self.previous_pepper_id, self.previous_ends_at = None, "", now()
        self.save(update_fields=["previous_hmac", "previous_pepper_id", "previous_ends_at"])
        self._announce("api_key.old_secret_ended", would_end_at=would_end_at)
        return True

    @transaction.atomic
    def revoke(self) -> None:
        """Refuses the key from its next call on. Cannot be undone."""
        Environment.lock(self.environment_id)
        # As it is by now: somebody else may have revoked it.
        self.refresh_from_db(fields=["revoked_at"])
        if self.revoked_at is None:
            self.revoked_at = now()
            self.save(update_fields=["revoked_at"])
            self._announce("api_key.revoked")

    def _announce(self, action: str, **data: object) -> None:
        """What was changed binds from the next call on, and stands in the audit log."""
        revisions.bump(self.environment_id, policies=False)
        environment = self.environment
        audit_log.log(action, self, tenant_id=environment.tenant_id, environment=environment.slug, **data)


def _mark_of(secret_hmac: bytes | memoryview) -> str:
    return salted_hmac("tenants.ApiKey.secret_mark", bytes(secret_hmac)).hexdigest()[:TOKEN_LENGTH]


class Role(models.TextChoices):
    """What each may do: tenants/roles.py."""

    OWNER = "owner"
    ADMIN = "admin"
    EDITOR = "editor"
    VIEWER = "viewer"
    AUDITOR = "auditor"


class Membership(models.Model):
    """What a member of the staff may do with a tenant in the admin."""

    # Protected, so that none goes without an audit entry: accounts.delete_users removes them first.
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="memberships")
    role = models.CharField(max_length=7, choices=Role.choices, default=Role.VIEWER)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "user"], name="membership_unique")]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.tenant}"

    @transaction.atomic
    def remove(self) -> None:
        self.log("membership.removed")
        self.delete()

    def log(self, action: str, **data: object) -> None:
        member = str(self.user.get_username())
        audit_log.log(action, self, tenant_id=self.tenant_id, member=member, role=str(self.role), **data)

    def log_changed_from(self, role: str) -> None:
        self.log(
            "membership.changed", changes=audit_log.changes({"role": str(role)}, {"role": str(self.role)})
        )
