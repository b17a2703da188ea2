"""The search of the console: one field in the header, one page that says what it found and where it looked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from policies import blocked, search, seen
from policies.admin.boost_forms import give_url
from policies.describing import calls_in_flight
from policies.models import BlockedDecision, Plan, Policy
from policies.search import Blocks, Found, Kind, Known
from tenants import freezing
from tenants.console import environments
from tenants.console.access import may
from tenants.console.display import time_of_day, user_url
from tenants.console.pages import page, rendered
from tenants.lengths import NAME_LENGTH_MAX
from tenants.models import ApiKey, Environment
from tenants.roles import May
from usage.amounts import Per
from usage.counting.in_flight import CallInFlight
from usage.ledger.models import UsageEvent
from usage.money import format_usd, format_usd_if_known

# What the list of decisions calls its filter.
_DECISIONS_BY = {Kind.USER: "user", Kind.FEATURE: "feature", Kind.MODEL: "model"}


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Row:
    """`url` is of the page of what was found, if it has one; `more` leads to lists of its calls."""

    title: str
    url: str | None = None
    note: str = ""
    at: datetime | None = None
    more: tuple[Link, ...] = ()
    is_frozen: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    environment: Environment
    kinds: str
    url: str


class SearchForm(forms.Form):
    q = forms.CharField(
        label="Id or name",
        max_length=NAME_LENGTH_MAX,
        strip=False,
        error_messages={"max_length": f"No id or name is longer than {NAME_LENGTH_MAX} characters."},
        widget=forms.TextInput(attrs={"type": "search", "class": "tv-input"}),
    )


@page("search", "search/")
def search_page(request: HttpRequest) -> HttpResponse:
    environment, typed = environments.shown(request), request.GET.get("q", "")
    form = SearchForm(request.GET if typed.strip() else None)
    found, groups, others, alike, any_user = None, [], [], [], ""
    if environment is not None and form.is_valid():
        found = search.find(environment, typed)
        groups = _groups(request, environment, found)
        if found.is_empty:
            others = _elsewhere(request, environment, typed)
            alike = [_again(environment, name) for name in seen.alike(environment, found.text)]
        any_user = user_url(environment, found.text)
    return rendered(
        request,
        "console/search.html",
        "Search",
        form=form,
        found=found,
        groups=groups,
        any_user=any_user,
        elsewhere=others,
        alike=alike,
    )


def _again(environment: Environment, text: str) -> Link:
    """To what another text finds."""
    query = urlencode({"q": text, environments.PARAMETER: str(environment)})
    return Link(text, f"{reverse('admin:search')}?{query}")


def _elsewhere(request: HttpRequest, shown: Environment, text: str) -> list[Elsewhere]:
    others = [each for each in environments.offered(request) if each != shown]
    return [_other(known, text) for known in search.elsewhere(others, text)]


def _other(known: Known, text: str) -> Elsewhere:
    return Elsewhere(known.environment, ", ".join(known.kinds), _again(known.environment, text).url)


def _groups(request: HttpRequest, environment: Environment, found: Found) -> list[Group]:
    allowed = {what for what in May if may(request, what, environment.tenant_id)}
    groups = [
        Group("User", _user(environment, found, allowed) if found.is_user else []),
        Group("Calls in flight", [_in_flight(environment, each) for each in found.request_in_flight]),
        Group("Blocked calls", _decisions(environment, found)),
        Group("Recorded calls", [_event(each) for each in found.events]),
        Group("API keys", [_key(each) for each in found.keys]),
        Group("Policies", [_policy(each, allowed) for each in found.policies]),
        Group("Plans", [_plan(each, allowed) for each in found.plans]),
        Group("Feature", [_feature(environment, found, allowed)] if found.is_feature else []),
        Group("Model", [_model(environment, found)] if found.is_model else []),
    ]
    return [group for group in groups if group.rows]


def _user(environment: Environment, found: Found, allowed: set[May]) -> list[Row]:
    """With each reason for which calls were blocked, which is what people look for."""
    usage = _list("usage_usageevent", environment, q=found.text)
    more = [*_decisions_by(Kind.USER, environment, found), Link("Recorded calls", usage)]
    if May.EDIT_POLICIES in allowed:
        more.append(Link("Give a boost…", give_url(environment, Per.USER, found.text)))
    note = calls_in_flight.says(found.in_flight, ZoneInfo(environment.tenant.timezone))
    rows = [Row(found.text, user_url(environment, found.text), note, more=tuple(more))]
    return rows + [_blocks(environment, found.text, each) for each in found.blocks]


def _blocks(environment: Environment, user_id: str, blocks: Blocks) -> Row:
    latest = _decision(environment, blocks.latest)
    count = f"{blocks.count} or more" if blocks.or_more else str(blocks.count)
    if count == "1":
        return replace(latest, note="the only call of theirs blocked for this reason")
    url = _list("policies_blockeddecision", environment, user=user_id, reason=blocks.latest.reason_code)
    note = f"the latest of {count} calls of theirs blocked for this reason"
    return replace(latest, note=note, more=(Link(f"All {count}", url),))


def _in_flight(environment: Environment, call: CallInFlight) -> Row:
    """It leads to its user, whose page names it too."""
    evaluated = call.evaluated
    title = f"{evaluated.user_id} called {evaluated.model}: in flight, holds {calls_in_flight.holds(call)}"
    note = format_html("{} · until {}", evaluated.request_id, time_of_day(call.until))
    return Row(title, user_url(environment, evaluated.user_id), note, at=call.at)


def _decisions(environment: Environment, found: Found) -> list[Row]:
    return [_decision(environment, each) for each in found.decisions]


def _decision(environment: Environment, decision: BlockedDecision) -> Row:
    zone, now = ZoneInfo(environment.tenant.timezone), timezone.now()
    return Row(
        blocked.explain(decision, zone, now).headline,
        _page_of("policies_blockeddecision", decision.pk),
        decision.request_id,
        at=decision.decided_at,
    )


def _event(event: UsageEvent) -> Row:
    cost = format_usd_if_known(event.cost_nano)
    costs = "without a price" if cost is None else f"${cost}"
    title = f"{event.user_id} called {event.model}: {event.status}, {costs}"
    return Row(title, _page_of("usage_usageevent", event.pk), event.request_id, at=event.charged_at)


def _key(key: ApiKey) -> Row:
    note = f"{key.mark}_{key.key_id}" + (", revoked" if key.revoked_at else "")
    return Row(key.name, _page_of("tenants_apikey", key.pk), note)


def _policy(policy: Policy, allowed: set[May]) -> Row:
    note = f"archived at version {policy.version}" if policy.archived_at else f"version {policy.version}"
    more = [Link("Versions", reverse("admin:policy_versions", args=[policy.pk]))]
    more += _changes("policies_policy", policy.pk, allowed)
    return Row(policy.name, _page_of("policies_policy", policy.pk), note, more=tuple(more))


def _plan(plan: Plan, allowed: set[May]) -> Row:
    more = tuple(_changes("policies_plan", plan.pk, allowed))
    return Row(plan.name, _page_of("policies_plan", plan.pk), more=more)


def _changes(name: str, row_id: object, allowed: set[May]) -> list[Link]:
    if May.SEE_AUDIT not in allowed:
        return []
    return [Link("Who changed it", reverse(f"admin:{name}_history", args=[row_id]))]


def _feature(environment: Environment, found: Found, allowed: set[May]) -> Row:
    more = [*_decisions_by(Kind.FEATURE, environment, found)]
    frozen = next((each for each in freezing.in_force(environment) if each.feature == found.text), None)
    query = urlencode({environments.PARAMETER: str(environment), "feature": found.text})
    more.append(Link("What it cost", f"{reverse('admin:explorer')}?{query}"))
    is_frozen, note = frozen is not None, "" if frozen is None else frozen.reason
    if May.FREEZE in allowed:
        said, name = ("Unfreeze…", "unfreeze") if is_frozen else ("Freeze…", "freeze")
        more.append(Link(said, f"{reverse(f'admin:{name}')}?{query}"))
    return Row(found.text, note=note, more=tuple(more), is_frozen=is_frozen)


def _model(environment: Environment, found: Found) -> Row:
    more = _decisions_by(Kind.MODEL, environment, found)
    price = found.price
    if price is None:
        return Row(found.text, note="has no price", more=more)
    costs = f"{_rate(price.rates.input)} in, {_rate(price.rates.output)} out per million tokens"
    url = _page_of("usage_modelprice", price.price_id)
    return Row(found.text, url, f"{price.provider}/{price.model}: {costs}", more=more)


def _rate(nano: int | None) -> str:
    return "no price" if nano is None else f"${format_usd(nano)}"


def _decisions_by(kind: Kind, environment: Environment, found: Found) -> tuple[Link, ...]:
    """To the list of the blocked calls, if there are any."""
    if kind not in found.known.blocked:
        return ()
    url = _list("policies_blockeddecision", environment, **{_DECISIONS_BY[kind]: found.text})
    return (Link("Blocked calls", url),)


def _list(name: str, environment: Environment, **filters: str) -> str:
    query = urlencode({environments.PARAMETER: str(environment), **filters})
    return f"{reverse(f'admin:{name}_changelist')}?{query}"


def _page_of(name: str, row_id: object) -> str:
    return reverse(f"admin:{name}_change", args=[row_id])
