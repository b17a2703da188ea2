"""The page with the form of a policy, be it in force or in a draft: fields, limits inline, and beside it what it says.

What is done with the policy once the form is valid, and what the buttons are, is said by whoever derives from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse

from policies import policy_rows, rules
from policies.admin.policy_forms import LimitForm, LimitFormSet, PolicyForm, fields_of, limit_fields_of
from policies.changing.known_names import known_names
from policies.files import documents
from policies.files.file_errors import PolicyFileError
from policies.models import Limit, Policy
from policies.rules import PolicyRule
from tenants.console import environments
from tenants.console.rows import EnvironmentRowsAdmin, InlineOfTenantRows
from tenants.roles import May

# By this class the template knows them.
_RARELY_USED = "tv-rarely-used"


class LimitInline(InlineOfTenantRows):
    model = Limit
    form = LimitForm
    formset = LimitFormSet
    hide_title = True
    max_num = rules.LIMITS_MAX


@dataclass(frozen=True, slots=True)
class Button:
    """That sends the form. The first one is meant by the Enter key."""

    name: str
    says: str


class PolicyFormAdmin(EnvironmentRowsAdmin):
    to_change = May.EDIT_POLICIES
    form = PolicyForm
    refusals = (*EnvironmentRowsAdmin.refusals, PolicyFileError)
    inlines = [LimitInline]
    buttons: tuple[Button, ...]
    fieldsets = [
        (None, {"fields": ["environment", "name", "kind", "mode"]}),
        (
            "Scope",
            {
                "fields": ["scope_user", "scope_feature", "scope_plan"],
                "description": "It applies to calls that match every field filled in; with none it is the default.",
            },
        ),
    ]
    # Below the limits, and folded while a policy says nothing of it.
    rarely_used = [
        ("Models", ["models_allow", "models_deny"]),
        (
            "One call at most",
            ["per_request_cost_usd", "per_request_input_tokens", "per_request_output_tokens"],
        ),
        ("When in doubt", ["priority", "on_unavailable", "on_unsettled", "unknown_price"]),
    ]

    def preview_url(self, policy: Policy | None) -> str:
        """Where what the form says is put into words."""
        raise NotImplementedError

    def typed(self, request: HttpRequest, form: Any, rule: PolicyRule) -> None:
        """What becomes of the policy, once the form is valid."""
        raise NotImplementedError

    def rule_of(self, policy: Policy | None) -> PolicyRule | None:
        """What the form is filled in with when it is opened. None: a new policy."""
        if policy is None or policy._state.adding:
            return None
        return policy_rows.rule_of(policy)

    def get_fieldsets(self, request: HttpRequest, obj: Policy | None = None) -> Any:
        usual = fields_of(PolicyRule(name=""))
        rule = self._filled_in(request, obj)
        said = usual if rule is None else fields_of(rule)
        found: list[Any] = list(self.fieldsets)
        for title, names in self.rarely_used:
            # What was typed is not folded away.
            folded = request.method != "POST" and all(said[name] == usual[name] for name in names)
            classes = [_RARELY_USED, "collapse"] if folded else [_RARELY_USED]
            found.append((title, {"fields": names, "classes": classes}))
        return found

    def _filled_in(self, request: HttpRequest, policy: Policy | None) -> PolicyRule | None:
        """None for a form that was sent: it says what was typed, and the policy may have taken some of that on."""
        return None if request.method == "POST" else self.rule_of(policy)

    def get_inline_instances(self, request: HttpRequest, obj: Policy | None = None) -> list[Any]:
        limits: Any
        (limits,) = super().get_inline_instances(request, obj)
        rule = self._filled_in(request, obj)
        limits.extra = 0 if rule is None else len(rule.limits)
        return [limits]

    def get_formset_kwargs(
        self, request: HttpRequest, obj: Policy, inline: Any, prefix: str
    ) -> dict[str, Any]:
        found: dict[str, Any] = super().get_formset_kwargs(request, obj, inline, prefix)
        rule = self._filled_in(request, obj)
        if rule is not None:
            found["initial"] = [limit_fields_of(limit) for limit in rule.limits]
        return found

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *arguments: Any, **named: Any
    ) -> HttpResponse:
        """With what may be chosen, and the address of what the form says."""
        environment = environments.shown(request)
        original = context.get("original")
        context["show_save_and_add_another"] = context["show_save_and_continue"] = False
        context["buttons"] = self.buttons
        if environment is not None and self.may_change(request, original):
            context["names"] = known_names(environment)
            context["preview_url"] = self.preview_url(original)
        return super().render_change_form(request, context, *arguments, **named)

    def save_model(self, request: HttpRequest, obj: Policy, form: Any, change: bool) -> None:
        """Nothing yet: a policy is complete with its limits, which `save_related` has."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        (limits,) = formsets
        # This saves nothing; it tells Django which limits changed.
        limits.save(commit=False)
        self.typed(request, form, documents.rule_of({**form.document(), "limits": limits.documents()}))
