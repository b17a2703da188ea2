"""What the Explorer is asked, beyond period and filters: which figure, by which names, in which order and steps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import date, datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.http import HttpRequest
from django.urls import reverse

from tenants.models import Environment
from usage.admin.asked import Asked
from usage.analytics import measures, used_quantities
from usage.analytics.answers import total
from usage.analytics.known_since import known_since
from usage.analytics.questions import (
    DIMENSIONS,
    MEASURES,
    OF_CALLS,
    OF_QUANTITIES,
    STEPS,
    Measure,
    Question,
    Rank,
    calls_for_a_mean,
)
from usage.analytics.shown_period import ShownPeriod
from usage.windows import Window

TOPS = (5, 10, 25, 100)
DEFAULTS = {
    "show": Measure.COST.value,
    "by": "model",
    "rank": Rank.AMOUNT.value,
    "top": str(TOPS[0]),
    "step": Window.DAY.value,
}
NONE = "none"
OTHER_QUANTITIES = "Other quantities"
_NAMES = [(name, name.capitalize()) for name in DIMENSIONS]


class ExplorerAsked(Asked):
    tab = "explorer"
    aside = ("format",)

    show = forms.ChoiceField(
        required=False, choices=[(each.value, measures.TITLES[each]) for each in MEASURES.values()]
    )
    by = forms.ChoiceField(required=False, choices=[*_NAMES, (NONE, "Nothing")])
    then = forms.ChoiceField(required=False, choices=[("", "Nothing"), *_NAMES], label="Then by")
    rank = forms.ChoiceField(
        required=False, choices=[(each.value, measures.RANKS[each]) for each in Rank], label="Order"
    )
    top = forms.TypedChoiceField(
        required=False, coerce=int, choices=[(str(top), f"{top} and Other") for top in TOPS], label="Top"
    )
    step = forms.ChoiceField(
        required=False,
        choices=[*((each.value, each.value.capitalize()) for each in STEPS), (NONE, "The whole period")],
        label="In steps of",
    )
    cumulative = forms.BooleanField(required=False, label="Add up")

    def __init__(self, request: HttpRequest, environment: Environment, now: datetime) -> None:
        super().__init__(request, environment, now)
        for name, value in DEFAULTS.items():
            if not self.given.get(name):
                self.given[name] = value
        self._offer_measures(())

    def offer(self, period: ShownPeriod) -> None:
        super().offer(period)
        self._offer_measures(self.quantities)

    def _offer_measures(self, quantities: Collection[str]) -> None:
        """What is asked for is among them, whether it was used or not."""
        chosen = self.given.get("show")
        of_calls = [(each.value, measures.TITLES[each]) for each in OF_CALLS]
        of_quantities = [
            (name, measures.TITLES[each])
            for name, each in OF_QUANTITIES.items()
            if name in quantities or name == chosen
        ]
        groups = [(OTHER_QUANTITIES, of_quantities)] if of_quantities else []
        self.fields["show"].widget.choices = [*of_calls, *groups]

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """Those of the map that this environment ever used. Raises DatabaseError."""
        return used_quantities.ever(self.environment.pk)

    def clean(self) -> dict[str, Any]:
        found = super().clean()
        if found.get("then") == found.get("by"):
            # Whoever changes the first need not clear the second.
            found["then"] = ""
        if found.get("then") and found.get("by") == NONE:
            self.add_error("then", "Choose first by what calls are told apart.")
        return found

    def question(self) -> Question:
        """Of a valid form. Raises DatabaseError."""
        asked, period = self.cleaned_data, self.cleaned_data["shown"]
        found = self._question(asked, period)
        if found.rank is not Rank.PER_CALL:
            return found
        calls = total(self.environment.pk, found.period, found.filters)["requests"]
        return replace(found, calls_min=calls_for_a_mean(calls))

    def _question(self, asked: dict[str, Any], period: ShownPeriod) -> Question:
        return Question(
            measure=MEASURES[asked["show"]],
            period=period.days.range,
            before=period.before.range,
            group=None if asked["by"] == NONE else asked["by"],
            part=asked["then"] or None,
            filters=self.filters,
            top=asked["top"],
            rank=Rank(asked["rank"]),
            step=None if asked["step"] == NONE else Window(asked["step"]),
        )

    @cached_property
    def known_since(self) -> date | None:
        """Of a valid form. The day of the first call, if the period before begins earlier: nothing is compared then."""
        return known_since(self.environment.pk, self.cleaned_data["shown"], self.zone)

    @property
    def own_query(self) -> dict[str, str]:
        """The page's own questions, for an address."""
        own = {name: self.given.get(name) for name in (*DEFAULTS, "then", "cumulative")}
        return {name: text for name, text in own.items() if text}

    @property
    def whole_query(self) -> str:
        """All that is asked."""
        return urlencode(self.parameters(**self.own_query), doseq=True)

    def address(self, name: str = "explorer", **changed: str | list[str]) -> str:
        """Of another page under the same question, but for what is changed."""
        query = self.parameters(**{**self.own_query, **changed})
        return f"{reverse(f'admin:{name}')}?{urlencode(query, doseq=True)}"
