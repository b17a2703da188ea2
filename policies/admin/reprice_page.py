"""Re-pricing the calls of an open month: what it would change, and the button that does it."""

from __future__ import annotations

import logging
from datetime import date

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone

from policies import repricing
from policies.repricing import Differs, NotOpen, Seen
from tenants.console import environments
from tenants.console.access import actor_of, may
from tenants.console.pages import page, refuse_unknown, rendered
from tenants.models import Environment
from tenants.roles import May
from usage import wording
from usage.settling.repricing import Asked, OfModel, TooMany, preview

logger = logging.getLogger("tokvigil.prices")

MAY = May.EDIT_PRICES
# What a page works out while somebody waits; more are left to the command.
CALLS_MAX = 50_000
MODELS_SHOWN = 100


class MonthForm(forms.Form):
    """And what its preview said, which the button that does it sends back."""

    month = forms.ChoiceField(required=False)
    changed = forms.IntegerField(required=False)
    difference_nano = forms.IntegerField(required=False)

    def __init__(self, environment: Environment, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        months = repricing.open_months(environment, timezone.now())[::-1]
        self.fields["month"].choices = [(f"{each:%Y-%m}", f"{each:%B %Y}") for each in months]  # type: ignore[attr-defined]
        self._newest = months[0]

    @property
    def chosen(self) -> date:
        """This month, unless another one that is open is chosen."""
        text = self.cleaned_data["month"] if self.is_valid() else ""
        return date.fromisoformat(f"{text}-01") if text else self._newest

    @property
    def seen(self) -> Seen | None:
        changed, difference = self.cleaned_data["changed"], self.cleaned_data["difference_nano"]
        return None if changed is None or difference is None else Seen(changed, difference)


class Row:
    """A model of the table, in words."""

    def __init__(self, figures: OfModel) -> None:
        self.model = figures.model
        self.calls, self.changed = wording.count(figures.calls), wording.count(figures.changed)
        self.before, self.after = (
            wording.money_rounded(nano, places=6) for nano in (figures.before_nano, figures.after_nano)
        )
        self.difference = wording.money_rounded(figures.difference_nano, places=6)
        self.stays = [f"{wording.counted(calls, 'call')}: {why}" for why, calls in figures.left.most_common()]
        if figures.kept:
            kept = wording.counted(figures.kept, "call")
            self.stays.append(f"{kept}: no price or rate now, left as charged")


@page("reprice", "reprice/")
def reprice(request: HttpRequest) -> HttpResponse:
    environment = environments.meant(request)
    if not may(request, MAY, environment.tenant_id):
        raise PermissionDenied
    refuse_unknown(request.GET, {"month", environments.PARAMETER})
    form = MonthForm(environment, request.POST if request.method == "POST" else request.GET)
    days = repricing.of_month(form.chosen)
    try:
        question = repricing.asked(environment, days, calls_max=CALLS_MAX)
        if request.method == "POST" and form.is_valid():
            return _apply(request, environment, days, question, form.seen)
        found, trouble = preview(question), ""
    except Differs:
        found, trouble = preview(question), ""
        messages.warning(
            request, "Prices or calls have changed since this page was opened. Look at it again."
        )
    except (DatabaseError, NotOpen, TooMany) as error:
        found, trouble = None, _trouble(environment, form.chosen, error)
    listed = [] if found is None else found.listed
    return rendered(
        request,
        "console/reprice.html",
        "Re-price calls",
        environment=environment,
        form=form,
        month=form.chosen,
        trouble=trouble,
        rows=list(map(Row, listed[:MODELS_SHOWN])),
        more=max(0, len(listed) - MODELS_SHOWN),
        total=None if found is None else Row(found.total),
        seen=None if found is None else Seen.of(found),
        prices_url=_prices(environment),
    )


def _apply(
    request: HttpRequest, environment: Environment, days: repricing.Days, question: Asked, seen: Seen | None
) -> HttpResponse:
    found = repricing.apply(environment, days, question, actor=actor_of(request), seen=seen)
    total = found.total
    messages.success(
        request,
        f"{wording.counted(total.changed, 'call')} re-priced: {wording.money(total.difference_nano)} in all."
        if total.changed
        else "Nothing was re-priced: all calls are charged by the prices in force.",
    )
    return HttpResponseRedirect(_prices(environment))


def _trouble(environment: Environment, month: date, error: Exception) -> str:
    command = f"python manage.py reprice {environment} --month {month:%Y-%m}"
    if isinstance(error, TooMany):
        calls = f"more than {wording.count(CALLS_MAX)} calls"
        return f"The month has {calls}, which takes longer than a page may: run {command}."
    if isinstance(error, NotOpen):
        return str(error)
    logger.warning("calls of %s not re-priced: %s", environment, error)
    return f"The ledger did not answer in time. What was re-priced till then stays; go on with {command}."


def _prices(environment: Environment) -> str:
    return reverse("admin:usage_modelprice_changelist", query={environments.PARAMETER: str(environment)})
