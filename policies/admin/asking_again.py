"""A form asks again about a name that was never seen: it is perhaps misspelt, and the calls that were meant go on."""

from __future__ import annotations

from collections.abc import Sequence

from django import forms
from unfold.widgets import UnfoldBooleanWidget

from policies.seen import Unseen

# Of the tick, which is shown only when it is needed.
ANYWAY = "anyway"


def anyway_field(label: str) -> forms.BooleanField:
    return forms.BooleanField(label=label, required=False, widget=forms.HiddenInput)


def ask_again(form: forms.BaseForm, field: str, unseen: Sequence[Unseen]) -> None:
    """Call in `clean`, with those of the names in this field that were never seen."""
    tick, ticked = form.fields[ANYWAY], form.cleaned_data.get(ANYWAY)
    if unseen or ticked:
        tick.widget = UnfoldBooleanWidget()
    if unseen and not ticked:
        form.add_error(field, f"{unseen[0].says} Mend it, or tick “{tick.label}”.")
