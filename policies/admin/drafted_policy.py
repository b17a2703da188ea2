"""The form of a policy in a draft: the one of a policy in force, filled in from the draft and put back into it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from policies.admin import policy_preview
from policies.admin.policy_form_page import Button, PolicyFormAdmin
from policies.admin.policy_forms import PolicyForm, fields_of
from policies.changing import drafts
from policies.files.file_errors import FileError
from policies.models import Draft, Policy
from policies.rules import PolicyRule
from tenants.console.access import actor_of
from tenants.models import Environment


class DraftedPolicyForm(PolicyForm):
    draft: Draft
    instead_of: str | None

    @property
    def policy_environment(self) -> Environment:
        return self.draft.environment

    def objections(self, rule: PolicyRule) -> Iterable[FileError]:
        errors = drafts.objections(self.draft, rule, instead_of=self.instead_of)
        if self.data.get("edits") != str(self.draft.edits):
            message = "somebody else changed the draft since the page was opened; look at it, and put yours in again"
            return [*errors, FileError("", message)]
        return errors


class DraftedPolicyAdmin(PolicyFormAdmin):
    """Of one policy of one draft, for one request. `name` is None for one that the draft does not have yet."""

    buttons = (Button("_put", "Put into the draft"),)

    def __init__(self, draft: Draft, name: str | None) -> None:
        super().__init__(Policy, admin.site)
        self._draft, self._name = draft, name
        self._rule = None if name is None else drafts.rules_of(draft).get(name)
        if name is not None and self._rule is None:
            raise Http404
        form: Any = type("Form", (DraftedPolicyForm,), {"draft": draft, "instead_of": name})
        self.form = form

    def page(self, request: HttpRequest) -> HttpResponse:
        context = {
            "title": self._name or "New policy",
            "draft": self._draft,
            "text_url": self._url(**{"as": "text"}),
        }
        return self.add_view(request, extra_context=context)

    def preview(self, request: HttpRequest) -> HttpResponse:
        found = drafts.stored(self._draft)
        others = [each for each in found if each.ref.name != self._name]
        own = next((each for each in found if each.ref.name == self._name), None)
        ordinal = None if own is None else own.ordinal
        return policy_preview.show(request, self._draft.environment, others, ordinal=ordinal)

    def preview_url(self, policy: Policy | None) -> str:
        return self._url("policy_of_draft_preview")

    def _url(self, page: str = "policy_of_draft", **query: str) -> str:
        asked = query if self._name is None else {"name": self._name, **query}
        return reverse(f"admin:{page}", args=[self._draft.pk], query=asked or None)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        found = {} if self._rule is None else fields_of(self._rule)
        return {**found, "environment": self._draft.environment_id}

    def rule_of(self, policy: Policy | None) -> PolicyRule | None:
        return self._rule

    def typed(self, request: HttpRequest, form: Any, rule: PolicyRule) -> None:
        drafts.put(self._draft, rule, instead_of=self._name, edits=self._draft.edits, actor=actor_of(request))

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        messages.success(request, f"{obj.name} is in the draft as you typed it. Nothing is in force yet.")
        return redirect("admin:policy_draft", self._draft.pk)
