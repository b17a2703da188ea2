"""Policies are saved through publishing.py, end users through end_users.py: the same ways as from files and the API.

A form is turned into the document of a policy file, and what stands against that is shown at the field it is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.postgres.forms import SimpleArrayField
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html

from policies import end_users, policy_file, publishing, rules
from policies.models import EndUser, Limit, Plan, Policy, PolicyVersion
from policies.policy_file import FileError, PolicyFileError
from tenants import admin_display
from tenants.admin_access import (
    BoundedPaginator,
    EnvironmentFilter,
    InlineOfTenantRows,
    OneEnvironmentFilter,
    ReadOnlyAdmin,
    TenantRowsAdmin,
    actor_of,
)
from tenants.models import Environment
from usage.amounts import Metric

_LIMIT_PATH = re.compile(r"limits\[(?P<number>\d+)\]\.?(?P<field>\w*)")


class LinesField(SimpleArrayField):
    """One entry a line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, delimiter="\n", widget=forms.Textarea(attrs={"rows": 4}), **kwargs)

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str):
            value = [line for line in map(str.strip, value.splitlines()) if line]
        return super().to_python(value)


def _globs_field(label: str, help_text: str) -> LinesField:
    name = forms.CharField(max_length=rules.MODEL_GLOB_LENGTH_MAX)
    return LinesField(
        name, label=label, required=False, help_text=f"{help_text} One glob a line, such as gpt-4o-*."
    )


HELP_TEXTS = {
    "kind": "override: of those that match a call the most specific one decides. guardrail: binds every call that "
    "it matches, whichever override decides.",
    "mode": "enforce: blocks. monitor: counts and says what it would have blocked. off: not in force.",
    "priority": "Of overrides with the same scope the one with the highest number decides.",
    "on_unavailable": "What happens to a call while the counters cannot be read.",
    "on_unsettled": "What becomes of what a call held if it is never reported: release gives it back, charge books it.",
    "unknown_price": "What happens to a call of a model that the price book does not know.",
}


class PolicyForm(forms.ModelForm):  # type: ignore[type-arg]
    models_allow = _globs_field(
        "Allowed",
        "Models that may be called; empty = all. To a call blocked for its model the first that is named in full, "
        "without a wildcard, and would be allowed is suggested instead.",
    )
    models_deny = _globs_field("Denied", "Models that may not be called, even if allowed above.")

    class Meta:
        model = Policy
        fields = [
            "environment", "name", "kind", "mode", "priority", "scope_user", "scope_feature", "scope_plan",
            "models_allow", "models_deny", "per_request_cost_usd", "per_request_input_tokens",
            "per_request_output_tokens", "on_unavailable", "on_unsettled", "unknown_price",
        ]  # fmt: skip
        labels = {
            "scope_user": "User",
            "scope_feature": "Feature",
            "scope_plan": "Plan",
            "per_request_cost_usd": "Cost per request (USD)",
            "per_request_input_tokens": "Input tokens per request",
            "per_request_output_tokens": "Output tokens per request",
            "on_unavailable": "Without counters",
            "on_unsettled": "Holds never reported",
            "unknown_price": "Models without a price",
        }
        help_texts = HELP_TEXTS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["per_request_cost_usd"] = admin_display.plain(self.initial.get("per_request_cost_usd"))
        for name in ("scope_user", "scope_feature"):
            # Any text can be the name of a user, blanks included.
            if isinstance(field := self.fields.get(name), forms.CharField):
                field.strip = False

    @property
    def policy_environment(self) -> Environment:
        environment: Environment = self.cleaned_data.get("environment") or self.instance.environment
        return environment

    def document(self) -> dict[str, Any]:
        """The policy as in a file, without its limits."""
        given = self.cleaned_data
        cost_usd = given["per_request_cost_usd"]
        per_request = {
            "cost_usd": None if cost_usd is None else f"{cost_usd:f}",
            "input_tokens": given["per_request_input_tokens"],
            "output_tokens": given["per_request_output_tokens"],
        }
        plain = ("name", "kind", "mode", "priority", "on_unavailable", "on_unsettled", "unknown_price")
        return {
            **{name: given[name] for name in plain},
            "scope": {name: text for name in ("user", "feature", "plan") if (text := given[f"scope_{name}"])},
            "models": {"allow": given["models_allow"], "deny": given["models_deny"]},
            "per_request": {name: cap for name, cap in per_request.items() if cap is not None},
        }

    def clean(self) -> dict[str, Any]:
        if not self.errors:
            self._check()
        return self.cleaned_data

    def _check(self) -> None:
        try:
            rule = policy_file.rule_of(self.document())
        except PolicyFileError as error:
            self._refuse(error.errors)
            return
        policy_id = None if self.instance._state.adding else self.instance.pk
        self._refuse(publishing.objections(self.policy_environment, rule, policy_id=policy_id))

    def _refuse(self, errors: Iterable[FileError]) -> None:
        for error in errors:
            # `models.allow[3]` is said at the field models_allow.
            name = error.path.partition("[")[0].replace(".", "_")
            self.add_error(name if name in self.fields else None, error.message)


class LimitForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Limit
        fields = ["metric", "window", "amount", "per"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["amount"] = admin_display.plain(self.initial.get("amount"))

    def _get_validation_exclusions(self) -> set[str]:
        """All: what the model demands of a row the formset says too, and how to mend it."""
        return {field.name for field in Limit._meta.fields}


class LimitFormSet(forms.models.BaseInlineFormSet):  # type: ignore[type-arg]
    def kept(self) -> list[Any]:
        return [form for form in self.forms if form.cleaned_data and not form.cleaned_data.get("DELETE")]

    def documents(self) -> list[dict[str, Any]]:
        """The limits as in a file."""
        return [
            {
                "metric": form.cleaned_data["metric"],
                "window": form.cleaned_data["window"],
                "amount": self._amount(form.cleaned_data["metric"], form.cleaned_data["amount"]),
                "per": form.cleaned_data["per"],
            }
            for form in self.kept()
        ]

    @staticmethod
    def _amount(metric: str, amount: Decimal) -> int | str:
        whole = amount == amount.to_integral_value()
        return int(amount) if whole and metric != Metric.COST_USD else f"{amount:f}"

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        try:
            policy_file.rule_of({"name": "limits", "limits": self.documents()})
        except PolicyFileError as error:
            for refused in error.errors:
                self._refuse(refused)

    def _refuse(self, error: FileError) -> None:
        place = _LIMIT_PATH.match(error.path)
        if place is None:
            raise ValidationError(str(error))
        self.kept()[int(place["number"])].add_error(place["field"] or None, error.message)


class LimitInline(InlineOfTenantRows):
    model = Limit
    form = LimitForm
    formset = LimitFormSet
    max_num = rules.LIMITS_MAX


@admin.register(Policy)
class PolicyAdmin(TenantRowsAdmin):
    form = PolicyForm
    inlines = [LimitInline]
    list_display = ["name", "environment", "scope", "kind", "mode", "priority", "version", "archived_at"]
    list_filter = [EnvironmentFilter, "kind", "mode", ("archived_at", admin.EmptyFieldListFilter)]
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
    state = ("id", "version", "versions", "created_at", "archived_at")

    @admin.display(description="scope")
    def scope(self, policy: Policy) -> str:
        scope = {"user": policy.scope_user, "feature": policy.scope_feature, "plan": policy.scope_plan}
        return ", ".join(f"{name}: {text}" for name, text in scope.items() if text) or "default"

    @admin.display(description="history")
    def versions(self, policy: Policy) -> str:
        return format_html(
            '<a href="../../../policyversion/?policy__id__exact={}">all versions</a>', policy.pk
        )

    def get_fieldsets(self, request: HttpRequest, obj: Policy | None = None) -> Any:
        return self.fieldsets if obj is None else [*self.fieldsets, ("State", {"fields": self.state})]

    def get_readonly_fields(self, request: HttpRequest, obj: Policy | None = None) -> list[str]:
        return [] if obj is None else ["environment", *self.state]

    def may_change(self, request: HttpRequest, obj: Policy | None = None) -> bool:
        archived = obj is not None and obj.archived_at is not None
        return not archived and super().may_change(request, obj)

    def save_model(self, request: HttpRequest, obj: Policy, form: Any, change: bool) -> None:
        """Nothing yet: a policy is published with its limits, which `save_related` has."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        (limits,) = formsets
        # Not to save them, but for the history page to know which changed.
        limits.save(commit=False)
        rule = policy_file.rule_of({**form.document(), "limits": limits.documents()})
        form.instance.pk = publishing.publish_one(
            form.policy_environment,
            rule,
            actor=actor_of(request),
            policy_id=form.instance.pk if change else None,
        ).pk

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except (PolicyFileError, Policy.DoesNotExist) as error:
            # Another change came in between the check and the publication.
            self.message_user(request, f"Nothing was saved: {error}. Look again.", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """A policy is archived, with nothing that hangs on it lost."""
        refused = {"policy" for policy in objs if not self.may_change(request, policy)}
        named = [f"{policy} of {policy.environment} (archived; its versions stay)" for policy in objs]
        return named, {"policies": len(named)}, refused, []

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        if "delete_selected" in actions:
            function, name, _ = actions["delete_selected"]
            actions["delete_selected"] = function, name, "Archive selected policies"
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


@admin.register(PolicyVersion)
class PolicyVersionAdmin(ReadOnlyAdmin):
    tenant_lookup = "policy__environment__tenant_id"
    list_display = ["policy", "environment", "version", "actor", "created_at"]
    list_select_related = ["policy__environment__tenant"]
    search_fields = ["policy__name", "actor"]
    fields = ["policy", "environment", "version", "actor", "created_at", "change", "text"]

    def tenant_id_of(self, obj: PolicyVersion) -> int:
        return obj.policy.environment.tenant_id

    readonly_fields = ["environment", "change", "text"]

    @admin.display(description="environment", ordering="policy__environment")
    def environment(self, version: PolicyVersion) -> str:
        return str(version.policy.environment)

    @admin.display(description="policy")
    def text(self, version: PolicyVersion) -> str:
        rule = _rule(version)
        lines = ["(archived)"] if rule is None else [line[1:] for line in policy_file.diff(None, rule)[1:]]
        return admin_display.block_of_lines("\n".join(lines))

    @admin.display(description="change")
    def change(self, version: PolicyVersion) -> str:
        before = PolicyVersion.objects.filter(policy=version.policy_id, version=version.version - 1).first()
        lines = policy_file.diff(None if before is None else _rule(before), _rule(version))
        return admin_display.block_of_lines("\n".join(lines))


def _rule(version: PolicyVersion) -> rules.PolicyRule | None:
    return None if version.document is None else policy_file.rule_of(version.document)


@admin.register(Plan)
class PlanAdmin(TenantRowsAdmin):
    list_display = ["name", "environment"]
    list_filter = [EnvironmentFilter]
    list_select_related = ["environment__tenant"]
    search_fields = ["name"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Policies, end users and requests name it.
        return False

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


class PlanChoice(forms.ModelChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Plan) -> str:
        return f"{obj.environment}: {obj.name}"


@admin.register(EndUser)
class EndUserAdmin(TenantRowsAdmin):
    list_display = ["user_id", "environment", "plan", "blocked", "created_at"]
    list_filter = [OneEnvironmentFilter, "blocked"]
    list_select_related = ["environment__tenant", "plan"]
    search_fields = ["user_id__startswith"]
    search_help_text = "How the user_id begins"
    fields = ["environment", "user_id", "plan", "blocked"]
    ordering = ["user_id"]
    actions = ["block", "unblock"]
    paginator = BoundedPaginator
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: EndUser | None = None) -> list[str]:
        return [] if obj is None else ["environment", "user_id"]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "plan":
            kwargs["form_class"] = PlanChoice
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if isinstance(field, PlanChoice) and field.queryset is not None:
            field.queryset = field.queryset.select_related("environment__tenant")
        return field

    def save_model(self, request: HttpRequest, obj: EndUser, form: Any, change: bool) -> None:
        obj.pk = self._set(request, obj, blocked=obj.blocked).pk

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
        for user in self.changeable(request, queryset).select_related("environment", "plan").order_by("pk"):
            self._set(request, user, blocked=blocked)

    def _set(self, request: HttpRequest, user: EndUser, *, blocked: bool) -> EndUser:
        plan_name = None if user.plan is None else user.plan.name
        return end_users.set_end_user(
            user.environment, user.user_id, plan_name=plan_name, blocked=blocked, actor=actor_of(request)
        )
