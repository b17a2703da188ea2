"""Plans in the admin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.views import ChangeList

from policies import end_users
from policies.admin import plan_list
from policies.admin.plan_list import PlanList
from policies.changing import history, publishing
from policies.files import documents
from policies.files.file_errors import PolicyFileError
from policies.models import Plan, Policy, PolicyVersion
from tenants.console.access import actor_of
from tenants.console.forms import RowForm
from tenants.console.rows import EnvironmentRowsAdmin
from tenants.models import Environment
from tenants.roles import May


class PlanForm(RowForm):
    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if message := documents.plan_name_error(name):
            raise ValidationError(f"The name {message}.")
        return name


@admin.register(Plan)
class PlanAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_POLICIES
    form = PlanForm
    refusals = (*EnvironmentRowsAdmin.refusals, PolicyFileError)
    list_display = ["name", "policies", "users", "changed"]
    list_select_related = ["environment__tenant"]
    search_fields = ["name"]
    list_before_template = "console/policies/suggest.html"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return PlanList

    @admin.display(description="what its policies allow")
    def policies(self, plan: Plan) -> SafeString:
        return plan_list.policies(plan)

    @admin.display(description="users stored on it")
    def users(self, plan: Plan) -> SafeString:
        return plan_list.users(plan)

    @admin.display(description="last change")
    def changed(self, plan: Plan) -> SafeString:
        return plan_list.changed(plan)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Policies, end users and requests refer to a plan by its name.
        return False

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *arguments: Any, **named: Any
    ) -> HttpResponse:
        plan: Plan | None = context.get("original")
        if plan is not None:
            context |= {"named": _named(plan), "users": _users(plan)}
        return super().render_change_form(request, context, *arguments, **named)

    def governing(self, row: Plan) -> Sequence[Policy]:
        return history.of_plan(row)

    def lock(self, obj: Plan) -> None:
        Environment.lock(obj.environment_id)

    def response_post_save_add(self, request: HttpRequest, obj: Plan) -> HttpResponseRedirect:
        """Back to the draft that has a policy for it, if the page was opened from there."""
        draft_id = request.GET.get("draft", "")
        if draft_id.isdecimal() and obj.environment.drafts.filter(pk=draft_id[:18]).exists():
            return HttpResponseRedirect(reverse("admin:policy_draft", args=[draft_id]))
        return super().response_post_save_add(request, obj)

    def save_model(self, request: HttpRequest, obj: Plan, form: Any, change: bool) -> None:
        obj.pk = publishing.add_plan(obj.environment, obj.name, actor=actor_of(request)).pk

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        refused = {"plan" for plan in objs if not self.may_change(request, plan)}
        uses = [error.message for plan in objs for error in publishing.plan_uses(plan)]
        named = [f"{plan} of {plan.environment}" for plan in objs]
        return named, {"plans": len(named)}, refused, uses

    def delete_model(self, request: HttpRequest, obj: Plan) -> None:
        publishing.remove_plan(obj, actor=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Plan]) -> None:
        for plan in queryset.select_related("environment").order_by("environment_id", "pk"):
            self.delete_model(request, plan)


def _named(plan: Plan) -> list[tuple[Policy, PolicyVersion | None]]:
    """The policies in force that name the plan, each with its latest change."""
    rows = list(Policy.objects.in_force(plan.environment_id).filter(scope_plan=plan.name).order_by("name"))
    changes = history.latest(rows)
    return [(row, changes.get(row.pk)) for row in rows]


def _users(plan: Plan) -> str:
    """`4 users`; "" for none."""
    count = end_users.stored_on([plan.pk]).get(plan.pk, 0)
    return f"{end_users.says(count)} user{'' if count == 1 else 's'}" if count else ""
