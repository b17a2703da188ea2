"""Policies in the admin: saved through publishing.py, the same way as from files and the API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from unfold.views import ChangeList

from policies import policy_rows, rules
from policies.admin import policy_list, policy_page, policy_preview
from policies.admin.policy_forms import LimitForm, LimitFormSet, PolicyForm
from policies.admin.policy_list import InForce, PolicyList
from policies.changing import publishing
from policies.changing.known_names import known_names
from policies.describing import wording
from policies.files import documents
from policies.files.file_errors import PolicyFileError
from policies.models import Limit, Policy
from tenants.console import environments
from tenants.console.access import actor_of
from tenants.console.rows import EnvironmentRowsAdmin, InlineOfTenantRows
from tenants.models import Environment
from tenants.roles import May


class LimitInline(InlineOfTenantRows):
    model = Limit
    form = LimitForm
    formset = LimitFormSet
    hide_title = True
    max_num = rules.LIMITS_MAX


@admin.register(Policy)
class PolicyAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_POLICIES
    form = PolicyForm
    refusals = (*EnvironmentRowsAdmin.refusals, PolicyFileError)
    inlines = [LimitInline]
    list_display = ["described", "scope", "state_in_words", "fullest", "changed"]
    list_display_links = None
    list_filter = ["kind", "mode", InForce]
    list_select_related = ["environment__tenant"]
    search_fields = ["name", "scope_user", "scope_feature", "scope_plan"]
    fieldsets = [
        (None, {"fields": ["environment", "name", "kind", "mode", "priority"]}),
        (
            "Scope",
            {
                "fields": ["scope_user", "scope_feature", "scope_plan"],
                "description": "All that is named must match; nothing named makes the default policy.",
            },
        ),
        ("Models", {"fields": ["models_allow", "models_deny"]}),
        (
            "One call at most",
            {"fields": ["per_request_cost_usd", "per_request_input_tokens", "per_request_output_tokens"]},
        ),
        ("When in doubt", {"fields": ["on_unavailable", "on_unsettled", "unknown_price"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Policy]:
        return super().get_queryset(request).prefetch_related("limits")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return PolicyList

    @admin.display(description="policy", ordering="name")
    def described(self, policy: Policy) -> SafeString:
        return policy_list.described(policy)

    @admin.display(description="for")
    def scope(self, policy: Policy) -> str:
        rule = policy_rows.rule_of(policy)
        return wording.scope(rule.scope, rule.kind)

    @admin.display(description="state", ordering="mode")
    def state_in_words(self, policy: Policy) -> SafeString:
        return policy_list.state(policy)

    @admin.display(description="fullest limit")
    def fullest(self, policy: Policy) -> SafeString:
        return policy_list.fullest(policy)

    @admin.display(description="last change", ordering="version")
    def changed(self, policy: Policy) -> SafeString:
        return policy_list.changed(policy)

    def get_urls(self) -> list[URLPattern]:
        pages = [("edit", self.edit_view), ("mode", self.mode_view)]
        own = [
            path(
                f"<uuid:object_id>/{name}/", self.admin_site.admin_view(view), name=f"policies_policy_{name}"
            )
            for name, view in pages
        ]
        preview = self.admin_site.admin_view(self.preview_view)
        return [
            *own,
            path("<uuid:object_id>/preview/", preview, name="policies_policy_preview"),
            path("add/preview/", preview, name="policies_policy_preview_new"),
            *super().get_urls(),
        ]

    def preview_view(self, request: HttpRequest, object_id: UUID | None = None) -> HttpResponse:
        """What the posted form says; nothing is saved."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        policy = None if object_id is None else self._changeable(request, object_id)
        environment = environments.shown(request) if policy is None else policy.environment
        if environment is None or not self.has_add_permission(request):
            raise PermissionDenied
        return policy_preview.show(request, environment, policy)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *arguments: Any, **named: Any
    ) -> HttpResponse:
        """With what may be chosen, and the address of what the form says."""
        environment = environments.shown(request)
        original = context.get("original")
        context["show_save_and_add_another"] = False
        if environment is not None and self.may_change(request, original):
            context["names"] = known_names(environment)
            context["preview_url"] = (
                reverse("admin:policies_policy_preview_new")
                if original is None
                else reverse("admin:policies_policy_preview", args=[original.pk])
            )
        return super().render_change_form(request, context, *arguments, **named)

    def change_view(
        self, request: HttpRequest, object_id: str, *arguments: Any, **named: Any
    ) -> HttpResponse:
        """Looking comes before changing: the form is at `edit`."""
        if request.method != "GET":
            return super().change_view(request, object_id, *arguments, **named)
        policy = self.get_object(request, unquote(object_id))
        if policy is None:
            return super().change_view(request, object_id, *arguments, **named)
        return policy_page.show(request, policy, may_change=self.has_change_permission(request, policy))

    def edit_view(self, request: HttpRequest, object_id: UUID) -> HttpResponse:
        self._changeable(request, object_id)
        return super().change_view(request, str(object_id))

    def mode_view(self, request: HttpRequest, object_id: UUID) -> HttpResponse:
        policy = self._changeable(request, object_id)
        try:
            return policy_page.change_mode(request, policy)
        except self.refusals as error:
            return self._refused(request, error, "Nothing was changed")

    def _changeable(self, request: HttpRequest, object_id: UUID) -> Policy:
        """Raises Http404 for one that the person does not see, PermissionDenied for one that they may not change."""
        policy: Policy | None = self.get_object(request, str(object_id))
        if policy is None:
            raise Http404("There is no such policy.")
        if not self.has_change_permission(request, policy):
            raise PermissionDenied
        return policy

    def get_fieldsets(self, request: HttpRequest, obj: Policy | None = None) -> Any:
        if obj is None:
            return self.fieldsets
        (title, first), *others = self.fieldsets
        return [(title, {"fields": [*first["fields"], "opened_version"]}), *others]

    def lock(self, obj: Policy) -> None:
        Environment.lock(obj.environment_id)

    def get_readonly_fields(self, request: HttpRequest, obj: Policy | None = None) -> list[str]:
        return [] if obj is None else ["environment"]

    def may_change(self, request: HttpRequest, obj: Policy | None = None) -> bool:
        archived = obj is not None and obj.archived_at is not None
        return not archived and super().may_change(request, obj)

    def save_model(self, request: HttpRequest, obj: Policy, form: Any, change: bool) -> None:
        """Nothing yet: a policy is published with its limits, which `save_related` has."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        (limits,) = formsets
        # This saves nothing; it tells the history page which limits changed.
        limits.save(commit=False)
        rule = documents.rule_of({**form.document(), "limits": limits.documents()})
        form.instance.pk = publishing.publish_one(
            form.policy_environment,
            rule,
            actor=actor_of(request),
            policy_id=form.instance.pk if change else None,
        ).pk

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Deleting archives the policy; nothing that refers to it is deleted."""
        refused = {"policy" for policy in objs if not self.may_change(request, policy)}
        named = [f"{policy} of {policy.environment} (archived; its versions stay)" for policy in objs]
        return named, {"policies": len(named)}, refused, []

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        if "delete_selected" in actions:
            _, name, _ = actions["delete_selected"]
            actions["delete_selected"] = _archive_selected, name, "Archive selected policies"
        return actions

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().delete_view(request, object_id, {"title": "Archive", **(extra_context or {})})

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: Any) -> HttpResponse:
        self.message_user(request, f"The policy “{obj_display}” is archived.", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:policies_policy_changelist"))

    def delete_model(self, request: HttpRequest, obj: Policy) -> None:
        publishing.archive(obj, actor=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Policy]) -> None:
        for policy in queryset.select_related("environment").order_by("environment_id", "pk"):
            self.delete_model(request, policy)


def _archive_selected(
    model_admin: PolicyAdmin, request: HttpRequest, queryset: QuerySet[Policy]
) -> TemplateResponse | None:
    """Django's deleting, with its confirmation under another title."""
    response = delete_selected(model_admin, request, queryset)
    if response is not None and response.context_data is not None:
        response.context_data["title"] = "Archive policies"
    return response
