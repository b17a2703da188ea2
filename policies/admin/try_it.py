"""Try it: callers in each environment, what would be decided of them, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone

from policies.admin import finding
from policies.changing import drafts
from policies.deciding.evaluation import Evaluated
from policies.describing.trace import Explanation
from policies.files.file_errors import PolicyFileError
from policies.models import Draft, NamedCaller
from policies.resolution import StoredPolicy
from policies.trying import explaining, try_it
from tenants.api.problems import Problem
from tenants.console import environments
from tenants.console.access import actor_of
from tenants.console.pages import page, rendered
from tenants.lengths import NAME_LENGTH_MAX, TITLE_LENGTH_MAX
from tenants.models import Environment
from usage import wording
from usage.amounts import TOKENS_MAX
from usage.counting.store import StoreUnavailable

ENVIRONMENTS_MAX = 8
# In the order in which changes go through them; others after these.
_ORDER = ("dev", "staging", "prod")
TYPED, DRAFT = "typed", "draft"
_CANNOT_BE_ASKED = (DatabaseError, InterfaceError, StoreUnavailable, Problem)


def _text(label: str, *, required: bool = False, help_text: str = "") -> forms.CharField:
    # Any text can be a name, blanks included.
    widget = forms.TextInput(attrs={"class": "tv-input"})
    return forms.CharField(
        label=label,
        required=required,
        max_length=NAME_LENGTH_MAX,
        strip=False,
        widget=widget,
        help_text=help_text,
    )


def _tokens(label: str, help_text: str) -> forms.IntegerField:
    widget = forms.NumberInput(attrs={"class": "tv-input"})
    return forms.IntegerField(
        label=label, required=False, min_value=0, max_value=TOKENS_MAX, widget=widget, help_text=help_text
    )


class CallerForm(forms.Form):
    user_id = _text("User", required=True)
    model = _text("Model", required=True)
    feature = _text("Feature", help_text="Empty: the call belongs to none.")
    plan = _text("Plan", help_text="A plan that is stored for the user goes before it.")
    input_tokens = _tokens("Input tokens", "Empty: 0.")
    max_output_tokens = _tokens("Output tokens at most", "Empty: the call names no cap.")
    run_id = _text("Run")
    name = forms.CharField(
        label="Name",
        required=False,
        max_length=TITLE_LENGTH_MAX,
        widget=forms.TextInput(attrs={"class": "tv-input"}),
        help_text="Such as: Free user asks for gpt-5.",
    )

    def caller(self, environment: Environment) -> NamedCaller:
        given = self.cleaned_data
        return NamedCaller(
            environment=environment,
            **{**given, "input_tokens": given["input_tokens"] or 0, "name": given.get("name") or "This call"},
        )


@dataclass(frozen=True, slots=True)
class Column:
    environment: Environment
    key: str
    title: str
    # That it sells.
    plans: frozenset[str]
    # Tried in the place of those in force.
    policies: tuple[StoredPolicy, ...] | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    caller: NamedCaller
    title: str
    # None: it cannot be asked now.
    answer: Explanation | None
    url: str
    opened: bool
    # How it differs from what is in force; empty: not at all.
    differs: str = ""
    # The plan that was used, where the caller alone does not tell.
    plan: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    caller: NamedCaller
    cells: tuple[Cell, ...]

    @property
    def says(self) -> str:
        caller = self.caller
        tokens = f"{wording.count(caller.input_tokens)} tokens in" if caller.input_tokens else ""
        said = (caller.plan or "plan as stored", caller.feature, caller.model, tokens)
        return " · ".join([caller.user_id, *(text for text in said if text)])


@page("try_it", "try-it/")
def show(request: HttpRequest) -> HttpResponse:
    shown = environments.shown(request)
    if shown is None:
        raise PermissionDenied
    if request.method == "POST":
        return _changed(request, shown)
    typed = "user_id" in request.GET
    form = CallerForm(request.GET if typed else None)
    return _page(request, shown, form, typed=typed)


def _page(request: HttpRequest, shown: Environment, form: CallerForm, *, typed: bool) -> HttpResponse:
    callers = list(shown.named_callers.all()[: try_it.CALLERS_MAX])
    # What is wrong with the name to keep it under does not stand against asking.
    asked = typed and not form.errors.keys() - {"name"}
    if asked:
        callers = [form.caller(shown), *callers]
    offered = list(shown.drafts.filter(published_at=None)[: drafts.DRAFTS_MAX])
    draft = next((each for each in offered if str(each.pk) == request.GET.get("draft")), None)
    columns = _columns(shown, draft)
    rows = [_row(request, caller, columns) for caller in callers]
    opened = next((cell for row in rows for cell in row.cells if cell.opened and cell.answer), None)
    return rendered(
        request,
        "console/policies/try_it.html",
        "Try it",
        form=form,
        typed=asked,
        drafts=offered,
        draft=draft,
        differing=sum(bool(cell.differs) for row in rows for cell in row.cells),
        columns=columns,
        rows=rows,
        opened=opened,
        close_url=_url(request),
        asked_at=timezone.now(),
        may_change=finding.may_change(request, shown.tenant_id),
    )


def _columns(shown: Environment, draft: Draft | None) -> list[Column]:
    """The one that is shown stands first; beside it what it is compared with."""
    found = shown.tenant.environments.exclude(pk=shown.pk).select_related("tenant")[: ENVIRONMENTS_MAX - 1]
    others = sorted(found, key=lambda each: _ORDER.index(each.slug) if each.slug in _ORDER else len(_ORDER))
    live, *rest = [Column(each, each.slug, f"{each.slug}, live", _plans(each)) for each in (shown, *others)]
    if draft is None:
        return [live, *rest]
    policies = tuple(drafts.stored(draft))
    drafted = Column(shown, DRAFT, f"{shown.slug} with the draft", _plans(shown), policies)
    return [live, drafted, *rest]


def _plans(environment: Environment) -> frozenset[str]:
    return frozenset(environment.plans.values_list("name", flat=True))


def _plan(caller: NamedCaller, answer: Explanation, sold: frozenset[str]) -> str:
    if answer.plan_stored and answer.plan != caller.plan:
        return f"as {answer.plan}, the plan stored for the user"
    if answer.plan and answer.plan not in sold:
        return f"as {answer.plan}, a plan that is not stored here"
    return ""


def _row(request: HttpRequest, caller: NamedCaller, columns: list[Column]) -> Row:
    live = {column.environment.pk: _asked(column.environment, caller) for column in columns}
    return Row(
        caller, tuple(_cell(request, caller, column, live[column.environment.pk]) for column in columns)
    )


def _cell(request: HttpRequest, caller: NamedCaller, column: Column, live: Evaluated | None) -> Cell:
    key = str(caller.pk or TYPED)
    opened = (request.GET.get("caller"), request.GET.get("in")) == (key, column.key)
    url = _url(request, **{"caller": key, "in": column.key}) + "#trace"
    evaluated, policies = live, column.policies
    if live is not None and policies is not None:
        evaluated = _supposed(live, caller, policies)
    if evaluated is None:
        return Cell(caller, column.title, None, url, opened)
    if opened and policies is None:
        # Why the other policies do not match is read only for the one that is opened.
        policies = tuple(try_it.policies_of(column.environment))
    not_counted = () if live is None else try_it.uncounted(live, evaluated)
    answer = explaining.explain(evaluated, policies or (), not_counted)
    return Cell(
        caller,
        column.title,
        answer,
        url,
        opened,
        differs="" if live is None else _difference(live, evaluated),
        plan=_plan(caller, answer, column.plans),
    )


def _difference(live: Evaluated, supposed: Evaluated) -> str:
    before, after = live.decision.verdict, supposed.decision.verdict
    if before.allowed != after.allowed:
        return "newly allowed" if after.allowed else "newly blocked"
    return "" if before.reason_code == after.reason_code else "for another reason"


def _asked(environment: Environment, caller: NamedCaller) -> Evaluated | None:
    try:
        return try_it.ask(environment, caller)
    except _CANNOT_BE_ASKED:
        return None


def _supposed(live: Evaluated, caller: NamedCaller, policies: tuple[StoredPolicy, ...]) -> Evaluated | None:
    try:
        return try_it.suppose(live, caller, policies)
    except _CANNOT_BE_ASKED:
        return None


def _url(request: HttpRequest, **opened: str) -> str:
    """This page with the call that was typed, and another cell opened."""
    kept = {name: text for name, text in request.GET.items() if name not in ("caller", "in")}
    query = urlencode(kept | opened)
    return f"{reverse('admin:try_it')}?{query}" if query else reverse("admin:try_it")


def _compared_as_before(request: HttpRequest) -> str:
    """This page without the call that was typed, and with the draft that was chosen."""
    draft = request.GET.get("draft")
    return reverse("admin:try_it", query={"draft": draft} if draft else None)


def _changed(request: HttpRequest, shown: Environment) -> HttpResponse:
    finding.require_change(request, shown.tenant_id)
    dropped = request.POST.get("drop")
    if dropped is not None:
        return _dropped(request, dropped)
    form = CallerForm(request.POST)
    if form.is_valid() and not form.cleaned_data["name"].strip():
        form.add_error("name", "Give it a name to find it again.")
    if form.is_valid():
        try:
            kept = try_it.keep(form.caller(shown), actor=actor_of(request))
        except PolicyFileError as error:
            form.add_error("name", error.errors[0].message)
        else:
            messages.success(request, f"{kept.name} is kept.")
            return redirect(_compared_as_before(request))
    return _page(request, shown, form, typed=True)


def _dropped(request: HttpRequest, caller_id: str) -> HttpResponse:
    callers: Any = NamedCaller.objects.filter(environment__in=environments.visible(request))
    pk = int(caller_id) if caller_id.isdecimal() and len(caller_id) < 18 else 0
    caller = get_object_or_404(callers.select_related("environment__tenant"), pk=pk)
    finding.require_change(request, caller.environment.tenant_id)
    try_it.drop(caller, actor=actor_of(request))
    messages.success(request, f"{caller.name} is no longer kept.")
    return redirect(_compared_as_before(request))
