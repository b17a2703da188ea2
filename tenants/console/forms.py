"""Forms of the admin. Saving one writes what was edited; older values never overwrite newer ones."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.contrib.postgres.forms import SimpleArrayField
from unfold.forms import UserChangeForm
from unfold.widgets import UnfoldAdminTextareaWidget

_LINE_END = re.compile(r"\r\n|\r|\n")


class LinesField(SimpleArrayField):
    """One entry a line. Surrounding blanks are kept if the entries' field does not strip them."""

    def __init__(self, base_field: forms.CharField, **kwargs: Any) -> None:
        widget = UnfoldAdminTextareaWidget(attrs={"rows": 4})
        super().__init__(base_field, delimiter="\n", widget=widget, **kwargs)

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str):
            value = [line for line in _LINE_END.split(value) if line.strip()]
        return super().to_python(value)


class RowForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form that carries a hidden copy of each field as it was when the page was opened.

    A field that was not edited takes the row's current value. A field that was edited, and that somebody else changed
    meanwhile, is refused, so that neither change is lost silently.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Django itself sends a copy of fields whose default changes. What cannot be edited, such as the hash of a
        # password, is not sent.
        copied = [
            field for field in self.fields.values() if not (field.show_hidden_initial or field.disabled)
        ]
        self._copied = [] if self.instance._state.adding else copied
        for field in self._copied:
            field.show_hidden_initial = True

    def _clean_fields(self) -> None:
        super()._clean_fields()  # type: ignore[misc]
        if self.instance._state.adding:
            return
        if not self._carries_what_it_said():
            # Without hidden copies, such as from a script, every submitted value counts.
            for field in self._copied:
                field.show_hidden_initial = False
            return
        meta = self.instance._meta
        columns = {column.name for column in (*meta.concrete_fields, *meta.many_to_many)}
        for name, field in self.fields.items():
            if name in columns and field.show_hidden_initial:
                self._merge(name)

    def _carries_what_it_said(self) -> bool:
        # Hidden copies of empty values may be missing, so one copy is enough to tell.
        copies = [
            self[name].html_initial_name for name, field in self.fields.items() if field in self._copied
        ]
        # Dates have their parts numbered: initial-expires_at_0.
        return any(name in self.data or f"{name}_0" in self.data for name in copies)

    def _merge(self, name: str) -> None:
        field, bound = self.fields[name], self[name]
        if name not in self.changed_data:
            if name not in self.errors:
                column = self.instance._meta.get_field(name)
                self.cleaned_data[name] = (
                    column.value_from_object(self.instance)
                    if column.many_to_many
                    else getattr(self.instance, name)
                )
            return
        opened = field.hidden_widget().value_from_datadict(self.data, self.files, bound.html_initial_name)
        now = self.get_initial_for_field(field, name)
        if field.has_changed(now, opened) and field.has_changed(now, bound.data):
            self.add_error(
                name, "Somebody else changed this since the page was opened; open it again to see how."
            )


class AccountForm(RowForm, UserChangeForm):
    """The form of a user. A user who was deactivated meanwhile stays deactivated."""
