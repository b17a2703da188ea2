"""The filters of the list of limits, as a form that stands above it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms

from policies.standing import limit_rows
from policies.standing.limit_rows import FULL, NEAR
from policies.standing.standings import Standing
from tenants.console.filter_forms import FilterForm
from usage import wording
from usage.amounts import Per
from usage.metrics import Metric

OVER = "over"
RUNS_OUT = "runs-out"
_METRICS = {
    Metric.REQUESTS: "Requests",
    Metric.TOKENS: "Tokens",
    Metric.INPUT_TOKENS: "Input tokens",
    Metric.OUTPUT_TOKENS: "Output tokens",
    Metric.COST_USD: "Cost",
    Metric.CONCURRENCY: "Calls at once",
}


class LimitFilters(FilterForm):
    """Each is optional."""

    apart = frozenset({"order"})

    state = forms.ChoiceField(
        required=False,
        choices=[
            ("", "Any"),
            (NEAR, "Somebody near it"),
            (FULL, "Somebody at it"),
            (OVER, "Monitored, and over"),
        ],
    )
    scope = forms.ChoiceField(
        required=False,
        label="Counted for",
        choices=[("", "Any"), *((per.value, wording.subject(per).capitalize()) for per in Per)],
    )
    metric = forms.ChoiceField(
        required=False, choices=[("", "Any"), *((metric.value, words) for metric, words in _METRICS.items())]
    )
    policy = forms.ChoiceField(required=False)
    order = forms.ChoiceField(required=False, choices=[("", "Tightest first"), (RUNS_OUT, "Runs out first")])

    def __init__(self, found: Iterable[Standing], data: Any) -> None:
        super().__init__(data)
        self._found = list(found)
        policies = {str(each.policy.pk): each.policy.name for each in self._found}
        named = sorted(policies.items(), key=lambda each: each[1])
        self.fields["policy"].choices = [("", "Any"), *named]  # type: ignore[attr-defined]

    def limits(self) -> list[Standing]:
        """In the order that is asked for. None, if a filter cannot be read."""
        if not self.is_valid():
            return []
        found = [each for each in self._found if self._fits(each)]
        if self.is_by_end:
            return limit_rows.first_to_run_out_first(found)
        return limit_rows.tightest_first(found)

    @property
    def is_by_end(self) -> bool:
        """They are listed by when they run out, in groups."""
        return self.is_valid() and self.cleaned_data["order"] == RUNS_OUT

    def _fits(self, standing: Standing) -> bool:
        asked = self.cleaned_data
        return (
            _is(standing, asked["state"])
            and asked["scope"] in ("", standing.limit.per)
            and asked["metric"] in ("", standing.limit.metric)
            and asked["policy"] in ("", str(standing.policy.pk))
        )


def _is(standing: Standing, state: str) -> bool:
    if state == OVER:
        return standing.watched and standing.full > 0
    if standing.watched:
        return not state
    return {NEAR: standing.near > 0, FULL: standing.full > 0}.get(state, True)
