"""Suggest a limit: the amounts that would have blocked a chosen share of users, or of the money, in a past period."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
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
from policies.replaying.suggesting import WINDOWS, Asked, Peak, Suggested
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
# Of those whom an amount would have blocked: beside it, and in the list behind its number.
NAMED_BESIDE, NAMED_MAX = 3, 1_000
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
    # The first of them, and how many more there are.
    first: tuple[Who, ...]
    more: str


@dataclass(frozen=True, slots=True)
class Who:
    """A subject: its user, if it is one, and its other name. `most`: what it asked for at most in a window."""

    user_id: str
    name: str
    most: str


@dataclass(frozen=True, slots=True)
class List:
    """Those whom one of the amounts would have blocked, behind its number; NAMED_MAX at most."""

    limit: str
    blocked: str
    who: tuple[Who, ...]
    is_cut: bool


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
    share = forms.IntegerField(
        label="How much of it, in %",
        required=False,
        min_value=1,
        max_value=99,
        widget=forms.NumberInput(attrs={"class": "tv-input", "min": 1, "max": 99}),
        help_text="Empty: 1, 5, 10, 25 and 50 %.",
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
    def shares(self) -> tuple[Fraction, ...]:
        typed = self.cleaned_data["share"]
        return suggesting.SHARES if typed is None else (Fraction(typed, 100),)

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
    found = _found(shown, form, listed=request.GET.get("who", "")) if form.is_valid() else {}
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


def _found(environment: Environment, form: SuggestForm, *, listed: str) -> dict[str, Any]:
    """`listed`: the amount behind whose number a list is asked for."""
    zone = ZoneInfo(environment.tenant.timezone)
    start, end = named(Named(form.cleaned_data["period"]), timezone.now(), zone)
    asked, of_money = form.asked, form.cleaned_data["of"] == MONEY
    suggest = suggesting.of_money if of_money else suggesting.of_subjects
    period = Period(start, end)
    try:
        with at_most(LEDGER_MS_MAX):
            found = suggest(environment, asked, period, form.shares)
            lowest = min(each.amount for each in found)
            peaks = suggesting.blocked_by(environment, asked, period, lowest, NAMED_MAX + 1)
    except DatabaseError:
        return {"too_long": True}
    into = suggested_policy.goes_into(asked, policy_rows.in_force(environment.pk))
    # Of few, or of many alike, a small share is nobody, and two shares may have one amount.
    apart = {each.amount: each for each in found if each.blocked}
    chosen = apart.get(int(listed)) if _AMOUNT.fullmatch(listed) else None
    return {
        "start": start,
        "end": end,
        "suggestions": [_shown(each, asked, peaks, of_money=of_money) for each in apart.values()],
        "listed": None if chosen is None else _list(chosen, asked, peaks),
        "one_window": f"in one {asked.window.value}",
        "subjects": found[0].subjects,
        "highest": wording.limit_of(asked.kind, found[0].amount),
        "in_force": [
            (each.policy, wording.limit_of(asked.kind, each.limit.amount))
            for each in suggested_policy.in_force(environment, asked)
        ],
        "goes_into": None if into is None else into.name,
        "counts_more": suggesting.counts_more(asked),
        "counts_blocked": suggesting.counts_blocked(asked),
        "of_money": of_money,
        "on_cost": asked.metric is Metric.COST_USD,
    }


def _shown(each: Suggested, asked: Asked, peaks: Sequence[Peak], *, of_money: bool) -> ShownSuggestion:
    first = _who(each, asked, peaks)[:NAMED_BESIDE]
    more = each.blocked - len(first)
    return ShownSuggestion(
        share=f"{each.share_percent} %" if of_money else wording.share(each.blocked, each.subjects),
        amount=each.amount,
        limit=wording.limit_of(asked.kind, each.amount),
        blocked=f"{wording.count(each.blocked)} of {wording.count(each.subjects)}",
        calls="" if each.blocked_calls is None else wording.count(each.blocked_calls),
        saved="" if each.saved_nano is None else wording.money_rounded(each.saved_nano),
        first=first if asked.per is not Per.ENVIRONMENT else (),
        more=wording.count(more) if more else "",
    )


def _list(each: Suggested, asked: Asked, peaks: Sequence[Peak]) -> List:
    return List(
        limit=wording.limit_of(asked.kind, each.amount),
        blocked=f"{wording.count(each.blocked)} of {wording.count(each.subjects)}",
        who=_who(each, asked, peaks)[:NAMED_MAX],
        is_cut=each.blocked > NAMED_MAX,
    )


def _who(each: Suggested, asked: Asked, peaks: Sequence[Peak]) -> tuple[Who, ...]:
    """Those of the lowest amount begin with those of every higher one."""
    return tuple(_named(peak, asked) for peak in peaks if peak.amount > each.amount)


def _named(peak: Peak, asked: Asked) -> Who:
    is_user = asked.per in (Per.USER, Per.USER_FEATURE)
    user_id = peak.names[0] if is_user else ""
    names = peak.names[is_user:] if peak.names else (wording.subject(asked.per),)
    is_cost = asked.metric is Metric.COST_USD
    most = wording.money_rounded(peak.amount) if is_cost else wording.amount(asked.metric, peak.amount)
    return Who(user_id, ", ".join(names), most)
