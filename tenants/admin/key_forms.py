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
_CHOSEN_TITLE = "Only what is ticked below"
_PRESETS = [
    *(
        (name, f"{title}: {scopes.in_words(scopes.PRESETS[name])}")
        for name, title in scopes.PRESET_TITLES.items()
    ),
    (CHOSEN, _CHOSEN_TITLE),
]


class NewKeyForm(RowForm):
    """A single right that is ticked chooses the last line of the presets: key_rights.js does, else the person."""

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
        required=False,
        help_text="For “Only what is ticked below”.",
    )

    class Media:
        js = ["tokvigil/key_rights.js"]

    class Meta:
        model = ApiKey
        fields = ["name", "environment", "scopes", "expires_at", "allowed_networks", "requests_per_minute"]

    def clean(self) -> dict[str, Any]:
        """The scopes of the preset, or without one those that are ticked; never a choice between the two."""
        given = self.cleaned_data
        preset, ticked = given.get("preset", ""), given.get("scopes")
        if preset not in scopes.PRESETS:
            if not ticked and "scopes" not in self.errors:
                self.add_error("scopes", "Tick at least one.")
        elif ticked and set(ticked) != set(scopes.PRESETS[preset]):
            self.add_error("scopes", _both(preset))
        else:
            given["scopes"] = list(scopes.PRESETS[preset])
        return given


def _both(preset: str) -> str:
    title = scopes.PRESET_TITLES[preset]
    return (
        f"“{title}” is chosen above and means other rights. Choose “{_CHOSEN_TITLE}” there, or untick these."
    )


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
