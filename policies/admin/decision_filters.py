"""The filters of the list of blocked calls, as a form that stands above it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.timezone import localdate

from policies.describing import reason_words
from policies.models import BlockedDecision, Policy
from tenants.console.filter_forms import FilterForm
from tenants.lengths import NAME_LENGTH_MAX, REQUEST_ID_LENGTH_MAX
from tenants.models import Environment

POLICIES_OFFERED_MAX = 500
KEYS_OFFERED_MAX = 500
ID_MAX = 2**63 - 1
YEAR_MIN, YEAR_MAX = 1970, 9998
# Filters that the page of block trends has too, under the same names.
OF_TRENDS = ("reason", "user", "feature", "plan", "model", "policy", "run")


class WhenField(forms.DateTimeField):
    """In the zone of the page, to the minute. Links give the offset from UTC, too: an hour may come twice."""

    widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")

    def to_python(self, value: Any) -> datetime | None:
        found: datetime | None = super().to_python(value)
        if found is not None and not YEAR_MIN <= found.year <= YEAR_MAX:
            raise forms.ValidationError(f"Give a time of the years {YEAR_MIN} to {YEAR_MAX}.")
        return found

    def bound_data(self, data: Any, initial: Any) -> Any:
        """As the input can show it, without the offset."""
        try:
            return self.to_python(data)
        except forms.ValidationError:
            return data


class DecisionFilters(FilterForm):
    """Each is optional; names are matched whole. `before`: only decisions older than this one."""

    apart = frozenset({"before"})

    reason = forms.ChoiceField(required=False)
    user = forms.CharField(required=False, max_length=NAME_LENGTH_MAX, strip=False)
    feature = forms.CharField(required=False, max_length=NAME_LENGTH_MAX, strip=False)
    plan = forms.CharField(required=False, max_length=NAME_LENGTH_MAX, strip=False)
    model = forms.CharField(required=False, max_length=NAME_LENGTH_MAX, strip=False)
    policy = forms.ChoiceField(required=False)
    key = forms.ChoiceField(required=False, label="API key")
    run = forms.CharField(required=False, max_length=NAME_LENGTH_MAX, strip=False)
    request = forms.CharField(
        required=False, max_length=REQUEST_ID_LENGTH_MAX, strip=False, label="Request id"
    )
    since = WhenField(required=False)
    until = WhenField(required=False)
    before = forms.IntegerField(required=False, min_value=1, max_value=ID_MAX, widget=forms.HiddenInput)

    def __init__(self, environment: Environment, data: Any) -> None:
        super().__init__(data)
        self._environment = environment
        self.fields["reason"].choices = [("", "Any"), *reason_words.of_blocks()]  # type: ignore[attr-defined]
        names = Policy.objects.filter(environment=environment).order_by("name").values_list("pk", "name")
        offered = [(str(pk), name) for pk, name in names[:POLICIES_OFFERED_MAX]]
        self.fields["policy"].choices = [("", "Any"), *offered]  # type: ignore[attr-defined]
        keys = environment.api_keys.order_by("name", "key_id")[:KEYS_OFFERED_MAX]
        self.fields["key"].choices = [("", "Any"), *((str(key.pk), str(key)) for key in keys)]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        since, until = found.get("since"), found.get("until")
        if since and until and since >= until:
            self.add_error("until", "This is not after the beginning.")
        return found

    def of_trends(self) -> dict[str, str]:
        """What the page of block trends can be asked too. Its periods are whole days, and begin at one."""
        found = self.cleaned_data if self.is_valid() else {}
        names = {name: found[name] for name in OF_TRENDS if found.get(name)}
        since, until = found.get("since"), found.get("until")
        if since is None:
            return names
        # The end is not in it.
        last = localdate(until - timedelta(microseconds=1)) if until else max(localdate(), localdate(since))
        return {**names, "period": "custom", "from": f"{localdate(since)}", "to": f"{last}"}

    def decisions(self) -> QuerySet[BlockedDecision]:
        """The newest first. None, if a filter cannot be read."""
        if not self.is_valid():
            return BlockedDecision.objects.none()
        columns = {
            "reason_code": self.cleaned_data["reason"],
            "user_id": self.cleaned_data["user"],
            "feature": self.cleaned_data["feature"],
            "plan": self.cleaned_data["plan"],
            "model": self.cleaned_data["model"],
            "run_id": self.cleaned_data["run"],
            "policy_id": self.cleaned_data["policy"],
            "api_key_id": self.cleaned_data["key"],
            "request_id": self.cleaned_data["request"],
            "decided_at__gte": self.cleaned_data["since"],
            "decided_at__lt": self.cleaned_data["until"],
            "id__lt": self.cleaned_data["before"],
        }
        wanted = {column: value for column, value in columns.items() if value}
        return BlockedDecision.objects.filter(environment=self._environment, **wanted).order_by("-id")
