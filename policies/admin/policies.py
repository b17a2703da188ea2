"""Policies in the admin: saved through publishing.py, the same way as from files and the API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from unfold.views import ChangeList

from policies import policy_rows
from policies.admin import archiving, policy_list, policy_page, policy_preview, policy_publishing
from policies.admin.policy_form_page import PolicyFormAdmin
from policies.admin.policy_list import InForce, PolicyList
from policies.admin.policy_publishing import Typed
from policies.describing import wording
from policies.models import Policy
from policies.rules import PolicyRule
from tenants.console import environments
from tenants.models import Environment


@admin.register(Policy)
class PolicyAdmin(PolicyFormAdmin):
    buttons = (policy_publishing.REVIEW, policy_publishing.TO_A_DRAFT)
    list_display = ["described", "scope", "state_in_words", "fullest", "changed"]
    list_display_links = None
    list_filter = ["kind", "mode", InForce]
    list_select_related = ["environment__tenant"]
    search_fields = ["name", "scope_user", "scope_feature", "scope_plan"]

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
        others = policy_rows.in_force(environment.pk, without=object_id)
        ordinal = None if policy is None else policy.ordinal
        return policy_preview.show(request, environment, others, ordinal=ordinal)

    def preview_url(self, policy: Policy | None) -> str:
        if policy is None:
            return reverse("admin:policies_policy_preview_new")
        return reverse("admin:policies_policy_preview", args=[policy.pk])

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
        found = super().get_fieldsets(request, obj)
        if obj is None:
            return found
        (title, first), *others = found
        return [(title, {"fields": [*first["fields"], "opened_version"]}), *others]

    def lock(self, obj: Policy) -> None:
        Environment.lock(obj.environment_id)

    def get_readonly_fields(self, request: HttpRequest, obj: Policy | None = None) -> list[str]:
        return [] if obj is None else ["environment"]

    def may_change(self, request: HttpRequest, obj: Policy | None = None) -> bool:
        archived = obj is not None and obj.archived_at is not None
        return not archived and super().may_change(request, obj)

    def typed(self, request: HttpRequest, form: Any, rule: PolicyRule) -> None:
        stored = None if form.instance._state.adding else Policy.objects.get(pk=form.instance.pk)
        typed = Typed(
            environment=form.policy_environment,
            rule=rule,
            stored=stored,
            opened_version=form.cleaned_data.get("opened_version"),
        )
        form.instance.answer = policy_publishing.answer(request, typed)

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        answer: HttpResponse = obj.answer
        return answer

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return self.response_add(request, obj)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        if "delete_selected" in actions:
            _, name, _ = actions["delete_selected"]
            actions["delete_selected"] = _archive_selected, name, "Archive selected policies"
        return actions

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Deleting archives the policy."""
        policy = self.get_object(request, unquote(object_id))
        if policy is None:
            return super().delete_view(request, object_id, extra_context)
        if not self.has_delete_permission(request, policy):
            raise PermissionDenied
        try:
            asked = archiving.answer(
                request, [policy], back=reverse("admin:policies_policy_change", args=[policy.pk])
            )
        except self.refusals as error:
            return self._refused(request, error, "Nothing was archived")
        return asked or HttpResponseRedirect(reverse("admin:policies_policy_changelist"))


def _archive_selected(
    model_admin: PolicyAdmin, request: HttpRequest, queryset: QuerySet[Policy]
) -> HttpResponse | None:
    """In the place of Django's deleting. All of them, or none."""
    chosen = list(queryset.select_related("environment__tenant").order_by("environment_id", "pk"))
    refused = any(not model_admin.may_change(request, policy) for policy in chosen)
    return archiving.answer(
        request,
        [] if refused else chosen,
        back=reverse("admin:policies_policy_changelist"),
        action="delete_selected",
    )
