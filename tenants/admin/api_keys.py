"""API keys: issued here, whose text is shown once, and revoked."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from audit import log as audit_log
from tenants import revisions
from tenants.console.forms import RowForm
from tenants.console.rows import EnvironmentRowsAdmin
from tenants.models import ApiKey
from tenants.roles import May
from tenants.scopes import PRESETS, SCOPES


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
class ApiKeyAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_KEYS
    form = ApiKeyForm
    list_display = ["name", "key_id", "scopes", "last_used_at", "expires_at", "revoked_at"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter)]
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
            self._change(obj, form.changed_data, form.initial)
            return
        limits = {name: form.cleaned_data[name] for name in self.can_change if name != "name"}
        key, text = ApiKey.issue(obj.environment, obj.name, tuple(form.cleaned_data["scopes"]), **limits)
        obj.pk, obj.key_id = key.pk, key.key_id
        self.message_user(request, f"Copy the key now, it is not shown again: {text}", messages.WARNING)

    def _change(self, obj: ApiKey, changed: list[str], before: dict[str, Any]) -> None:
        if not changed:
            return
        obj.save(update_fields=changed)
        revisions.bump(obj.environment_id, policies=False)
        audit_log.log(
            "api_key.changed",
            obj,
            tenant_id=obj.environment.tenant_id,
            environment=obj.environment.slug,
            changes=audit_log.changes(before, {name: getattr(obj, name) for name in changed}),
        )

    @admin.action(description="Revoke: refuse from the next call on, for good", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in self.changeable(request, queryset).order_by("environment_id", "pk"):
            key.revoke()
            standing = revisions.standing(key.environment)
            self.message_user(request, f"{key} is revoked: {standing}.", messages.WARNING)
