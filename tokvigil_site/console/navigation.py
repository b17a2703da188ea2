"""The navigation, by what people come to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.urls import reverse

from tenants.console import pages as console_pages
from usage.analytics.shown_period import PARAMETERS, Named


@dataclass(frozen=True, slots=True)
class Page:
    """A page that the navigation leads to: the list of a model such as `policies.policy`, or one of its own by name.

    `also`: models whose pages belong to it; its own list leads to them.
    """

    title: str
    icon: str
    leads_to: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    title: str
    icon: str
    url: str
    current: bool


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    links: tuple[Link, ...]


# Icons are names of Material Symbols, which django-unfold ships.
GROUPS: tuple[tuple[str, tuple[Page, ...]], ...] = (
    (
        "Govern",
        (
            Page("Policies", "shield", "policies.policy"),
            Page("Drafts", "edit_note", "policy_drafts"),
            Page("Try it", "play_arrow", "try_it"),
            Page("Replay", "history_toggle_off", "policy_replays"),
            Page("Plans", "sell", "policies.plan"),
            Page("End users", "group", "policies.enduser"),
            Page("Boosts", "arrow_upward", "policies.boost"),
            Page("Frozen", "ac_unit", "freeze"),
            Page("Prices", "paid", "usage.modelprice"),
            Page("Deployments", "dns", "policies.deployment"),
        ),
    ),
    (
        "Observe",
        (
            Page("Limits", "speed", "limits"),
            Page("Blocked calls", "block", "policies.blockeddecision"),
            Page("Block trends", "leaderboard", "blocked"),
            Page("Explorer", "bar_chart", "explorer"),
            Page("Usage", "receipt_long", "usage.usageevent"),
            Page("Budgets", "account_balance_wallet", "budgets"),
            Page("Month report", "request_quote", "month_report"),
            Page("Health", "monitor_heart", "health"),
            Page(
                "Alerts",
                "notifications",
                "policies.alert",
                also=("policies.alertrule", "policies.alertendpoint"),
            ),
        ),
    ),
    (
        "Access",
        (
            Page("Tenants", "domain", "tenants.tenant"),
            Page("Environments", "dns", "tenants.environment"),
            Page("API keys", "key", "tenants.apikey"),
            Page("Members", "badge", "tenants.membership"),
            Page("Sign-ins", "person", "auth.user"),
        ),
    ),
    ("Audit", (Page("Audit log", "history", "audit.entry"),)),
)


# Pages of usage over a period, which goes along from one of them to the next.
_OF_A_PERIOD = ("index", "explorer", "blocked", "budgets", "health", "usage_usageevent_changelist")
_PERIODS = {each.value for each in Named}


def navigation(site: AdminSite, request: HttpRequest) -> tuple[Group, ...]:
    """What this person may open."""
    groups = (Group(title, tuple(_links(site, request, pages))) for title, pages in GROUPS)
    return tuple(group for group in (_overview(site, request), *groups) if group.links)


def current(groups: Iterable[Group]) -> Link | None:
    """The page that is open, or whose object is."""
    return next((link for group in groups for link in group.links if link.current), None)


def _overview(site: AdminSite, request: HttpRequest) -> Group:
    index = reverse(f"{site.name}:index")
    url = index + _period(site, request, "index")
    overview = Link("Overview", "dashboard", url, current=request.path == index)
    return Group("", (overview,) if console_pages.may_look(request) else ())


def _links(site: AdminSite, request: HttpRequest, pages: tuple[Page, ...]) -> Iterator[Link]:
    lists = {model._meta.label_lower: page for model, page in site._registry.items()}
    for page in pages:
        if "." in page.leads_to:
            may_view = lists[page.leads_to].has_view_permission(request)
            name = _list_of(page.leads_to)
        else:
            may_view = console_pages.declared()[page.leads_to].may_view(request)
            name = page.leads_to
        if may_view:
            url = reverse(f"{site.name}:{name}")
            inside = (url, *(reverse(f"{site.name}:{_list_of(model)}") for model in page.also))
            address = url + _period(site, request, name)
            yield Link(page.title, page.icon, address, current=request.path.startswith(inside))


def _period(site: AdminSite, request: HttpRequest, name: str) -> str:
    """The period of the page that is open, as the end of an address; empty where one of the two pages has none."""
    open_ones = {reverse(f"{site.name}:{each}") for each in _OF_A_PERIOD}
    if name not in _OF_A_PERIOD or request.path not in open_ones or request.GET.get("period") not in _PERIODS:
        return ""
    return "?" + urlencode({each: text for each in PARAMETERS if (text := request.GET.get(each))})


def _list_of(model: str) -> str:
    return f"{model.replace('.', '_')}_changelist"
