"""Suggest a limit: the amounts that would have blocked a chosen share of users, or of the money, in a past period."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from policies.changing.known_names import KnownNames, known_names
from policies.replaying import suggesting
from policies.replaying.named_periods import WORDS, Named, named
from policies.replaying.suggesting import WINDOWS, Asked, Suggested
from tenants.console import environments
from tenants.console.pages import page, rendered
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from usage import wording
from usage.amounts import Per
from usage.ledger.leading import at_most
from usage.ledger.periods import Period
from usage.metrics import Metric
from usage.windows import Window

LEDGER_MS_MAX = 5_000
_METRICS = {
    Metric.REQUESTS: "Requests",
    Metric.TOKENS: "Tokens",
    Metric.INPUT_TOKENS: "Input tokens",
    Metric.OUTPUT_TOKENS: "Output tokens",
    Metric.COST_USD: "Cost in USD",
}
SUBJECTS, MONEY = "subjects", "money"


@dataclass(frozen=True, slots=True)
class ShownSuggestion:
    """`limit` is what a policy would say, as words; `saved` is empty of what is no limit on cost."""

    share: str
    limit: str
    blocked: str
    saved: str


def _select() -> forms.Select:
    return forms.Select(attrs={"class": "tv-input"})


def _name(names: str) -> forms.TextInput:
    return forms.TextInput(attrs={"class": "tv-input", "list": names, "autocomplete": "off"})


class SuggestForm(forms.Form):
    metric = forms.ChoiceField(
        label="A limit on",
        choices=[(each.value, words) for each, words in _METRICS.items()],
        widget=_select(),
    )
    window = forms.ChoiceField(
        label="In each", choices=[(each.value, each.value.capitalize()) for each in WINDOWS], widget=_select()
    )
    per = forms.ChoiceField(
        label="For",
        choices=[(each.value, wording.subject(each).capitalize()) for each in Per if each is not Per.RUN],
        widget=_select(),
    )
    of = forms.ChoiceField(
        label="That would have blocked a share of",
        choices=[(SUBJECTS, "Those it counts for"), (MONEY, "The money that was spent")],
        widget=_select(),
        help_text="A share of the money is for limits on cost.",
    )
    plan = forms.CharField(
        required=False,
        max_length=NAME_LENGTH_MAX,
        widget=_name("known-plans"),
        help_text="Empty: of all plans.",
    )
    feature = forms.CharField(
        required=False,
        max_length=NAME_LENGTH_MAX,
        widget=_name("known-features"),
        help_text="Empty: of all features.",
    )
    period = forms.ChoiceField(
        label="Calls of", choices=[(each.value, WORDS[each]) for each in Named], widget=_select()
    )

    def clean(self) -> dict[str, Any]:
        if self.cleaned_data.get("of") == MONEY and self.cleaned_data.get("metric") != Metric.COST_USD:
            self.add_error("of", "Choose a limit on cost, or a share of those it counts for.")
        return self.cleaned_data

    @property
    def asked(self) -> Asked:
        given = self.cleaned_data
        return Asked(
            metric=Metric(given["metric"]),
            window=Window(given["window"]),
            per=Per(given["per"]),
            plan=given["plan"],
            feature=given["feature"],
        )


FIRST: dict[str, str] = {
    "metric": Metric.REQUESTS.value,
    "window": Window.DAY.value,
    "per": Per.USER.value,
    "of": SUBJECTS,
    "period": Named.LAST_30_DAYS.value,
}


@page("suggested_limits", "replays/suggested/")
def suggested_limits(request: HttpRequest) -> HttpResponse:
    """What is not in the address is asked as FIRST has it."""
    shown = environments.shown(request)
    if shown is None:
        raise PermissionDenied
    form = SuggestForm(FIRST | request.GET.dict())
    found = _found(shown, form) if form.is_valid() else {}
    names: KnownNames = known_names(shown)
    return rendered(
        request, "console/policies/suggested_limits.html", "Suggest a limit", form=form, names=names, **found
    )


def _found(environment: Environment, form: SuggestForm) -> dict[str, Any]:
    zone = ZoneInfo(environment.tenant.timezone)
    start, end = named(Named(form.cleaned_data["period"]), timezone.now(), zone)
    asked, of_money = form.asked, form.cleaned_data["of"] == MONEY
    suggest = suggesting.of_money if of_money else suggesting.of_subjects
    try:
        with at_most(LEDGER_MS_MAX):
            found = suggest(environment, asked, Period(start, end))
    except DatabaseError:
        return {"too_long": True}
    return {
        "start": start,
        "end": end,
        "suggestions": [_shown(each, asked, of_money=of_money) for each in found if each.subjects],
        "on_cost": asked.metric is Metric.COST_USD,
    }


def _shown(each: Suggested, asked: Asked, *, of_money: bool) -> ShownSuggestion:
    return ShownSuggestion(
        share=f"{each.share_percent} %",
        limit=wording.limit_of(asked.metric, asked.window, asked.per, each.amount),
        blocked=f"{wording.count(each.blocked)} of {wording.count(each.subjects)}",
        saved="" if each.saved_nano is None else wording.money_rounded(each.saved_nano),
    )
