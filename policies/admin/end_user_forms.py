"""What is asked for on the page of an end user."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from tenants.console.forms import RowForm
from tenants.lengths import REASON_LENGTH_MAX
from tenants.models import Environment


class PlanForm(forms.Form):
    plan = forms.ChoiceField(
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="A stored plan wins over the one that calls name.",
    )

    def __init__(self, environment: Environment, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = environment.plans.order_by("name").values_list("name", flat=True)
        field = self.fields["plan"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "As the call says"), *((name, name) for name in names)]


class EndUserForm(RowForm):
    """The reason that is left there when a user is unblocked goes with the block; one that is typed does not."""

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if "blocked_reason" in self.changed_data and given.get("blocked_reason") and not given.get("blocked"):
            self.add_error("blocked_reason", "Tick “Blocked” too: only a blocked user has a reason.")
        return given


class BlockForm(forms.Form):
    reason = forms.CharField(
        label="Reason to block",
        max_length=REASON_LENGTH_MAX,
        widget=UnfoldAdminTextInputWidget,
        help_text="For colleagues and the audit log; the user does not see it.",
    )
