"""End users in the admin: saved through end_users.py, the same way as by the API."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from policies import end_users
from policies.models import EndUser
from tenants.console.access import actor_of
from tenants.console.display import moment_of, user_link
from tenants.console.parts import State
from tenants.console.rows import BoundedPaginator, EnvironmentRowsAdmin
from tenants.roles import May
from tenants.templatetags.console import state


@admin.register(EndUser)
class EndUserAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_END_USERS
    list_display = ["user", "plan", "standing", "created"]
    created = moment_of("created_at", "created")
    list_display_links = None
    list_filter = ["blocked"]
    list_select_related = ["environment__tenant", "plan"]
    search_fields = ["user_id__startswith"]
    search_help_text = "How the user_id begins"
    list_before_template = "console/find_user.html"
    fields = ["environment", "user_id", "plan", "blocked", "blocked_reason"]
    ordering = ["user_id"]
    actions = ["block", "unblock"]
    paginator = BoundedPaginator
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: EndUser | None = None) -> list[str]:
        return [] if obj is None else ["environment", "user_id"]

    def save_model(self, request: HttpRequest, obj: EndUser, form: Any, change: bool) -> None:
        obj.pk = self._set(request, obj, blocked=obj.blocked, reason=obj.blocked_reason).pk

    @admin.display(description="user", ordering="user_id")
    def user(self, user: EndUser) -> SafeString:
        return user_link(user.environment, user.user_id)

    @admin.display(description="state", ordering="blocked")
    def standing(self, user: EndUser) -> SafeString:
        if not user.blocked:
            return state(State.ALLOWED, "May call")
        return state(State.BLOCKED, f"Blocked: {user.blocked_reason}" if user.blocked_reason else "Blocked")

    def delete_model(self, request: HttpRequest, obj: EndUser) -> None:
        end_users.remove_end_user(obj.environment, obj.user_id, actor=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[EndUser]) -> None:
        for user in queryset.select_related("environment").order_by("pk"):
            self.delete_model(request, user)

    @admin.action(description="Block", permissions=["change"])
    def block(self, request: HttpRequest, queryset: QuerySet[EndUser]) -> None:
        self._set_all(request, queryset, blocked=True)

    @admin.action(description="Unblock", permissions=["change"])
    def unblock(self, request: HttpRequest, queryset: QuerySet[EndUser]) -> None:
        self._set_all(request, queryset, blocked=False)

    def _set_all(self, request: HttpRequest, queryset: QuerySet[EndUser], *, blocked: bool) -> None:
        for row in self.changeable(request, queryset).order_by("pk"):
            with transaction.atomic():
                # Locked and then read, so that the plan it is saved with is the one it has.
                self.lock(row)
                for user in EndUser.objects.select_related("environment", "plan").filter(pk=row.pk):
                    self._set(request, user, blocked=blocked)

    def _set(
        self, request: HttpRequest, user: EndUser, *, blocked: bool, reason: str | None = None
    ) -> EndUser:
        plan_name = None if user.plan is None else user.plan.name
        return end_users.set_end_user(
            user.environment,
            user.user_id,
            plan_name=plan_name,
            blocked=blocked,
            blocked_reason=reason,
            actor=actor_of(request),
        )
