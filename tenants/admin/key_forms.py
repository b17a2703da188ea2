"""The forms of API keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django import forms

from tenants import scopes
from tenants.console.forms import RowForm
from tenants.models import ApiKey

CHOSEN = "chosen"
_PRESETS = [
    *(
        (name, f"{title}: {scopes.in_words(scopes.PRESETS[name])}")
        for name, title in scopes.PRESET_TITLES.items()
    ),
    (CHOSEN, "Only what is ticked below"),
]


class NewKeyForm(RowForm):
    preset = forms.ChoiceField(
        label="May",
        choices=_PRESETS,
        widget=forms.RadioSelect,
        initial="server",
        required=False,
        help_text="What the key may do. It cannot be changed later; a server that makes AI calls needs Server.",
    )
    scopes = forms.MultipleChoiceField(
        label="Only",
        choices=[(scope, words[0].upper() + words[1:]) for scope, words in scopes.IN_WORDS.items()],
        widget=forms.CheckboxSelectMultiple,
        initial=scopes.PRESETS["server"],
        required=False,
    )

    class Meta:
        model = ApiKey
        fields = ["name", "environment", "scopes", "expires_at", "allowed_networks", "requests_per_minute"]

    def clean(self) -> dict[str, Any]:
        """The scopes of the preset, or without one those that are ticked."""
        given = self.cleaned_data
        if given.get("preset") in scopes.PRESETS:
            given["scopes"] = list(scopes.PRESETS[given["preset"]])
        elif not given.get("scopes"):
            self.add_error("scopes", "Tick at least one.")
        return given


@dataclass(frozen=True, slots=True)
class When:
    """`lasts`: how long the old secret still works; None: not at all."""

    title: str
    says: str
    lasts: timedelta | None


WHEN = {
    "now": When("At once", "It leaked. Calls with it are refused from the next one on.", None),
    "hour": When("In 1 hour", "Both work until then.", timedelta(hours=1)),
    "day": When("In 24 hours", "Both work until then.", timedelta(days=1)),
    "week": When("In 7 days", "Both work until then.", timedelta(days=7)),
}


class RotateForm(forms.Form):
    # The mark of the secret that is replaced: sent twice, the form replaces it once.
    seen = forms.CharField(required=False, widget=forms.HiddenInput)
    when = forms.ChoiceField(
        choices=[(name, when.title) for name, when in WHEN.items()],
        error_messages={"required": "Say when the old secret ends."},
    )
