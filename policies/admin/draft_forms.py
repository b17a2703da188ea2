"""Forms of drafts."""

from __future__ import annotations

from django import forms

from policies.files import policy_file
from policies.files.file_errors import PolicyFileError
from policies.models import NOTE_LENGTH_MAX
from policies.rules import PolicyRule
from tenants.lengths import TITLE_LENGTH_MAX


class BeginForm(forms.Form):
    name = forms.CharField(
        label="Name",
        max_length=TITLE_LENGTH_MAX,
        widget=forms.TextInput(attrs={"class": "tv-input"}),
        help_text="Such as: Tighter limits for free.",
    )


class PublishForm(forms.Form):
    note = forms.CharField(
        label="Why (optional; kept with the version and in the audit log)",
        required=False,
        max_length=NOTE_LENGTH_MAX,
        widget=forms.Textarea(attrs={"class": "tv-input", "rows": 2}),
    )


class PolicyTextForm(forms.Form):
    """A policy as a policy file says it."""

    text = forms.CharField(
        label="The policy, as in a policy file",
        strip=False,
        widget=forms.Textarea(attrs={"class": "tv-input tv-code", "rows": 18, "spellcheck": "false"}),
        help_text="docs/policies.md says what can stand here.",
    )
    rule: PolicyRule

    def clean_text(self) -> str:
        text: str = self.cleaned_data["text"]
        try:
            self.rule = policy_file.parse_one(text)
        except PolicyFileError as error:
            raise forms.ValidationError([str(each) for each in error.errors]) from error
        return text
