"""Suggest a limit: the amounts that would have blocked a chosen share of users, or of the money, in a past period."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from policies import policy_rows
from policies.admin import finding, into_a_draft
from policies.changing.known_names import KnownNames, known_names
from policies.replaying import suggested_policy, suggesting
from policies.replaying.named_periods import WORDS, Named, named
from policies.replaying.suggesting import WINDOWS, Asked, Suggested
from policies.rules import COUNT_LIMIT_MAX
from tenants.console import environments
from tenants.console.pages import page, rendered
from tenants.models import Environment
from usage import wording
from usage.amounts import Per
from usage.ledger.leading import at_most
from usage.ledger.periods import Period
from usage.metrics import Metric
from usage.windows import Window

_AMOUNT = re.compile(r"[0-9]{1,16}")
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
    """`share`: of those that it counts for what would be blocked, or of the money what was asked for. `amount` is that
    of the form behind its button. `limit` is what a policy would say, as words; `calls` and `saved` are empty where
    they are not known.
    """

    share: str
    amount: int
    limit: str
    blocked: str
    calls: str
    saved: str


def _select() -> forms.Select:
    return forms.Select(attrs={"class": "tv-input"})


class SuggestForm(forms.Form):
    """Offers the plans and features that there are or that were seen; all, if it took too long to find these."""

    def __init__(self, given: dict[str, str], names: KnownNames) -> None:
        super().__init__(given)
        for field, known, all_of in (
            ("plan", names.plans, "All plans"),
            ("feature", names.features, "All features"),
        ):
            asked = [given[field]] if given.get(field) and not names.seen else []
            choices = [("", all_of), *((name, name) for name in dict.fromkeys((*known, *asked)))]
            self.fields[field].choices = choices  # type: ignore[attr-defined]

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
    plan = forms.ChoiceField(label="On the plan", required=False, widget=_select())
    feature = forms.ChoiceField(
        required=False, widget=_select(), help_text="Features that were called in the last 7 days."
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
    """What is not in the address is asked as FIRST has it. A POST puts one of the amounts into a draft."""
    shown = environments.shown(request)
    if shown is None:
        raise PermissionDenied
    form = SuggestForm(FIRST | request.GET.dict(), known_names(shown))
    if request.method == "POST":
        return _into_a_draft(request, shown, form)
    found = _found(shown, form) if form.is_valid() else {}
    return rendered(
        request,
        "console/policies/suggested_limits.html",
        "Suggest a limit",
        form=form,
        may_change=finding.may_change(request, shown.tenant_id),
        **found,
    )


def _into_a_draft(request: HttpRequest, environment: Environment, form: SuggestForm) -> HttpResponse:
    finding.require_change(request, environment.tenant_id)
    amount = request.POST.get("amount", "")
    if not form.is_valid() or not _AMOUNT.fullmatch(amount) or int(amount) > COUNT_LIMIT_MAX:
        raise BadRequest("Choose one of the amounts that the page suggests.")
    rule, instead_of = suggested_policy.policy(form.asked, int(amount), policy_rows.in_force(environment.pk))
    put = into_a_draft.put(request, environment, rule, instead_of=instead_of)
    return put or redirect(request.get_full_path())


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
    into = suggested_policy.goes_into(asked, policy_rows.in_force(environment.pk))
    # Of few, or of many alike, a small share is nobody, and two shares may have one amount.
    apart = {each.amount: each for each in found if each.blocked}
    return {
        "start": start,
        "end": end,
        "suggestions": [_shown(each, asked, of_money=of_money) for each in apart.values()],
        "subjects": found[0].subjects,
        "highest": wording.limit_of(asked.metric, asked.window, asked.per, found[0].amount),
        "in_force": [
            (each.policy, wording.limit_of(asked.metric, asked.window, asked.per, each.limit.amount))
            for each in suggested_policy.in_force(environment, asked)
        ],
        "goes_into": None if into is None else into.name,
        "counts_more": suggesting.counts_more(asked),
        "counts_blocked": suggesting.counts_blocked(asked),
        "of_money": of_money,
        "on_cost": asked.metric is Metric.COST_USD,
    }


def _shown(each: Suggested, asked: Asked, *, of_money: bool) -> ShownSuggestion:
    return ShownSuggestion(
        share=f"{each.share_percent} %" if of_money else wording.share(each.blocked, each.subjects),
        amount=each.amount,
        limit=wording.limit_of(asked.metric, asked.window, asked.per, each.amount),
        blocked=f"{wording.count(each.blocked)} of {wording.count(each.subjects)}",
        calls="" if each.blocked_calls is None else wording.count(each.blocked_calls),
        saved="" if each.saved_nano is None else wording.money_rounded(each.saved_nano),
    )
