from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest

from audit import log as audit_log
from audit.admin import ChainFilter, EntryAdmin
from audit.models import Entry
from tenants import freezing, revisions
from tenants.admin_access import (
    EnvironmentFilter,
    InlineOfTenantRows,
    ReadOnlyAdmin,
    TenantRowsAdmin,
    actor_of,
    is_superuser,
)
from tenants.admin_accounts import AccountAdmin, GroupAdmin
from tenants.admin_forms import LinesField, RowForm
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import FROZEN_FEATURES_MAX, ApiKey, Environment, Membership, Tenant
from tenants.scopes import PRESETS, SCOPES


class EnvironmentInline(InlineOfTenantRows):
    model = Environment
    fields = ["slug", "default_action", "frozen", "frozen_features", "revision"]
    readonly_fields = ["slug", "default_action", "frozen", "frozen_features", "revision"]
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Tenant)
class TenantAdmin(TenantRowsAdmin):
    tenant_lookup = "id"
    list_display = ["slug", "name", "timezone", "created_at"]
    search_fields = ["slug", "name"]
    fields = ["slug", "name", "timezone"]

    def tenant_id_of(self, obj: Tenant) -> int:
        return obj.pk

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> list[str]:
        return [] if obj is None else ["slug"]

    def get_inlines(self, request: HttpRequest, obj: Tenant | None) -> list[Any]:
        # A new tenant gets dev, staging and prod.
        return [] if obj is None else [EnvironmentInline]

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        if not change:
            obj.pk = Tenant.create_with_environments(obj.slug, name=obj.name, timezone=obj.timezone).pk
        elif form.changed_data:
            obj.save(update_fields=["name", "timezone"])
            revisions.bump_all(obj.pk)
            audit_log.log("tenant.changed", obj, tenant_id=obj.pk, name=obj.name, timezone=obj.timezone)


class EnvironmentForm(RowForm):
    frozen_features = LinesField(
        forms.CharField(max_length=NAME_LENGTH_MAX, strip=False),
        max_length=FROZEN_FEATURES_MAX,
        required=False,
        help_text=Environment._meta.get_field("frozen_features").help_text,
    )


@admin.register(Environment)
class EnvironmentAdmin(TenantRowsAdmin):
    form = EnvironmentForm
    tenant_lookup = "tenant_id"
    list_display = ["__str__", "default_action", "frozen", "frozen_features", "revision"]
    list_filter = ["frozen"]
    list_select_related = ["tenant"]
    search_fields = ["tenant__slug", "slug"]
    actions = ["freeze", "unfreeze"]

    def tenant_id_of(self, obj: Environment) -> int:
        return obj.tenant_id

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        # Its name takes the tenant's.
        return super().get_queryset(request).select_related("tenant")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Environment | None = None) -> Any:
        if obj is None:
            return ["tenant", "slug", "default_action"]
        return ["tenant", "slug", "default_action", "frozen", "frozen_features", "standing"]

    def get_readonly_fields(self, request: HttpRequest, obj: Environment | None = None) -> list[str]:
        return [] if obj is None else ["tenant", "slug", "standing"]

    @admin.display(description="In force")
    def standing(self, obj: Environment) -> str:
        said = str(revisions.standing(obj))
        return said[0].upper() + said[1:]

    def save_model(self, request: HttpRequest, obj: Environment, form: Any, change: bool) -> None:
        """Writes what was changed in the form and nothing else: a colleague may have pulled the emergency brake."""
        if not change:
            obj.save()
            audit_log.log(
                "environment.created", obj, tenant_id=obj.tenant_id, default_action=obj.default_action
            )
            return
        if "default_action" in form.changed_data:
            obj.save(update_fields=["default_action"])
            revisions.bump(obj.pk, policies=False)
            audit_log.log(
                "environment.changed", obj, tenant_id=obj.tenant_id, default_action=obj.default_action
            )
        freezing.set_frozen(
            obj,
            frozen=obj.frozen if "frozen" in form.changed_data else None,
            features=obj.frozen_features if "frozen_features" in form.changed_data else None,
            actor=actor_of(request),
        )

    @admin.action(description="Freeze: block every call, at once", permissions=["change"])
    def freeze(self, request: HttpRequest, queryset: QuerySet[Environment]) -> None:
        for environment in self.changeable(request, queryset).order_by("pk"):
            freezing.freeze(environment, actor=actor_of(request))
            self.message_user(
                request, f"{environment} is frozen: {revisions.standing(environment)}.", messages.WARNING
            )

    @admin.action(description="Unfreeze: allow calls again", permissions=["change"])
    def unfreeze(self, request: HttpRequest, queryset: QuerySet[Environment]) -> None:
        for environment in self.changeable(request, queryset).order_by("pk"):
            freezing.unfreeze(environment, actor=actor_of(request))
            self.message_user(
                request, f"{environment} is not frozen any more: {revisions.standing(environment)}."
            )


class ApiKeyForm(RowForm):
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in SCOPES],
        widget=forms.CheckboxSelectMultiple,
        initial=PRESETS["server"],
        help_text="What the key may do; at first what a server needs that makes AI calls.",
    )

    class Meta:
        model = ApiKey
        fields = ["name", "environment", "scopes", "expires_at", "allowed_networks", "requests_per_minute"]


@admin.register(ApiKey)
class ApiKeyAdmin(TenantRowsAdmin):
    form = ApiKeyForm
    list_display = ["name", "key_id", "environment", "scopes", "last_used_at", "expires_at", "revoked_at"]
    list_filter = [EnvironmentFilter, ("revoked_at", admin.EmptyFieldListFilter)]
    list_select_related = ["environment__tenant"]
    search_fields = ["name", "key_id"]
    actions = ["revoke"]
    can_change = ("name", "expires_at", "allowed_networks", "requests_per_minute")
    state = ("key_id", "created_at", "last_used_at", "revoked_at")

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        name, *others = self.can_change
        shown = [name, "environment", "scopes", *others]
        return shown if obj is None else [*shown, *self.state]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        # A key must not gain scopes after it was handed out; issue another one.
        return [] if obj is None else ["environment", "scopes", *self.state]

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        revoked = obj is not None and obj.revoked_at is not None
        return not revoked and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            self._change(obj, form.changed_data)
            return
        limits = {name: form.cleaned_data[name] for name in self.can_change if name != "name"}
        key, text = ApiKey.issue(obj.environment, obj.name, tuple(form.cleaned_data["scopes"]), **limits)
        obj.pk, obj.key_id = key.pk, key.key_id
        self.message_user(request, f"Copy the key now, it is not shown again: {text}", messages.WARNING)

    def _change(self, obj: ApiKey, changed: list[str]) -> None:
        if not changed:
            return
        obj.save(update_fields=changed)
        revisions.bump(obj.environment_id, policies=False)
        tenant_id = obj.environment.tenant_id
        audit_log.log(
            "api_key.changed", obj, tenant_id=tenant_id, **{name: getattr(obj, name) for name in changed}
        )

    @admin.action(description="Revoke: refuse from the next call on, for good", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in self.changeable(request, queryset).order_by("environment_id", "pk"):
            key.revoke()
            standing = revisions.standing(key.environment)
            self.message_user(request, f"{key} is revoked: {standing}.", messages.WARNING)


@admin.register(Membership)
class MembershipAdmin(TenantRowsAdmin):
    """Members see the other members; only superusers change memberships."""

    tenant_lookup = "tenant_id"
    list_display = ["user", "tenant", "role"]
    list_filter = ["role"]
    list_select_related = ["user", "tenant"]
    search_fields = ["user__username", "tenant__slug"]

    def tenant_id_of(self, obj: Membership) -> int:
        return obj.tenant_id

    def may_change(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def get_readonly_fields(self, request: HttpRequest, obj: Membership | None = None) -> list[str]:
        return [] if obj is None else ["user", "tenant"]

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if form.changed_data:
            obj.log("membership.changed" if change else "membership.added")

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        obj.remove()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Membership]) -> None:
        with transaction.atomic():
            for membership in queryset.select_related("user", "tenant").order_by("tenant_id", "pk"):
                membership.remove()


admin.site.unregister([User, Group])
admin.site.register(User, AccountAdmin)
admin.site.register(Group, GroupAdmin)


class TenantChainFilter(ChainFilter):
    """Lists tenants by slug, and deleted ones by id."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        chains = super().lookups(request, model_admin)
        ids = [chain for chain, _ in chains if chain != self.installation]
        slugs = {str(pk): slug for pk, slug in Tenant.objects.filter(pk__in=ids).values_list("pk", "slug")}
        return [(chain, slugs.get(chain, name)) for chain, name in chains]


admin.site.unregister(Entry)


@admin.register(Entry)
class TenantEntryAdmin(ReadOnlyAdmin, EntryAdmin):
    """The audit log. Members see only the chains of their tenants."""

    tenant_lookup = "tenant_id"

    def tenant_id_of(self, obj: Any) -> int | None:
        tenant_id: int | None = obj.tenant_id
        return tenant_id

    def get_queryset(self, request: HttpRequest) -> QuerySet[Entry]:
        slug = Tenant.objects.filter(pk=OuterRef("tenant_id")).values("slug")
        entries: QuerySet[Entry] = super().get_queryset(request)
        return entries.annotate(tenant_slug=Subquery(slug))

    @admin.display(description="tenant", ordering="tenant_id")
    def chain_name(self, entry: Any) -> str:
        return entry.tenant_slug or super().chain_name(entry)

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        """The filter by chain names all tenants."""
        filters = super().get_list_filter(request)
        filters = [TenantChainFilter if each is ChainFilter else each for each in filters]
        return [each for each in filters if each is not TenantChainFilter or is_superuser(request)]
