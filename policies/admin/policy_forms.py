"""The form of a policy and its limits.

A form is turned into the document of a policy file, and what stands against that is shown at the field it is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from unfold.widgets import UnfoldAdminTextInputWidget

from policies import policy_rows
from policies.changing import publishing
from policies.files import documents
from policies.files.file_errors import FileError, PolicyFileError
from policies.models import Limit, Policy
from policies.rules import LimitRule, PolicyRule
from tenants.console import display
from tenants.console.forms import LinesField
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric
from usage.windows import Window

# The names of buttons: publish what the confirmation showed, put it into a draft, go back from the confirmation.
PUBLISH, INTO_A_DRAFT, BACK = "_publish", "_draft", "_edit"
_LIMIT_PATH = re.compile(r"limits\[(?P<number>\d+)\]\.?(?P<field>\w*)")


def _globs_field(label: str, help_text: str) -> LinesField:
    name = forms.CharField(max_length=NAME_LENGTH_MAX)
    return LinesField(
        name,
        label=label,
        required=False,
        help_text=f"{help_text} One name a line; * and ? are wild: gpt-4o-*.",
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
    # A policy is saved as a whole, so two people's edits are not merged: the later one is refused.
    opened_version = forms.IntegerField(required=False, widget=forms.HiddenInput)

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
        self.initial["opened_version"] = self.instance.version
        self.initial["per_request_cost_usd"] = display.plain(self.initial.get("per_request_cost_usd"))
        for name in ("user", "feature", "plan"):
            if field := self.fields.get(f"scope_{name}"):
                # The form's template lists them.
                field.widget.attrs["list"] = f"known-{name}s"
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
        opened = self.cleaned_data.get("opened_version")
        moved = not self.instance._state.adding and opened not in (None, self.instance.version)
        if moved and PUBLISH in self.data:
            raise ValidationError(
                f"Somebody else changed this policy since the page was opened: it is at version "
                f"{self.instance.version} now. Nothing was published; go on to see how, beside what you typed."
            )
        if not self.errors:
            self._check()
        return self.cleaned_data

    def _check(self) -> None:
        try:
            rule = documents.rule_of(self.document())
        except PolicyFileError as error:
            self._refuse(error.errors)
            return
        self._refuse(self.objections(rule))

    def objections(self, rule: PolicyRule) -> Iterable[FileError]:
        """What stands against the policy beside the others."""
        policy_id = None if self.instance._state.adding else self.instance.pk
        found = publishing.objections(self.policy_environment, rule, policy_id=policy_id)
        # A plan of a draft may be still to come.
        return [error for error in found if INTO_A_DRAFT not in self.data or error.path != "scope.plan"]

    def is_valid(self) -> bool:
        """A form that somebody comes back to is shown, whatever it says."""
        return BACK not in self.data and super().is_valid()

    def _refuse(self, errors: Iterable[FileError]) -> None:
        for error in errors:
            # `models.allow[3]` is said at the field models_allow.
            name = error.path.partition("[")[0].replace(".", "_")
            self.add_error(name if name in self.fields else None, error.message)


def fields_of(rule: PolicyRule) -> dict[str, Any]:
    """What the fields of the form hold that says this, without its limits."""
    scope, caps = rule.scope, rule.per_request
    plain = ("name", "kind", "mode", "priority", "on_unavailable", "on_unsettled", "unknown_price")
    return {
        **{name: getattr(rule, name) for name in plain},
        **{f"scope_{name}": getattr(scope, name) for name in ("user", "feature", "plan")},
        **{f"models_{name}": list(getattr(rule.models, name)) for name in ("allow", "deny")},
        "per_request_cost_usd": None if caps.cost_nano is None else policy_rows.usd(caps.cost_nano),
        "per_request_input_tokens": caps.input_tokens,
        "per_request_output_tokens": caps.output_tokens,
    }


def limit_fields_of(limit: LimitRule) -> dict[str, Any]:
    amount = policy_rows.amount(limit)
    return {
        "metric": limit.metric,
        "window": limit.window,
        "amount": amount,
        "per": limit.per,
        "models": list(limit.models),
    }


# As the rows of limits say them.
CHOICES: dict[str, dict[str, str]] = {
    "metric": {
        Metric.INPUT_TOKENS: "input tokens",
        Metric.OUTPUT_TOKENS: "output tokens",
        Metric.COST_USD: "spend, $",
        Metric.CONCURRENCY: "calls at once",
    },
    "window": {window: wording.window(Metric.REQUESTS, window) for window in Window},
    "per": {per: wording.subject(per) for per in Per},
}


class LimitForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Limit
        fields = ["metric", "window", "amount", "per", "models"]
        # Above the rows there is no room to say it.
        widgets = {"models": UnfoldAdminTextInputWidget(attrs={"placeholder": "all models"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["amount"] = display.plain(self.initial.get("amount"))
        self.fields[
            "models"
        ].help_text = "Names and patterns, separated by commas: calls to these alone are counted."
        for name, words in CHOICES.items():
            self.fields[name].widget.choices = [
                (value, words.get(value, label)) for value, label in self.fields[name].widget.choices
            ]
        for field in self.fields.values():
            # A row of the table has no labels of its own.
            field.widget.attrs["aria-label"] = str(field.label)

    def _get_validation_exclusions(self) -> set[str]:
        """All of them: the formset checks the same rules, with clearer messages."""
        return {field.name for field in Limit._meta.fields}


class LimitFormSet(forms.models.BaseInlineFormSet):  # type: ignore[type-arg]
    """Rows of limits as they are typed. Which rows a policy had when the form was opened counts for nothing: whoever
    publishes a version writes them anew."""

    def initial_form_count(self) -> int:
        return 0

    def add_fields(self, form: Any, index: int | None) -> None:
        super().add_fields(form, index)
        form.fields["id"] = forms.IntegerField(required=False, disabled=True, widget=forms.HiddenInput)

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
                **({"models": models} if (models := form.cleaned_data["models"]) else {}),
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
            documents.rule_of({"name": "limits", "limits": self.documents()})
        except PolicyFileError as error:
            for refused in error.errors:
                self._refuse(refused)

    def _refuse(self, error: FileError) -> None:
        place = _LIMIT_PATH.match(error.path)
        if place is None:
            raise ValidationError(str(error))
        self.kept()[int(place["number"])].add_error(place["field"] or None, error.message)
