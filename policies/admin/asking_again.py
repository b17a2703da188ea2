"""A form asks again about what is probably not meant, such as a name that was never seen: it is perhaps misspelt."""

from __future__ import annotations

from collections.abc import Sequence

from django import forms
from unfold.widgets import UnfoldBooleanWidget

from policies.seen import Unseen

# Of the tick, which is shown only when it is needed.
ANYWAY = "anyway"


def anyway_field(label: str) -> forms.BooleanField:
    return forms.BooleanField(label=label, required=False, widget=forms.HiddenInput)


def ask_about_unseen(form: forms.BaseForm, field: str, unseen: Sequence[Unseen]) -> None:
    """Call in `clean`, with those of the names in this field that were never seen."""
    ask_again(form, field, unseen[0].says if unseen else "", "Mend it")


def ask_again(form: forms.BaseForm, field: str, doubt: str, mend: str) -> None:
    """Call in `clean`. Without a doubt (\"\") there is nothing to ask."""
    tick, ticked = form.fields[ANYWAY], form.cleaned_data.get(ANYWAY)
    if doubt or ticked:
        tick.widget = UnfoldBooleanWidget()
    if doubt and not ticked:
        form.add_error(field, f"{doubt} {mend}, or tick “{tick.label}”.")
