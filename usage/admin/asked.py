"""What all pages of usage over a period are asked for in their addresses: the period, and whose calls.

A page makes an `Asked` of the request, shows `console/parts/asked.html` above its content, and goes on if `shown` is a
period. What was typed and cannot be read stands in its field, with what is wrong beside it, and there are no figures.
Names are matched whole. `without` says of which kinds of names a call has none: no name can say that, for a feature may
be called anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.forms import BoundField
from django.http import HttpRequest
from django.urls import reverse

from tenants.console import display, environments, pages
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import Environment
from usage.analytics import names
from usage.analytics.questions import DIMENSIONS
from usage.analytics.shown_period import DEFAULT, PARAMETERS, Named, NotAPeriod, ShownPeriod, shown_period

# What a call may have none of.
MAY_LACK = ("feature", "plan", "run")
PERIOD = PARAMETERS
SHARED = (*PERIOD, *DIMENSIONS, "without")
PERIODS = (
    (Named.TODAY.value, "Today"),
    (Named.YESTERDAY.value, "Yesterday"),
    (Named.LAST_7_DAYS.value, "Last 7 days"),
    (Named.LAST_WEEK.value, "Last week"),
    (Named.LAST_30_DAYS.value, "Last 30 days"),
    (Named.THIS_MONTH.value, "This month"),
    (Named.LAST_MONTH.value, "Last month"),
    (Named.CUSTOM.value, "From … to …"),
)
# Pages of usage over a period, by the names of their addresses. One that is not declared is left out.
TABS = (
    ("index", "Overview"),
    ("explorer", "Explorer"),
    ("blocked", "Block trends"),
    ("budgets", "Budgets"),
    ("health", "Health"),
)


@dataclass(frozen=True, slots=True)
class Tab:
    title: str
    url: str
    current: bool


@dataclass(frozen=True, slots=True)
class Unseen:
    """A filter that has no field to see: in words, and the query without it."""

    says: str
    query_without: str


class NameField(forms.CharField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, max_length=NAME_LENGTH_MAX, strip=False, **kwargs)


class DayField(forms.DateField):
    def __init__(self, label: str) -> None:
        widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
        super().__init__(required=False, label=label, widget=widget, input_formats=["%Y-%m-%d"])


class Asked(forms.Form):
    """A page with questions of its own derives from this and adds fields, all optional.

    `from` and `to` are the days of a custom period, both included; the name of another period leaves them aside.
    """

    period = forms.ChoiceField(required=False, choices=PERIODS)
    user = NameField()
    feature = NameField(widget=forms.Select)
    plan = NameField(widget=forms.Select)
    model = NameField(widget=forms.Select)
    run = NameField(widget=forms.HiddenInput)
    without = forms.MultipleChoiceField(
        required=False, choices=[(name, name) for name in MAY_LACK], widget=forms.MultipleHiddenInput
    )

    # Parameters of an address that are no fields: of a page of rows, or of an export.
    aside: tuple[str, ...] = ()
    # Of the page that shows it; "": it is none of the pages that the tabs lead to.
    tab = ""
    # Where on the page the answer stands; "": at the top.
    anchor = ""
    # False: a page of rows, which shows those of any time, and has parameters of its own.
    needs_period = True
    # What an address without a period asks for.
    default = DEFAULT
    # Fields of the page's own that leave calls out, as those of names do.
    own_filters: tuple[str, ...] = ()

    def __init__(self, request: HttpRequest, environment: Environment, now: datetime) -> None:
        """Raises BadRequest for parameters that the page does not have."""
        self.request, self.environment, self.now = request, environment, now
        self.zone = ZoneInfo(environment.tenant.timezone)
        given = request.GET.copy()
        given.pop(environments.PARAMETER, None)
        if self.needs_period:
            given.setdefault("period", self.default.value)
        self.given = given
        super().__init__(given)
        self.fields["from"], self.fields["to"] = DayField("From"), DayField("To")
        self.order_fields(["period", "from", "to"])
        self._offer(names.Names())
        if self.needs_period:
            pages.refuse_unknown(given, {*self.fields, *self.aside})

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        found["shown"] = None
        if (found.get("period") or self.needs_period) and not {"period", "from", "to"} & set(self.errors):
            try:
                found["shown"] = self._period(found)
            except NotAPeriod as error:
                self.add_error(error.field, str(error))
        for name in found.get("without", ()):
            if found.get(name):
                self.add_error(name, f"This asks for calls without a {name} at the same time.")
        return found

    def _period(self, found: dict[str, Any]) -> ShownPeriod:
        named = Named(found["period"] or self.default)
        return shown_period(named, self.now, self.zone, found["from"], found["to"])

    @cached_property
    def shown(self) -> ShownPeriod | None:
        """None: something that was typed cannot be read, or the page needs no period and none is asked for."""
        if not self.is_valid() or self.cleaned_data["shown"] is None:
            return None
        period: ShownPeriod = self.cleaned_data["shown"]
        self.offer(period)
        return period

    def offer(self, period: ShownPeriod) -> None:
        """To choose from what was used in it."""
        self._offer(names.used_in(self.environment.pk, period.days.range))

    def _offer(self, found: names.Names) -> None:
        """What is asked for is among them, whether it was used or not."""
        for name in names.COLUMNS:
            offered = sorted({*getattr(found, name), self.given.get(name, "")} - {""})
            self.fields[name].widget.choices = [("", "Any"), *((each, each) for each in offered)]

    @property
    def filters(self) -> dict[str, str]:
        """By column of the ledger; empty: it has none."""
        named = {DIMENSIONS[name]: self.cleaned_data[name] for name in DIMENSIONS if self.cleaned_data[name]}
        return named | {DIMENSIONS[name]: "" for name in self.cleaned_data["without"]}

    @property
    def set_count(self) -> int:
        """How many filters are set. The period is none of them: it is in sight."""
        names = sum(bool(self.given.get(name)) for name in (*DIMENSIONS, *self.own_filters))
        return names + len(self.given.getlist("without"))

    @property
    def is_folded(self) -> bool:
        """Where the page is narrow; a form of a period alone is short enough."""
        return {field.name for field in (*self.own_fields, *self.shared_fields)} > {*PERIOD}

    @property
    def query(self) -> str:
        """Of the period and the filters, for an address of any of the pages."""
        return urlencode(self.parameters(), doseq=True)

    def parameters(self, **changed: str | list[str]) -> dict[str, Any]:
        """The same to be changed first; what becomes empty is left out."""
        kept = {name: self.given.getlist(name) for name in SHARED}
        if kept["period"] != [Named.CUSTOM]:
            kept["from"], kept["to"] = [], []
        return {name: value for name, value in {**kept, **changed}.items() if value and value != [""]}

    def user_url(self, user_id: str) -> str:
        """Of the page of an end user, over the same period."""
        period = {name: value for name, value in self.parameters().items() if name in PERIOD}
        return display.user_url(self.environment, user_id, period)

    @property
    def kept(self) -> list[tuple[str, str]]:
        """Parameters of the page that go along with a changed period."""
        return []

    @property
    def own_fields(self) -> list[BoundField]:
        """Of the page alone."""
        return [field for field in self.visible_fields() if field.name not in SHARED]

    @property
    def shared_fields(self) -> list[BoundField]:
        return [field for field in self.visible_fields() if field.name in SHARED]

    @property
    def unseen(self) -> list[Unseen]:
        found = []
        if run := self.given.get("run"):
            found.append(Unseen(f"Only run {run}", self._query_of_page(run=[])))
        lacks = self.given.getlist("without")
        for name in lacks:
            rest = [other for other in lacks if other != name]
            found.append(Unseen(f"Only calls without a {name}", self._query_of_page(without=rest)))
        return found

    def _query_of_page(self, **changed: list[str]) -> str:
        """With the page's own questions."""
        own = {field.name: self.given.getlist(field.name) for field in self.own_fields}
        return urlencode(self.parameters(**own, **changed), doseq=True)

    @property
    def tabs(self) -> list[Tab]:
        """A period that nobody chose stays behind: each page has its own."""
        declared = pages.declared()
        unchosen: dict[str, list[str]] = {} if "period" in self.request.GET else {name: [] for name in PERIOD}
        query = urlencode(self.parameters(**unchosen), doseq=True)
        return [
            Tab(title, f"{reverse(f'admin:{name}')}?{query}", name == self.tab)
            for name, title in TABS
            if name == "index" or (name in declared and declared[name].may_view(self.request))
        ]
