"""A form asks again about what is probably not meant, such as a name that was never seen: it is perhaps misspelt.

A question keeps the form from being saved as an error does, but is shown as a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from unfold.widgets import UnfoldBooleanWidget

from policies.seen import Unseen

# Of the tick, which is shown only when it is needed.
ANYWAY = "anyway"


class AskingForm(forms.BaseForm):
    """`asked`: the fields beside which there is a question, not an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: set[str] = set()

    @property
    def only_asks(self) -> bool:
        return bool(self.asked) and self.asked >= self.errors.keys()


def anyway_field(label: str) -> forms.BooleanField:
    return forms.BooleanField(label=label, required=False, widget=forms.HiddenInput)


def ask_about_unseen(form: AskingForm, field: str, unseen: Sequence[Unseen]) -> None:
    """Call in `clean`, with those of the names in this field that were never seen."""
    ask_again(form, field, unseen[0].says if unseen else "", "Mend it")


def ask_again(form: AskingForm, field: str, doubt: str, mend: str) -> None:
    """Call in `clean`. Without a doubt (\"\") there is nothing to ask."""
    tick, ticked = form.fields[ANYWAY], form.cleaned_data.get(ANYWAY)
    if doubt or ticked:
        tick.widget = UnfoldBooleanWidget()
    if doubt and not ticked:
        ask(form, field, f"{doubt} {mend}, or tick “{tick.label}”.")


def ask(form: AskingForm, field: str, question: str) -> None:
    """Call in `clean`: the form is shown again, with the question beside the field."""
    if field not in form.errors:
        form.asked.add(field)
    form.add_error(field, question)
